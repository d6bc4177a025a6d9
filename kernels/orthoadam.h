// OrthoAdam: Adam whose moments live in a random orthogonal basis, so that no channel of the network is one of theirs.
#pragma once

#include "kernels/exec.h"
#include "kernels/optimizer.h"

namespace plimsoll {

// The largest power of two that is not above n >= 1.
constexpr int64_t power_of_two_in(int64_t n) {
    int64_t power = 1;
    while (power <= n / 2) power *= 2;
    return power;
}

// A fixed orthogonal matrix of any size n that is a product of seeded signs D and Hadamard matrices H_p / sqrt(p),
// p = power_of_two_in(n): n log n operations, and nothing to store. For n = p it is H D; else H_first D3 H_last D2
// H_first D1, where _first acts on the first p entries and _last on the last p: every output depends on every input.
struct Rotation {
    RandomStream signs;  // one per matrix and axis

    static constexpr int passes(int64_t n) { return power_of_two_in(n) == n ? 1 : 3; }
    // Entries [begin, begin + p) take part in a pass.
    static constexpr int64_t begin(int pass, int64_t n) { return pass == 1 ? n - power_of_two_in(n) : 0; }
    // Whether a pass turns the sign of an entry.
    PLIMSOLL_HD bool flips(int pass, int64_t entry) const {
        const auto i = static_cast<uint64_t>(entry);
        const auto words = signs.bits(static_cast<uint64_t>(pass) << 48 | i / 128);
        const auto word = i / 32 % 4;
        // Not words[word]: an index the compiler does not know would put them into a GPU's local memory.
        const uint32_t bits = word & 2 ? (word & 1 ? words[3] : words[2]) : (word & 1 ? words[1] : words[0]);
        return bits >> i % 32 & 1;
    }
};

enum class Axis : uint8_t { kRows, kColumns };  // which index is summed over: x' = Q x or x' = x Q^T
enum class Turn : uint8_t { kInto, kBack };     // Q, or its transpose

// Rotates x (R, C), fp32 or fp64, contiguous, in place. Each entry's sums are those of the radix-2 algorithm, in its
// order, so bits depend neither on threads nor on the device.
void rotate(Tensor x, Axis axis, Turn turn, const Rotation& rotation, const Exec& exec);

// Adam's direction from the gradient it replaces: g = gradient_scale * direction; m, v as adamw_step has them;
// direction = (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps).
// Equal fp32 or fp64 tensors, contiguous. factors: in exec's device memory, one. Elementwise.
void adam_direction(Tensor direction, Tensor m, Tensor v, const UpdateFactors* factors, const Exec& exec);

// Of a matrix (R, C): x' = Q_rows x Q_columns^T, or only one of them.
struct MatrixBasis {
    std::optional<Rotation> rows, columns;
};

// One update of the matrix param (R, C): Kaul et al., arXiv:2410.17174, who draw a dense matrix; rotated are the
// gradient, and back the direction that Adam finds there. m, v: of the rotated gradient. scratch: at least R C elements
// of param's dtype, 1-D. factors: of an AdamWSpec, as above. Bits do not depend on the number of threads.
void orthoadam_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, Tensor scratch,
                    const MatrixBasis& basis, const UpdateFactors* factors, const Exec& exec);

}  // namespace plimsoll
