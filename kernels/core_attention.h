// Core attention as a seam: a block calls this interface, and does not know where the work is done.
#pragma once

#include "kernels/attention.h"

namespace plimsoll {

// Core attention of one block for one micro batch.
struct AttentionCall {
    AttentionTensors t;                   // what it reads and writes
    AttentionTensors d = {};              // in backward: its gradients, from out; where there is no gradient, none
    std::span<const int32_t> cu_seqlens;  // as attention_forward has them
    AttentionSpec spec;
    Write write = Write::kOverwrite;  // of d.sink_logit and d.score_bias
    int64_t layer = 0;
    int lane = 0;  // which of the micro batches that are computed in turns
};

// Three phases each way, so that whoever calls can compute something else while data travels: begin (what others need
// leaves), compute, end (the results are there). Between begin and end of a call there may be the phases of another
// lane's.
class CoreAttention {
  public:
    virtual ~CoreAttention() = default;
    virtual void begin_forward(const AttentionCall& /*call*/, const Exec& /*exec*/) {}
    virtual void compute_forward(const AttentionCall& call, const Exec& exec) = 0;
    virtual void end_forward(const AttentionCall& /*call*/, const Exec& /*exec*/) {}
    virtual void begin_backward(const AttentionCall& /*call*/, const Exec& /*exec*/) {}
    virtual void compute_backward(const AttentionCall& call, const Exec& exec) = 0;
    virtual void end_backward(const AttentionCall& /*call*/, const Exec& /*exec*/) {}

    void forward(const AttentionCall& call, const Exec& exec) {
        begin_forward(call, exec);
        compute_forward(call, exec);
        end_forward(call, exec);
    }
};

// Calls the kernels of this process.
class LocalCoreAttention final : public CoreAttention {
  public:
    void compute_forward(const AttentionCall& call, const Exec& exec) override {
        attention_forward(call.t, call.cu_seqlens, call.spec, exec);
    }
    void compute_backward(const AttentionCall& call, const Exec& exec) override {
        attention_backward(call.d, call.t, call.cu_seqlens, call.spec, call.write, exec);
    }
};

}  // namespace plimsoll
