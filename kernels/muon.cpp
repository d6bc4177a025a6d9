#include "kernels/muon.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "kernels/matmul.h"

namespace plimsoll {

UpdateFactors factors_of(const MuonSpec& spec, Shape shape) {
    check(shape.rank() == 2, "Muon: wants a matrix, got {}", shape);
    const auto rows = static_cast<double>(shape[0]), columns = static_cast<double>(shape[1]);
    const double scale = spec.scale == MuonSpec::Scale::kRms ? 0.2 * std::sqrt(std::max(rows, columns))
                                                             : std::sqrt(std::max(1.0, rows / columns));
    return {.gradient_scale = spec.gradient_scale,
            .decay = 1 - spec.lr * spec.weight_decay,
            .rate = spec.lr * scale,
            .momentum = spec.momentum,
            .rounding = spec.rounding};
}

void muon_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const MuonScratch& scratch,
               const UpdateFactors* factors, const Exec& exec) {
    check(param.shape.rank() == 2, "muon_step: wants a matrix, got {}", param.shape);
    const int64_t R = param.shape[0], C = param.shape[1], side = std::min(R, C);
    check(scratch.direction.elements() >= R * C && scratch.next.elements() >= R * C &&
              scratch.gram.elements() >= side * side && scratch.square.elements() >= side * side,
          "muon_step: scratch memory of {} and {} elements for {}", scratch.direction.elements(),
          scratch.gram.elements(), param.shape);
    const auto part = [](Tensor whole, Shape shape) { return whole.slice_rows(0, shape.elements()).reshape(shape); };
    Tensor x = part(scratch.direction, {R, C}), next = part(scratch.next, {R, C});
    const Tensor gram = part(scratch.gram, {side, side}), square = part(scratch.square, {side, side});
    nesterov_direction(x, buffer, grad, factors, exec);
    for (int i = 0; i < kNewtonSchulzSteps; ++i) {
        if (R <= C)
            matmul_forward(gram, x, x, {}, exec);  // x x^T
        else
            matmul_backward_weight(gram, {}, x, x, Write::kOverwrite, exec);  // x^T x
        matmul_forward(square, gram, gram, {}, exec);                         // it is symmetric
        quintic_polynomial(gram, square, {}, exec);
        if (R <= C)
            matmul_backward_input(next, gram, x, Write::kOverwrite, exec);
        else
            matmul_backward_input(next, x, gram, Write::kOverwrite, exec);
        std::swap(x, next);
    }
    apply_direction(param, x, working, factors, exec);
}

}  // namespace plimsoll
