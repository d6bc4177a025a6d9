#include "train/logits.h"

#include <charconv>
#include <numeric>

#include "data/file.h"
#include "kernels/error.h"

namespace plimsoll {

std::vector<double> logits_of(TrainedModel& model, std::span<const int32_t> ids, DType precision, int threads) {
    const auto n = static_cast<int64_t>(ids.size());
    const NetworkConfig& network = model.network();
    if (ids.empty()) fail_input("no ids; wanted at least one");
    for (const int32_t id : ids)
        if (id < 0 || id >= network.total_vocab())
            fail_input("id {} is outside the vocabulary of {} ids, placeholders included", id, network.total_vocab());
    if (network.model.position == "learned" && n > network.model.context)
        fail_input("{} ids, but the model has learned {} positions", n, network.model.context);
    const Exec exec{.threads = threads};
    model.keep_logits(n);
    const auto transformer = model.transformer(n, {precision}, exec, {.recompute = Recompute::kBlock});
    std::vector<int32_t> positions(ids.size());
    std::iota(positions.begin(), positions.end(), 0);
    const std::vector<int32_t> targets(ids.size(), -1), documents{0, static_cast<int32_t>(n)};
    LocalCoreAttention core;
    transformer->evaluate(core, {ids, targets, positions, documents}, exec);
    const Tensor logits = transformer->logits(n, exec);
    if (logits.dtype == DType::kF64) {
        const std::span<double> values = logits.span<double>();
        return {values.begin(), values.end()};
    }
    const std::span<float> values = logits.span<float>();
    return {values.begin(), values.end()};
}

std::vector<int32_t> parse_ids(const std::string& text, const std::string& path) {
    constexpr std::string_view kBetween = " \t\r\n,[]";
    std::vector<int32_t> ids;
    for (size_t at = text.find_first_not_of(kBetween); at != std::string::npos;) {
        const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
        int32_t id = 0;
        const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, id);
        if (error != std::errc{} || stop != text.data() + end)
            fail_input("{}: '{}' is no id; wanted integers between blanks or commas", path,
                       brief(std::string_view(text).substr(at, end - at)));
        ids.push_back(id);
        at = text.find_first_not_of(kBetween, end);
    }
    return ids;
}

void write_npy(const std::string& path, std::span<const double> values, int64_t rows, int64_t columns, DType dtype) {
    check(static_cast<int64_t>(values.size()) == rows * columns, "{} values for {} x {}", values.size(), rows, columns);
    std::string header =
        fmt::format("{{'descr': '<f{}', 'fortran_order': False, 'shape': ({}, {}), }}", size_of(dtype), rows, columns);
    constexpr size_t kBefore = 10, kAlignment = 64;  // magic, version, length
    header.append((2 * kAlignment - (kBefore + header.size() + 1) % kAlignment) % kAlignment, ' ');
    header += '\n';
    std::string bytes("\x93NUMPY\x01\x00", 8);
    bytes += static_cast<char>(header.size() & 0xff);
    bytes += static_cast<char>(header.size() >> 8);
    bytes += header;
    for (const double value : values) {
        const auto narrow = static_cast<float>(value);
        if (dtype == DType::kF64)
            bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
        else
            bytes.append(reinterpret_cast<const char*>(&narrow), sizeof(narrow));
    }
    write_file_atomically(path, {bytes});
}

}  // namespace plimsoll
