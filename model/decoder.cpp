#include "model/decoder.h"

#include <algorithm>

#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"

namespace plimsoll {
namespace {

const NetworkConfig& checked(const NetworkConfig& network, const DecoderOptions& options, const Exec& exec) {
    check(exec.device == Device::kCpu, "a decoder runs on the CPU only");
    check(options.chunk > 0, "a decoder of {} tokens at once", options.chunk);
    for (int64_t layer = 0; options.cache.streaming && layer < network.model.layers; ++layer) {
        const AttentionSpec spec = network.attention.spec(layer, network.model);
        if (spec.pattern != MaskPattern::kCausal)
            fail_input(
                "a stream moves keys to other places in the cache, but layer {} has attention.pattern \"{}\", which "
                "goes by true distances; wanted \"causal\"",
                layer, network.attention.pattern_name(layer));
        if (network.attention.qk_source_at(layer) == QkSource::kPosition)
            fail_input(
                "a stream moves keys to other positions, but keys of layer {} are those of a position "
                "(attention.qk_source = \"position\"); train with \"input\" or \"embedding\"",
                layer);
        if (spec.prefix > 0)
            fail_input(
                "a stream forgets its first tokens, but attention.prefix = {} makes of them what all others read; "
                "wanted 0",
                spec.prefix);
    }
    if (options.cache.rotates() && network.attention.feature_map == "elu1" && network.model.position == "rope")
        fail_input(
            "a stream, or other wavelengths of RoPE, rotate keys in the cache, where attention.feature_map = \"elu1\" "
            "has changed them after their rotation; train with feature_map = \"mlp\", or with another model.position");
    if (network.model.position != "learned") return network;
    if (options.cache.streaming)
        fail_input(
            "a stream moves keys to other positions, which model.position = \"learned\" cannot: its positions are "
            "added to tokens before the first layer; train with rope, alibi or none");
    if (options.cache.tokens > network.model.context)
        fail_input("{} tokens, but the model has learned positions for {}", options.cache.tokens,
                   network.model.context);
    return network;
}

// A prefix is forwarded at once: its first token sees the last.
DecoderOptions with_room_for_prefix(const NetworkConfig& network, DecoderOptions options) {
    options.chunk = std::max(options.chunk, network.attention.prefix);
    return options;
}

CacheOptions cache_options(const NetworkConfig& network, const DecoderOptions& options) {
    CacheOptions cache = options.cache;
    if (cache.streaming) cache.tokens = options.chunk;
    check(cache.frequencies.empty() || network.model.position == "rope", "frequencies for model.position = \"{}\"",
          network.model.position);
    return cache;
}

}  // namespace

Decoder::Decoder(const NetworkConfig& network, const NetworkWeights& weights, const DecoderOptions& options,
                 const Exec& exec)
    : network_(checked(network, options, exec)),
      weights_(weights),
      options_(with_room_for_prefix(network_, options)),
      exec_(exec),
      cache_(network_, weights.precision.compute, cache_options(network_, options_)),
      block_plan_(activation_plan_, scratch_plan_, network_, StageRange::whole(network_.model), options_.chunk,
                  weights.precision, Recompute::kBlock),
      block_scratch_plan_(activation_plan_, scratch_plan_, network_, StageRange::whole(network_.model), options_.chunk,
                          weights.precision, BackwardSplit::kNo),
      head_(activation_plan_, scratch_plan_, network_, options_.chunk, weights.precision) {
    const int64_t C = network_.model.channels;
    const DType compute = weights.precision.compute, stream = weights.precision.stream();
    out_slot_ = activation_plan_.add("x", {options_.chunk, C}, stream);
    sums_slot_ = activation_plan_.add("loss sums", {3}, DType::kF64);
    last_norm_slot_ = activation_plan_.add("last norm", {1, C}, compute);
    if (network_.model.norm == "layer") last_mean_slot_ = activation_plan_.add("last mean", {1}, stream);
    last_rstd_slot_ = activation_plan_.add("last rstd", {1}, stream);
    logits_slot_ = activation_plan_.add("logits", {1, network_.total_vocab()}, stream);
    if (reads_source(network_, StageRange::whole(network_.model), QkSource::kPosition))
        vectors_slot_ = activation_plan_.add("vectors of positions", {options_.cache.tokens, C}, stream);
    activations_ = Arena(activation_plan_);
    scratch_ = Arena(scratch_plan_);
    if (vectors_slot_) fill_position_vectors(activations_[vectors_slot_], exec_);
    const Tensor matrices = weights.working ? weights.working : weights.parameters;
    for (int64_t layer = 0; layer < network_.model.layers; ++layer) {
        parts_.emplace_back(network_, layer);
        for (size_t i = 0; i < parts_.back().size() && options.cache.streaming; ++i)
            if (parts_.back()[i].reads_positions())
                fail_input(
                    "a stream moves keys to other positions, and a part of layer {} reads positions "
                    "(attention.query_temperature or value_temperature); train with \"none\" or \"token\"",
                    layer);
        blocks_.push_back(block_tensors(weights.table, parts_.back(), layer, matrices, weights.parameters));
    }
}

int64_t Decoder::room() const {
    return options_.cache.streaming ? std::numeric_limits<int64_t>::max() : cache_.room();
}

void Decoder::forward(std::span<const int32_t> tokens) {
    const auto n = static_cast<int64_t>(tokens.size());
    positions_.assign(tokens.size(), 0);
    for (int64_t i = 0; i < n && !options_.cache.streaming; ++i)
        positions_[static_cast<size_t>(i)] = static_cast<int32_t>(cache_.length() + i);
    const std::array<int32_t, 2> bounds{0, static_cast<int32_t>(n)};
    const int64_t layers = network_.model.layers;
    const auto stream = [&](int64_t layer) {  // that enters it
        return layer < layers ? block_plan_.view(activations_, scratch_, network_, layer, n).x
                              : first_rows(activations_[out_slot_], n);
    };
    embedding_forward(stream(0), tokens, positions_, get("wte.weight", weights_.parameters),
                      get("wpe.weight", weights_.parameters), exec_);
    block_plan_.qk_sources().forward(activations_, scratch_, stream(0), positions_, activations_[vectors_slot_], exec_);
    for (int64_t layer = 0; layer < layers; ++layer) {
        Block block(network_, parts_[static_cast<size_t>(layer)], layer, blocks_[static_cast<size_t>(layer)], {},
                    block_plan_.view(activations_, scratch_, network_, layer, n),
                    block_scratch_plan_.view(activations_, scratch_, layer, n));
        block.forward_pre(positions_, exec_, options_.cache.rotates() ? RopeTiming::kLater : RopeTiming::kNow);
        const AttentionTensors core = block.core_tensors();
        cache_.forward({.t = core, .cu_seqlens = bounds, .spec = block.spec(), .layer = layer}, exec_);
        if (parts_[static_cast<size_t>(layer)].read_queries()) cache_.rotate_queries(core.q, exec_);
        block.forward_post(stream(layer + 1), exec_);
    }
    cache_.advance(n);
    last_ = n;
}

void Decoder::check_fits(int64_t tokens) const {
    check(tokens <= room(), "{} tokens for a cache with room for {}", tokens, room());
    const int64_t prefix = network_.attention.prefix;
    if (prefix > 1 && length() < prefix && (length() > 0 || tokens < prefix))
        fail_input(
            "{} tokens behind {}, but the model was trained with attention.prefix = {}: its first {} tokens see one "
            "another, so they must come together; begin with at least as many (placeholders and the beginning of a "
            "document count)",
            tokens, length(), prefix, prefix);
}

void Decoder::append(std::span<const int32_t> tokens) {
    const auto chunk = static_cast<size_t>(options_.chunk);
    check_fits(static_cast<int64_t>(tokens.size()));
    for (size_t begin = 0; begin < tokens.size(); begin += chunk)
        forward(tokens.subspan(begin, std::min(chunk, tokens.size() - begin)));
}

void Decoder::score(std::span<const int32_t> tokens, std::span<const int32_t> targets, std::span<double> nll) {
    const auto chunk = static_cast<size_t>(options_.chunk);
    check(targets.size() == tokens.size() && nll.size() == tokens.size(), "{} targets, {} losses for {} tokens",
          targets.size(), nll.size(), tokens.size());
    check_fits(static_cast<int64_t>(tokens.size()));
    const int64_t known = std::max<int64_t>(0, network_.attention.prefix - 1 - length());  // targets within the prefix
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
        const size_t count = std::min(chunk, tokens.size() - begin);
        forward(tokens.subspan(begin, count));
        const Tensor matrices = weights_.working ? weights_.working : weights_.parameters;
        LmHeadTensors t = head_.view(activations_, scratch_, last_);
        t.x = first_rows(activations_[out_slot_], last_);
        t.sums = activations_[sums_slot_];
        t.norm_gain = get("final_norm.gain", weights_.parameters);
        t.norm_bias = get("final_norm.bias", weights_.parameters);
        t.weight = get(network_.model.tied ? "wte.weight" : "lm_head.weight", matrices);
        head_.forward(t, targets.subspan(begin, count), weights_.precision.stream(), Write::kOverwrite, exec_);
        dispatch_float(t.nll.dtype, [&]<class R>() {
            const std::span<R> from = t.nll.span<R>();
            std::transform(from.begin(), from.end(), nll.begin() + static_cast<std::ptrdiff_t>(begin),
                           [](R value) { return static_cast<double>(static_cast<Accumulator<R>>(value)); });
        });
    }
    std::fill_n(nll.begin(), std::min(known, static_cast<int64_t>(nll.size())), 0.0);
}

Tensor Decoder::logits() {
    check(last_ > 0, "logits before the first token");
    const Tensor normed = activations_[last_norm_slot_], logits = activations_[logits_slot_];
    norm_forward(normed, activations_[last_mean_slot_], activations_[last_rstd_slot_],
                 activations_[out_slot_].slice_rows(last_ - 1, 1), get("final_norm.gain", weights_.parameters),
                 get("final_norm.bias", weights_.parameters), network_.model.norm_spec(), exec_);
    matmul_forward(logits, normed,
                   get(network_.model.tied ? "wte.weight" : "lm_head.weight",
                       weights_.working ? weights_.working : weights_.parameters),
                   {}, exec_);
    return logits;
}

}  // namespace plimsoll
