// Core attention as a seam: a block calls this interface, and does not know where the work is done.
#pragma once

#include "kernels/attention.h"

namespace plimsoll {

class CoreAttention {
  public:
    virtual ~CoreAttention() = default;
    virtual void forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                         const Exec& exec) = 0;
    // Gradients into d.q, d.k, d.v, d.gate and d.sink_logit, from d.out.
    virtual void backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                          const AttentionSpec& spec, Write write, const Exec& exec) = 0;
};

// Calls the kernels of this process.
class LocalCoreAttention final : public CoreAttention {
  public:
    void forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                 const Exec& exec) override {
        attention_forward(t, cu_seqlens, spec, exec);
    }
    void backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                  const AttentionSpec& spec, Write write, const Exec& exec) override {
        attention_backward(d, t, cu_seqlens, spec, write, exec);
    }
};

}  // namespace plimsoll
