// Core attention as a seam: a block calls this interface, and does not know where the work is done.
#pragma once

#include "kernels/attention.h"

namespace plimsoll {

// What core attention reads and writes for one layer: see attention_forward and attention_backward for shapes.
struct CoreAttentionTensors {
    Tensor out, lse, q, k, v, sink_logit;
};

class CoreAttention {
  public:
    virtual ~CoreAttention() = default;
    virtual void forward(const CoreAttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                         const Exec& exec) = 0;
    // Gradients into d.q, d.k, d.v and d.sink_logit, from d.out.
    virtual void backward(const CoreAttentionTensors& d, const CoreAttentionTensors& t,
                          std::span<const int32_t> cu_seqlens, const AttentionSpec& spec, Write write,
                          const Exec& exec) = 0;
};

// Calls the kernels of this process.
class LocalCoreAttention final : public CoreAttention {
  public:
    void forward(const CoreAttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                 const Exec& exec) override {
        attention_forward(t.out, t.lse, t.q, t.k, t.v, t.sink_logit, cu_seqlens, spec, exec);
    }
    void backward(const CoreAttentionTensors& d, const CoreAttentionTensors& t, std::span<const int32_t> cu_seqlens,
                  const AttentionSpec& spec, Write write, const Exec& exec) override {
        attention_backward(d.q, d.k, d.v, d.sink_logit, d.out, t.out, t.lse, t.q, t.k, t.v, t.sink_logit, cu_seqlens,
                           spec, write, exec);
    }
};

}  // namespace plimsoll
