// Core attention computed by whichever rank a plan names: DistCA's attention servers, in place on the same ranks
// (arXiv:2510.18121).
#pragma once

#include <memory>
#include <vector>

#include "dist/cad/round.h"
#include "dist/cad/row_exchange.h"
#include "dist/cad/timeline.h"
#include "kernels/core_attention.h"

namespace plimsoll {

// The sizes of core attention, equal on all ranks.
struct CaShape {
    int64_t NH = 1, NKV = 1, HS = 1, VS = 1;  // heads of queries and of keys; channels of these, and of values
    DType dtype = DType::kF32;

    // Bytes of what travels for a layer, for the planner.
    CaCosts forward_costs(const AttentionSpec& spec) const;
    CaCosts backward_costs(const AttentionSpec& spec) const;
};

// Which plan a call belongs to: given by whoever knows all ranks' batches. The same plan on every rank.
class CaRounds {
  public:
    virtual ~CaRounds() = default;
    // Of the micro batch under way in this lane, in the layer that the call names.
    virtual const CaRound& forward_round(const AttentionCall& call) = 0;
    virtual const CaRound& backward_round(const AttentionCall& call) = 0;
};

// What computes on this rank: the kernels, unless something else only takes their time (simulator/rehearsal.h).
class RankAttention {
  public:
    virtual ~RankAttention() = default;
    virtual void tasks_forward(const AttentionTensors& t, const CaTasks& tasks, const AttentionSpec& spec,
                               const Exec& exec);
    virtual void tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                                const CaTasks& tasks, const AttentionSpec& spec, const Exec& exec);
    virtual void rows_backward(const AttentionCall& call, Tensor delta, const Exec& exec);
    // All of a call, where nothing moves.
    virtual void forward(const AttentionCall& call, const Exec& exec);
    virtual void backward(const AttentionCall& call, const Exec& exec);
};

// The ranks of a group compute core attention together. All of them make the same calls in the same order; one without
// a batch of its own (an idle pipeline stage) makes them with tensors that are absent. A layer's spec is the same on
// all ranks of a call but for the values of sink_logit and score_bias, which travel.
//
// Forward: queries, keys and values to the servers (keys that many need in two hops), out and lse back. Backward:
// queries, gradients of out, lse, delta, keys and values to the servers, gradients back: of queries as they are, of
// keys and values as parts in the dtype sums are kept in, which relays and owners add up: other servers' in ascending
// order of rank, then that sum to the owner's. Servers keep nothing in between, and hold no parameters.
//
// On the CPU out, lse and dq have the bits of LocalCoreAttention in fp32 and fp64, whatever the plan; gradients of keys
// and values those of ServersInTurn. With a plan that moves nothing every bit is LocalCoreAttention's.
class DisaggregatedAttention final : public CoreAttention {
  public:
    // `lanes`: calls that may be under way at once. All references must outlive this.
    DisaggregatedAttention(Communicator& group, CaRounds& rounds, const CaShape& shape, int lanes = 1,
                           std::unique_ptr<RankAttention> here = std::make_unique<RankAttention>());

    // Phases of calls from now on are recorded there; null: nowhere.
    void record_in(CaTimeline* timeline) { timeline_ = timeline; }

    void begin_forward(const AttentionCall& call, const Exec& exec) override;
    void compute_forward(const AttentionCall& call, const Exec& exec) override;
    void end_forward(const AttentionCall& call, const Exec& exec) override;
    void begin_backward(const AttentionCall& call, const Exec& exec) override;
    void compute_backward(const AttentionCall& call, const Exec& exec) override;
    void end_backward(const AttentionCall& call, const Exec& exec) override;

  private:
    // Buffers of one lane. Server rows, unless it says otherwise.
    struct Lane {
        explicit Lane(Communicator& group) : dispatch(group), relay(group), back(group), last(group) {}
        RowExchange dispatch, relay, back, last;
        GrowingMemory q_memory, k_memory, v_memory, out_memory, lse_memory, delta_memory, dout_memory, dq_memory;
        GrowingMemory dk_memory, dv_memory, dbias_memory, learned_memory;
        GrowingMemory home_delta_memory, home_dbias_memory, home_dk_memory, home_dv_memory, rounded_memory;
        Tensor q, k, v, out, lse, delta, dout, dq, dk, dv, dbias;
        Tensor learned;                 // (ranks, NH): sink logits or biases of the homes
        Tensor home_delta, home_dbias;  // batch rows: (NH, N); of a learned bias each query's gradient
        Tensor home_dk, home_dv;        // batch rows: this rank's parts
        // Routes of what goes back.
        RowRoute home_queries{0}, home_keys{0}, home_forwarded{0}, home_relayed{0};
    };
    Lane& lane_of(const AttentionCall& call) { return *lanes_[static_cast<size_t>(call.lane)]; }
    void size_buffers(Lane& lane, const CaRound& round, const AttentionSpec& spec, bool backward, const Exec& exec);
    std::vector<RowPart> key_parts(const Lane& lane, const CaRound& round, const AttentionCall& call) const;
    // Waits for what the servers need, on the way computing what lies here.
    template <class Compute>
    void receive(Lane& lane, const CaRound& round, CaStopwatch& watch, const Exec& exec, Compute&& compute_here);
    RowPart learned_part(const Lane& lane, const CaRound& round, const AttentionCall& call, const Exec& exec) const;
    AttentionTensors served_tensors(const Lane& lane, const CaRound& round, size_t group,
                                    const AttentionSpec& spec) const;
    void send_relayed_sums(Lane& lane, const CaRound& round, const Exec& exec);
    void add_up_keys(Lane& lane, const CaRound& round, const AttentionCall& call, const Exec& exec);

    Communicator& group_;
    CaRounds& rounds_;
    CaShape shape_;
    std::unique_ptr<RankAttention> here_;
    std::vector<std::unique_ptr<Lane>> lanes_;
    CaTimeline* timeline_ = nullptr;
};

}  // namespace plimsoll
