// The output head: final norm, logits, cross entropy, in chunks of the vocabulary.
#pragma once

#include "kernels/cross_entropy.h"
#include "model/activations.h"
#include "model/parameters.h"

namespace plimsoll {

// Sums over scored positions. The loss per position is nll + z_loss * lse^2.
struct LossSums {
    double nll = 0;  // nats
    double z = 0;    // z_loss * lse^2
    int64_t scored = 0;
    // Squared cosines between tokens and their document's first, over the streams that enter the blocks and divided by
    // their number L; weighs loss.bos_decorrelation. Of this stage's blocks, complete after backward().
    double decorrelation = 0;

    LossSums& operator+=(const LossSums& other) {
        nll += other.nll, z += other.z, scored += other.scored, decorrelation += other.decorrelation;
        return *this;
    }
};

// Views bound to one micro batch of n tokens.
struct LmHeadTensors {
    Tensor x;                                // (n, C) the stream that leaves the last block
    Tensor norm_gain, norm_bias, weight;     // parameters; weight (V, C) in the compute dtype
    Tensor dnorm_gain, dnorm_bias, dweight;  // their gradients
    Tensor squares;                          // sums of squares of dweight, empty where nobody wants them
    Tensor normed, dnormed, dnormed_sum;     // (n, C) compute; dnormed_sum in the stream's dtype, for several chunks
    Tensor mean, rstd;                       // (n)
    CrossEntropyState state;
    Tensor nll, lse;  // (n)
    Tensor sums;      // (3) fp64, cross_entropy_sums
    Tensor logits;    // the buffer of one chunk, as bytes in rows of the stream's dtype
};

class LmHead {
  public:
    // Plans memory for up to N tokens. The buffer of logits holds at most loss.logits_mib MiB.
    LmHead(ArenaPlan& activations, ArenaPlan& scratch, const NetworkConfig& config, int64_t N, Precision precision);

    LmHeadTensors view(const Arena& activations, const Arena& scratch, int64_t n) const;

    // Negative log-likelihood of each target into t.nll; their sums into t.sums, as `write` says. `logits_dtype`: what
    // logits are rounded to.
    void forward(const LmHeadTensors& t, std::span<const int32_t> targets, DType logits_dtype, Write write,
                 const Exec& exec) const;
    // The same for a backward that follows with this `scale`, logits in the compute dtype: a vocabulary in one chunk is
    // turned into the gradient of its logits while it is read.
    void training_forward(const LmHeadTensors& t, std::span<const int32_t> targets, double scale, Write write,
                          const Exec& exec) const;
    // t.sums, for the host. Waits for the device.
    LossSums loss(const LmHeadTensors& t, const Exec& exec) const;
    // Gradient of scale * sum of losses: t.dweight and the norm's as `write` says; dx (n, C) is overwritten, and
    // dbranch, if not empty, becomes dx in the compute dtype. Follows training_forward.
    void backward(Tensor dx, Tensor dbranch, const LmHeadTensors& t, std::span<const int32_t> targets, double scale,
                  Write write, const Exec& exec) const;
    // After forward(): logits (n, V) in the stream's dtype. Throws Error if the vocabulary does not fit the buffer.
    Tensor logits(const LmHeadTensors& t, const Exec& exec) const;

  private:
    int64_t chunk_columns(int64_t n, DType dtype) const;
    Tensor logits_chunk(const LmHeadTensors& t, int64_t v0, int64_t columns, DType dtype, const Exec& exec) const;

    ModelConfig model_;
    double z_loss_;
    int64_t vocab_;
    Precision precision_;
    int64_t buffer_bytes_;  // of the logits
    ArenaSlot normed_, mean_, rstd_, dnormed_, dnormed_sum_, max_, sum_, target_logit_, nll_, lse_, logits_;
};

}  // namespace plimsoll
