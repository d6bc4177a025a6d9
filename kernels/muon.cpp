#include "kernels/muon.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "kernels/matmul.h"

namespace plimsoll {

void muon_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const MuonScratch& scratch,
               const MuonSpec& spec, const Exec& exec) {
    check(param.shape.rank() == 2, "muon_step: wants a matrix, got {}", param.shape);
    const int64_t R = param.shape[0], C = param.shape[1], side = std::min(R, C);
    check(scratch.direction.elements() >= R * C && scratch.next.elements() >= R * C &&
              scratch.gram.elements() >= side * side && scratch.square.elements() >= side * side,
          "muon_step: scratch memory of {} and {} elements for {}", scratch.direction.elements(),
          scratch.gram.elements(), param.shape);
    const auto part = [](Tensor whole, Shape shape) { return whole.slice_rows(0, shape.elements()).reshape(shape); };
    Tensor x = part(scratch.direction, {R, C}), next = part(scratch.next, {R, C});
    const Tensor gram = part(scratch.gram, {side, side}), square = part(scratch.square, {side, side});
    nesterov_direction(x, buffer, grad, {.momentum = spec.momentum, .gradient_scale = spec.gradient_scale}, exec);
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
    const auto rows = static_cast<double>(R), columns = static_cast<double>(C);
    const double scale = spec.scale == MuonSpec::Scale::kRms ? 0.2 * std::sqrt(std::max(rows, columns))
                                                             : std::sqrt(std::max(1.0, rows / columns));
    apply_direction(param, x, working,
                    {.rate = spec.lr * scale, .decay = 1 - spec.lr * spec.weight_decay, .rounding = spec.rounding},
                    exec);
}

}  // namespace plimsoll
