// Keys and values of the tokens so far, as core attention: new tokens attend to them without computing them again.
#pragma once

#include <optional>
#include <vector>

#include "kernels/attention_cached.h"
#include "kernels/core_attention.h"
#include "model/activations.h"

namespace plimsoll {

// What a cache keeps of an endless stream: the first `start` tokens, and the `recent` ones before the current.
// Positions are places in the cache: key p of it has position p, the current token min(tokens before it, start +
// recent). So none exceeds start + recent, however long the stream.          StreamingLLM, Xiao et al.,
// arXiv:2309.17453
struct StreamingCache {
    int64_t start = 0;
    int64_t recent = 0;
    int64_t size() const { return start + recent; }
};

struct CacheOptions {
    int64_t tokens = 0;  // room for so many; of a stream: the most that are appended at once
    std::optional<StreamingCache> streaming = {};
    // RoPE's, if keys come without rotation: to be rotated here, by true positions or by places in the cache. Empty:
    // keys come rotated, or the network rotates nothing.
    std::vector<double> frequencies = {};
    double score_factor = 1;  // times the scale of scores (YaRN's temperature), but not of a part's virtual key

    // Whether a network with RoPE leaves keys and queries to be rotated here.
    bool rotates() const { return streaming || !frequencies.empty(); }
};

// The cache of one sequence. Every layer calls it once for the same new tokens, as the only document of the call; then
// advance() counts them. Without streaming a prompt's attention has the bits of the whole sequence's forward.
class CachedAttention final : public CoreAttention {
  public:
    // Allocates: see bytes(). Throws Error for sizes that are no cache.
    CachedAttention(const NetworkConfig& network, DType dtype, const CacheOptions& options);

    // Rotates (if it has frequencies) and keeps the call's keys and values; then attends from the call's queries, which
    // are rotated in place likewise, but for a stream's: see rotate_queries. On the CPU only.
    void compute_forward(const AttentionCall& call, const Exec& exec) override;
    void compute_backward(const AttentionCall& call, const Exec& exec) override;

    // Makes the queries of the last call what core attention read, for who reads them behind it: those of a stream with
    // frequencies are rotated in place, others are so already.
    void rotate_queries(Tensor queries, const Exec& exec);

    // The tokens of the last calls, of every layer, count from now on.
    void advance(int64_t tokens) { length_ += tokens; }
    // Forgets all tokens but the first `length`. A stream can only be emptied.
    void truncate(int64_t length);
    int64_t length() const { return length_; }
    // Tokens that can still be appended; of a stream, at once.
    int64_t room() const { return options_.streaming ? options_.tokens : options_.tokens - length_; }
    int64_t bytes() const { return arena_.plan().bytes(); }

  private:
    int64_t row_of(int64_t token) const;
    CachedQuery query(int64_t token) const;
    void keep(Tensor to, Tensor from) const;

    CacheOptions options_;
    int64_t rows_;
    Arena arena_;
    std::vector<ArenaSlot> keys_, values_, key_biases_;  // by layer; the last only where keys have biases
    int64_t length_ = 0;
    std::vector<CachedQuery> queries_;
    std::vector<int32_t> positions_;
};

}  // namespace plimsoll
