#include "train/export/tensor_map.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// Calls f(index in the file, index in the parameter, the parameter's tensor) for every element of a block, in the
// file's order of rows; `row` is the first of the block, of `rows` in the tensor.
template <class F>
void each_element(const MappedTensor& tensor, const RowBlock& block, int64_t row, int64_t rows, int64_t columns,
                  F&& f) {
    for (int64_t r = 0; r < block.count; ++r)
        for (int64_t c = 0; c < columns; ++c) {
            const int64_t in_file = tensor.transposed ? c * rows + row + r : (row + r) * columns + c;
            f(static_cast<size_t>(in_file), (block.first + r * block.stride) * columns + c);
        }
}

// Calls f(block, its parameter, first row) for every block, and checks that they are the tensor.
template <class F>
void each_block(const TrainedModel& model, const MappedTensor& tensor, F&& f) {
    int64_t rows = 0;
    for (const RowBlock& block : tensor.rows) rows += block.count;
    check(rows > 0 && tensor.elements() % rows == 0, "'{}': {} rows of {} elements", tensor.name, rows,
          tensor.elements());
    const int64_t columns = tensor.elements() / rows;
    int64_t row = 0;
    for (const RowBlock& block : tensor.rows) {
        Tensor parameter;
        if (!block.parameter.empty()) {
            parameter = model.parameter(block.parameter);
            check(static_cast<bool>(parameter), "'{}' is to be made of '{}', which does not exist", tensor.name,
                  block.parameter);
            check(parameter.row_elements() == columns &&
                      block.first + (block.count - 1) * block.stride < parameter.rows(),
                  "'{}' is to be rows {} + {} x {} of '{}' {}", tensor.name, block.first, block.count, block.stride,
                  block.parameter, parameter.shape);
        }
        f(block, parameter, row, rows, columns);
        row += block.count;
    }
}

}  // namespace

int64_t MappedTensor::elements() const {
    int64_t product = 1;
    for (const int64_t size : shape) product *= size;
    return product;
}

std::vector<float> gather(const TrainedModel& model, const MappedTensor& tensor) {
    std::vector<float> out(static_cast<size_t>(tensor.elements()));
    each_block(model, tensor, [&](const RowBlock& block, Tensor parameter, int64_t row, int64_t rows, int64_t columns) {
        const auto fill_from = [&](auto&& value) {
            each_element(tensor, block, row, rows, columns, [&](size_t to, int64_t from) { out[to] = value(from); });
        };
        if (!parameter)
            fill_from([&](int64_t) { return block.fill; });
        else if (parameter.dtype == DType::kF64)
            fill_from([p = parameter.ptr<double>()](int64_t i) { return static_cast<float>(p[i]); });
        else
            fill_from([p = parameter.ptr<float>()](int64_t i) { return p[i]; });
    });
    return out;
}

void scatter(std::span<const float> values, const MappedTensor& tensor, const TrainedModel& model,
             const std::string& file) {
    check(static_cast<int64_t>(values.size()) == tensor.elements(), "{} values for '{}'", values.size(), tensor.name);
    each_block(model, tensor, [&](const RowBlock& block, Tensor parameter, int64_t row, int64_t rows, int64_t columns) {
        float* const to = parameter ? parameter.ptr<float>() : nullptr;
        each_element(tensor, block, row, rows, columns, [&](size_t from, int64_t index) {
            if (to)
                to[index] = values[from];
            else if (values[from] != block.fill)
                fail_input("{}: tensor '{}' holds {} where only {} can be used", file, tensor.name, values[from],
                           block.fill);
        });
    });
}

MappedTensor NetworkRows::whole(const std::string& name, const std::string& parameter) const {
    const ParameterTable table(config_, StageRange::whole(model_));
    const int index = table.find(parameter);
    check(index >= 0, "no parameter '{}'", parameter);
    const Shape& shape = table.entries()[static_cast<size_t>(index)].shape;
    return of(name, {{.parameter = parameter, .first = 0, .count = shape[0]}}, shape.rank() == 2 ? shape[1] : 0);
}

MappedTensor NetworkRows::of(const std::string& name, std::vector<RowBlock> rows, int64_t columns) {
    int64_t count = 0;
    for (const RowBlock& block : rows) count += block.count;
    std::vector<int64_t> shape{count};
    if (columns > 0) shape.push_back(columns);
    return {.name = name, .shape = std::move(shape), .rows = std::move(rows)};
}

MappedTensor NetworkRows::filled(const std::string& name, std::vector<int64_t> shape, float fill) {
    const int64_t rows = shape[0];
    return {.name = name, .shape = std::move(shape), .rows = {{.parameter = "", .count = rows, .fill = fill}}};
}

RowBlock NetworkRows::queries(int64_t layer, const std::string& suffix) const {
    return {.parameter = in_layer(layer, "attn.qkv." + suffix), .first = 0, .count = query_rows()};
}

RowBlock NetworkRows::keys(int64_t layer, const std::string& suffix) const {
    return {.parameter = in_layer(layer, "attn.qkv." + suffix), .first = query_rows(), .count = key_rows()};
}

RowBlock NetworkRows::values(int64_t layer, const std::string& suffix) const {
    return {
        .parameter = in_layer(layer, "attn.qkv." + suffix), .first = query_rows() + key_rows(), .count = key_rows()};
}

RowBlock NetworkRows::gate_half(int64_t layer, const std::string& suffix) const {
    return {.parameter = in_layer(layer, "mlp.up." + suffix), .first = 0, .count = model_.hidden()};
}

RowBlock NetworkRows::up_half(int64_t layer, const std::string& suffix) const {
    return {.parameter = in_layer(layer, "mlp.up." + suffix), .first = model_.hidden(), .count = model_.hidden()};
}

std::vector<RowBlock> NetworkRows::as_pairs(const RowBlock& block) const {
    const int64_t HS = model_.head_channels();
    std::vector<RowBlock> rows;
    for (int64_t head = 0; head < block.count / HS; ++head)
        for (int64_t i = 0; i < HS / 2; ++i)
            rows.push_back(
                {.parameter = block.parameter, .first = block.first + head * HS + i, .count = 2, .stride = HS / 2});
    return rows;
}

std::vector<RowBlock> NetworkRows::queries_and_gates(int64_t layer, int64_t group) const {
    const int64_t HS = model_.head_channels(),
                  gates = config_.attention.gate_at(layer) == "headwise" ? group : group * HS;
    std::vector<RowBlock> rows;
    for (int64_t g = 0; g < model_.heads / group; ++g) {
        rows.push_back({.parameter = in_layer(layer, "attn.qkv.weight"), .first = g * group * HS, .count = group * HS});
        rows.push_back({.parameter = in_layer(layer, "attn.gate.weight"), .first = g * gates, .count = gates});
    }
    return rows;
}

}  // namespace plimsoll
