// What queries and keys are mapped from where that is not their block's normed input.
#pragma once

#include "kernels/arena.h"
#include "model/parameters.h"
#include "model/precision.h"

namespace plimsoll {

// Xue, Moosavi and Aletras, arXiv:2510.11602, whose values still come from the block's normed input:
//   embedding  the stream as it enters the first block, for all layers: their StaticEmbQK
//   position   a vector of N(0, 1) per position and channel, the same for every text and run: scores do not depend on
//              the sequence. Their RndEmbQK also sends the vectors through the blocks below; here each layer maps them
//              as they are.
// One tensor (N, C) of each kind serves all layers of a stage.
class QkSources {
  public:
    // What backward needs in `kept`, the rest in `shared`; for up to N tokens. Throws Error (78) for embeddings on a
    // stage without them.
    QkSources(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage, int64_t N,
              Precision precision);
    // (n, C) in precision.compute; empty for QkSource::kInput.
    Tensor view(const Arena& kept, QkSource source, int64_t n) const;
    // Fills those that the stage's layers read, from the stream x (n, C) and from `vectors`, rows of the positions
    // (n).
    void forward(const Arena& kept, const Arena& shared, Tensor x, std::span<const int32_t> positions, Tensor vectors,
                 const Exec& exec) const;

  private:
    ArenaSlot embedding_, position_;
    ArenaSlot gathered_;  // position_ in the stream's dtype, if that is another
};

// Whether a layer of the stage maps its queries and keys from this source.
bool reads_source(const NetworkConfig& config, StageRange stage, QkSource source);

// The vectors of positions 0, 1, ... (rows, C), fp32 or fp64, on any device. They depend on nothing but their place.
void fill_position_vectors(Tensor vectors, const Exec& exec);

}  // namespace plimsoll
