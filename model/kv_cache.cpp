#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "kernels/attention_tasks.h"
#include "kernels/rope.h"

namespace plimsoll {
namespace {

// Of a stream: the tokens kept, and those of one call before the first of its queries has seen what it needs.
int64_t rows_of(const CacheOptions& options) {
    check(options.tokens > 0, "a cache for {} tokens", options.tokens);
    if (!options.streaming) return options.tokens;
    const StreamingCache& cache = *options.streaming;
    check(cache.start >= 0 && cache.recent > 0, "a cache of {} first and {} recent tokens", cache.start, cache.recent);
    return cache.size() + options.tokens;
}

}  // namespace

CachedAttention::CachedAttention(const NetworkConfig& network, DType dtype, const CacheOptions& options)
    : options_(options), rows_(rows_of(options)) {
    const ModelConfig& model = network.model;
    ArenaPlan plan("key-value cache");
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        const auto [NH, NKV, HS, VS] = network.attention.core_sizes(model);
        keys_.push_back(plan.add(fmt::format("keys {}", layer), {rows_, NKV, HS}, dtype));
        values_.push_back(plan.add(fmt::format("values {}", layer), {rows_, NKV, VS}, dtype));
        if (network.attention.key_bias != "none")
            key_biases_.push_back(
                plan.add(fmt::format("key biases {}", layer), {rows_, model.heads}, accumulator_of(dtype)));
    }
    arena_ = Arena(plan);
}

void CachedAttention::truncate(int64_t length) {
    check(length >= 0 && length <= length_ && (length == 0 || !options_.streaming),
          "{} of {} cached tokens cannot stay", length, length_);
    length_ = length;
}

int64_t CachedAttention::row_of(int64_t token) const {
    if (!options_.streaming || token < options_.streaming->start) return token;
    const int64_t start = options_.streaming->start;
    return start + (token - start) % (rows_ - start);
}

// What a token sees: of a stream the start, then those before it in the ring, which may begin at the ring's end.
CachedQuery CachedAttention::query(int64_t token) const {
    if (!options_.streaming) return {.position = token, .runs = {{{0, 0, token + 1}}}};
    const StreamingCache& cache = *options_.streaming;
    CachedQuery result{.position = std::min(token, cache.size())};
    result.runs[0].count = std::min(cache.start, token + 1);
    const int64_t oldest = std::max(cache.start, token - cache.recent), count = token + 1 - oldest;
    if (count <= 0) return result;
    const int64_t row = row_of(oldest), position = result.position - (token - oldest);
    const int64_t to_end = std::min(count, rows_ - row);
    result.runs[1] = {row, position, to_end};
    if (to_end < count) result.runs[2] = {cache.start, position + to_end, count - to_end};
    return result;
}

// Rows of `from` to where the new tokens belong.
void CachedAttention::keep(Tensor to, Tensor from) const {
    const auto row_bytes = static_cast<size_t>(from.row_elements() * size_of(from.dtype));
    for (int64_t i = 0; i < from.rows(); ++i)
        std::memcpy(to.slice_rows(row_of(length_ + i), 1).data, from.slice_rows(i, 1).data, row_bytes);
}

void CachedAttention::compute_forward(const AttentionCall& call, const Exec& exec) {
    const int64_t n = call.t.q.rows(), end = length_ + n;
    const auto layer = static_cast<size_t>(call.layer);
    check(n <= room(), "{} tokens for a cache with room for {}", n, room());
    check(call.cu_seqlens.size() == 2, "a cache holds one document, got {}", call.cu_seqlens.size() - 1);
    const Tensor keys = arena_[keys_[layer]], values = arena_[values_[layer]];
    keep(keys, call.t.k);
    keep(values, call.t.v);
    AttentionTensors t = call.t;
    t.k = keys, t.v = values;
    if (t.key_bias) t.key_bias = arena_[key_biases_[layer]], keep(t.key_bias, call.t.key_bias);
    AttentionSpec spec = call.spec;
    spec.scale *= options_.score_factor;
    if (options_.streaming || n == 1) {
        queries_.clear();
        for (int64_t i = 0; i < n; ++i) queries_.push_back(query(length_ + i));
    }
    if (options_.streaming) return attention_cached_forward(t, queries_, options_.frequencies, spec, exec);
    if (!options_.frequencies.empty()) {
        positions_.clear();
        for (int64_t i = 0; i < n; ++i) positions_.push_back(static_cast<int32_t>(length_ + i));
        rope_forward(t.q, positions_, options_.frequencies, exec);
        rope_forward(keys.slice_rows(length_, n), positions_, options_.frequencies, exec);
    }
    if (n == 1) return attention_cached_forward(t, queries_, {}, spec, exec);
    const KeyRange range{.end = end};
    const AttentionTask task{.count = n, .position = length_};
    t.gate = {};
    attention_tasks_forward(t, {{&range, 1}, {&task, 1}}, spec, exec);
    if (call.t.gate) head_gate_forward(t.out, call.t.gate, exec);
}

void CachedAttention::rotate_queries(Tensor queries, const Exec& exec) {
    if (!options_.streaming || options_.frequencies.empty()) return;
    positions_.clear();
    for (const CachedQuery& query : queries_) positions_.push_back(static_cast<int32_t>(query.position));
    rope_forward(queries, positions_, options_.frequencies, exec);
}

void CachedAttention::compute_backward(const AttentionCall& call, const Exec& /*exec*/) {
    check(false, "layer {}: a cache has no backward", call.layer);
}

}  // namespace plimsoll
