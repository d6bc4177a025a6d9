#include "model/gradient_squares.h"

#include <algorithm>
#include <numeric>

namespace plimsoll {

GradientSquares::GradientSquares(ArenaPlan& plan, const ParameterTable& table) {
    const std::string head = table.find("lm_head.weight") < 0 ? "wte.weight" : "lm_head.weight";
    for (const Parameter& p : table.entries())
        if (p.name == head || !p.stacked.empty())
            kept_.push_back({p.name, p.offset, p.offset + p.shape.elements(),
                             plan.add("squares of " + p.name, squares_shape(p.shape), DType::kF64)});
}

Tensor GradientSquares::of(const Arena& arena, std::string_view name) const {
    const auto kept = std::ranges::find(kept_, name, &Kept::name);
    return kept == kept_.end() ? Tensor{} : arena[kept->slot];
}

double GradientSquares::sum(const Arena& arena, Tensor gradients, const Exec& exec) const {
    double total = 0;
    int64_t begin = 0;  // of what is in no sum yet
    const auto add_elements = [&](int64_t end) {
        if (begin < end) total += sum_of_squares(gradients.slice_rows(begin, end - begin), exec);
    };
    for (const Kept& kept : kept_) {
        add_elements(kept.begin);
        const Tensor squares = arena[kept.slot];
        const auto* const first = squares.ptr<double>();
        total += std::accumulate(first, first + squares.elements(), 0.0);
        begin = kept.end;
    }
    add_elements(gradients.elements());
    return total;
}

}  // namespace plimsoll
