// One sequence, token by token: a network's forward on a cache of the tokens before.
#pragma once

#include "model/block.h"
#include "model/kv_cache.h"
#include "model/lm_head.h"

namespace plimsoll {

// A whole network's parameters in host memory, wherever they live; they must outlive who reads them.
struct NetworkWeights {
    const ParameterTable& table;
    Tensor parameters;  // flat, in precision.stream()
    Tensor working;     // flat, in precision.compute; empty if that is the stream's
    Precision precision;
};

struct DecoderOptions {
    CacheOptions cache;
    int64_t chunk = 64;  // most tokens forwarded together
};

// Logits and losses of one growing sequence, equal to those of the whole sequence's forward but for rounding. On the
// CPU only. append() and logits() of one token allocate nothing.
class Decoder {
  public:
    // `network` may differ from the one trained in what is no parameter: model.context (n of the sigmoid's bias
    // -log n), attention.window. Throws Error (78) for a stream of learned positions, whose keys cannot move, or under
    // a pattern or a prefix, and for more tokens than there are learned positions.
    Decoder(const NetworkConfig& network, const NetworkWeights& weights, const DecoderOptions& options,
            const Exec& exec);

    // Forwards tokens behind those before. Throws Error for more than fit: room(); Error (78) for a prefix-LM's first
    // tokens if they are fewer than its prefix, which sees itself to its end.
    void append(std::span<const int32_t> tokens);
    // The same; nll (one per token, nats) = -log p(target), 0 for target -1 and for targets that stand in the prefix.
    void score(std::span<const int32_t> tokens, std::span<const int32_t> targets, std::span<double> nll);
    // (1, V) in the stream's dtype, placeholders' ids included: of the token behind the last one. Until the next call.
    Tensor logits();

    int64_t length() const { return cache_.length(); }
    int64_t room() const;
    // Forgets all tokens but the first; the logits are undefined until more are appended. A stream can only be emptied.
    void truncate(int64_t length) { cache_.truncate(length); }
    int64_t cache_bytes() const { return cache_.bytes(); }

  private:
    void check_fits(int64_t tokens) const;
    void forward(std::span<const int32_t> tokens);
    Tensor get(const char* name, Tensor buffer) const { return weights_.table.view(buffer, weights_.table.find(name)); }

    NetworkConfig network_;
    NetworkWeights weights_;
    DecoderOptions options_;
    Exec exec_;
    CachedAttention cache_;
    ArenaPlan activation_plan_{"activations"}, scratch_plan_{"scratch"};
    ActivationPlan block_plan_;
    BlockScratchPlan block_scratch_plan_;
    LmHead head_;
    ArenaSlot out_slot_, sums_slot_, last_norm_slot_, last_mean_slot_, last_rstd_slot_, logits_slot_, vectors_slot_;
    Arena activations_, scratch_;
    std::vector<LayerParts> parts_;  // [layer]
    std::vector<BlockTensors> blocks_;
    std::vector<int32_t> positions_;
    int64_t last_ = 0;  // tokens of the last forward
};

}  // namespace plimsoll
