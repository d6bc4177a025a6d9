// Tensors of files of other programs as rows of plimsoll's parameters: one table, read for export and for import.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "train/trained_model.h"

namespace plimsoll {

// Some rows of a parameter (out, in); of a vector its elements.
struct RowBlock {
    std::string parameter;  // empty: rows of which every element is `fill`
    int64_t first = 0;
    int64_t count = 0;
    int64_t stride = 1;  // from one row to the next
    float fill = 0;
};

// A tensor of the file: the blocks' rows one after the other.
struct MappedTensor {
    std::string name;
    std::vector<int64_t> shape;  // outermost first, as the file has it
    std::vector<RowBlock> rows;
    bool transposed = false;  // the file has (in, out)

    int64_t elements() const;
};

// A tensor of the file in fp32, row-major.
std::vector<float> gather(const TrainedModel& model, const MappedTensor& tensor);
// The other way round. Rows of `fill` must hold that: throws Error (78), naming `file`, for anything else.
void scatter(std::span<const float> values, const MappedTensor& tensor, const TrainedModel& model,
             const std::string& file);

// What both families of files name: shapes and blocks of a network's parameters.
class NetworkRows {
  public:
    explicit NetworkRows(const NetworkConfig& config) : config_(config), model_(config.model) {}

    // All rows of a parameter.
    MappedTensor whole(const std::string& name, const std::string& parameter) const;
    // Rows of several blocks; `columns` = 0: a vector.
    static MappedTensor of(const std::string& name, std::vector<RowBlock> rows, int64_t columns);
    static MappedTensor filled(const std::string& name, std::vector<int64_t> shape, float fill);

    // Rows of the fused projection of a layer; `suffix` "weight" or "bias".
    RowBlock queries(int64_t layer, const std::string& suffix) const;
    RowBlock keys(int64_t layer, const std::string& suffix) const;
    RowBlock values(int64_t layer, const std::string& suffix) const;
    // The halves of SwiGLU's first product.
    RowBlock gate_half(int64_t layer, const std::string& suffix) const;
    RowBlock up_half(int64_t layer, const std::string& suffix) const;

    // The same rows in the order of RoPE pairs (2i, 2i+1) instead of (i, i + HS/2), per head.
    std::vector<RowBlock> as_pairs(const RowBlock& block) const;
    // Queries and gates of `group` heads in turn: [group * HS queries | gates of the group], for every group.
    std::vector<RowBlock> queries_and_gates(int64_t layer, int64_t group) const;

    const NetworkConfig& config() const { return config_; }
    int64_t C() const { return model_.channels; }
    int64_t query_rows() const { return model_.heads * model_.head_channels(); }
    int64_t key_rows() const { return model_.key_heads() * model_.head_channels(); }
    static std::string in_layer(int64_t layer, const std::string& name) {
        return fmt::format("blocks.{}.{}", layer, name);
    }

  private:
    const NetworkConfig& config_;
    const ModelConfig& model_;
};

}  // namespace plimsoll
