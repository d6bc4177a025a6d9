// Cross entropy over a vocabulary that arrives in chunks of columns, fused with its gradient.
#pragma once

#include <limits>
#include <span>

#include "kernels/exec.h"

namespace plimsoll {

// Per row: nll_n = lse_n - logit_n[target_n],  lse_n = log sum_v exp(logit_n[v]),  loss_n = nll_n + z_loss * lse_n^2.
// z-loss: PaLM, arXiv:2204.02311. Rows with target -1 are not scored: nll 0, gradient 0.
//
// The head's logits are made chunk by chunk, never all at once:
//   begin(state);  for each chunk: accumulate(state, chunk, v0);  finish(nll, lse, state);
//   for each chunk: gradient(chunk in place, v0)        (the chunk is computed again if it was not kept)
// The row maximum and sum are carried over chunks in ascending v0 (online softmax), so the result depends on the chunk
// size in its last bits, and on nothing else.

// What is carried from chunk to chunk, each (N), in the dtype sums are kept in.
struct CrossEntropyState {
    Tensor max;           // of the logits seen so far
    Tensor sum;           // of exp(logit - max)
    Tensor target_logit;  // the target's logit once its chunk was seen
};

void cross_entropy_begin(const CrossEntropyState& state, const Exec& exec);

// logits (N, Vc): columns v0 .. v0 + Vc - 1 of the vocabulary, of any floating dtype, may have a row stride.
void cross_entropy_accumulate(const CrossEntropyState& state, Tensor logits, int64_t v0,
                              std::span<const int32_t> targets, const Exec& exec);

// nll (N) and lse (N), in the state's dtype, from a state that saw every chunk.
void cross_entropy_finish(Tensor nll, Tensor lse, const CrossEntropyState& state, std::span<const int32_t> targets,
                          const Exec& exec);

// Sums over the scored rows, in a fixed order: sums (3) fp64 = sum of nll, sum of lse^2, number of scored rows. They
// stay where the op runs, so nobody waits for them before they are wanted.
void cross_entropy_sums(Tensor sums, Tensor nll, Tensor lse, std::span<const int32_t> targets, Write write,
                        const Exec& exec);

// Replaces a chunk of logits by the gradient of scale * sum_n loss_n:
//   dlogit[v] = scale * (softmax[v] (1 + 2 z_loss lse) - [v = target]),  0 where the target is -1.
void cross_entropy_gradient(Tensor logits, int64_t v0, Tensor lse, std::span<const int32_t> targets, double scale,
                            double z_loss, const Exec& exec);

// A vocabulary in one chunk: begin, accumulate, finish and gradient, without reading the logits (N, V) from memory
// twice where the device allows. Bits of nll and lse, and of the gradient in place of the logits, are those of the four
// ops; the state is scratch memory and holds nothing afterwards.
void cross_entropy_whole(Tensor nll, Tensor lse, Tensor logits, const CrossEntropyState& state,
                         std::span<const int32_t> targets, double scale, double z_loss, const Exec& exec);

}  // namespace plimsoll
