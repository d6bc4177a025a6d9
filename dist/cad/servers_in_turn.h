// What attention servers give, in one process.
#pragma once

#include "dist/cad/round.h"
#include "dist/cad/row_exchange.h"
#include "kernels/core_attention.h"

namespace plimsoll {

// Which plan a call belongs to, as the rank it is computed for sees it.
class CaHomeRounds {
  public:
    virtual ~CaHomeRounds() = default;
    virtual const CaHomeRound& forward_round(const AttentionCall& call) = 0;
    virtual const CaHomeRound& backward_round(const AttentionCall& call) = 0;
};

// Computes what DisaggregatedAttention gives one rank, to the bit, one server's tasks after the other: gradients of
// keys and values are sums of the same parts in the same order.
class ServersInTurn final : public CoreAttention {
  public:
    explicit ServersInTurn(CaHomeRounds& rounds) : rounds_(rounds) {}
    void compute_forward(const AttentionCall& call, const Exec& exec) override;
    void compute_backward(const AttentionCall& call, const Exec& exec) override;

  private:
    CaHomeRounds& rounds_;
    GrowingMemory delta_, dbias_, dk_, dv_, part_dk_, part_dv_, others_dk_, others_dv_, rounded_;
};

}  // namespace plimsoll
