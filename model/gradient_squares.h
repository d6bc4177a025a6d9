// Sums of squares of the gradients of large matrices, as the products that write them leave them: the norm of all
// gradients then reads what is small, and the rest only once, when it is applied.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/arena.h"
#include "kernels/global_norm.h"
#include "model/parameters.h"

namespace plimsoll {

class GradientSquares {
  public:
    // Plans memory for the blocks' linear weights and the head's: a five hundredth of that of their gradients. `table`
    // is a whole network's.
    GradientSquares(ArenaPlan& plan, const ParameterTable& table);

    // Those of a parameter, squares_shape; empty where none are kept.
    Tensor of(const Arena& arena, std::string_view name) const;
    // The sum of squares of all of the flat `gradients` (sum_of_squares): of kept sums where there are some, of
    // elements elsewhere, in the order of the table.
    double sum(const Arena& arena, Tensor gradients, const Exec& exec) const;

  private:
    struct Kept {
        std::string name;
        int64_t begin, end;  // elements of the flat buffer
        ArenaSlot slot;
    };
    std::vector<Kept> kept_;  // in their order
};

}  // namespace plimsoll
