#include "train/optimizer.h"

#include <algorithm>

#include "kernels/optimizer.h"

namespace plimsoll {

Optimizer::Optimizer(const OptimizerSection& config, const ParameterTable& table, Precision precision,
                     std::vector<ElementRange> owned, uint64_t seed)
    : config_(config), table_(table), owned_(std::move(owned)), seed_(seed) {
    int64_t elements = 0;
    for (const ElementRange& range : owned_) elements += range.size();
    first_ = plan_.add(config.kind == "sgd" ? "momentum" : "m", {elements}, precision.stream());
    if (config.kind != "sgd") second_ = plan_.add("v", {elements}, precision.stream());
}

void Optimizer::allocate(Device device) {
    arena_ = Arena(plan_, device);
    arena_.zero();
}

double Optimizer::weight_decay(const Parameter& parameter) const {
    if (parameter.sink || (config_.decay == "matrices" && !parameter.matrix)) return 0;
    return config_.weight_decay;
}

void Optimizer::step(Transformer& model, ElementRange range, int64_t state, double decay, double lr,
                     double gradient_scale, int64_t step, const Exec& exec) {
    const auto slice = [&](Tensor buffer, int64_t begin) {
        return buffer ? buffer.slice_rows(begin, range.size()) : buffer;
    };
    const auto span = [&](Tensor buffer) { return slice(buffer, range.begin); };
    WorkingRounding rounding{.stochastic = {}, .first = range.begin};
    if (config_.rounding == "stochastic")
        rounding.stochastic.emplace(seed_, "rounding", "", static_cast<uint64_t>(step));
    if (config_.kind == "sgd")
        sgd_step(span(model.parameters()), slice(arena_[first_], state), span(model.gradients()), span(model.working()),
                 {.lr = lr,
                  .momentum = config_.momentum,
                  .weight_decay = decay,
                  .gradient_scale = gradient_scale,
                  .step = step,
                  .rounding = rounding},
                 exec);
    else
        adamw_step(span(model.parameters()), slice(arena_[first_], state), slice(arena_[second_], state),
                   span(model.gradients()), span(model.working()),
                   {.lr = lr,
                    .beta1 = config_.beta1,
                    .beta2 = config_.beta2,
                    .eps = config_.eps,
                    .weight_decay = decay,
                    .gradient_scale = gradient_scale,
                    .step = step,
                    .rounding = rounding},
                   exec);
}

void Optimizer::step(Transformer& model, double lr, double gradient_scale, int64_t step, const Exec& exec) {
    const std::vector<Parameter>& entries = table_.entries();
    int64_t state = 0;  // of the owned range
    for (const ElementRange& owned : owned_) {
        // Neighbours in the flat buffer with the same decay are one span: few large ops instead of many small ones.
        for (size_t i = 0; i < entries.size();) {
            const double decay = weight_decay(entries[i]);
            size_t next = i + 1;
            while (next < entries.size() && weight_decay(entries[next]) == decay) ++next;
            const int64_t end = next < entries.size() ? entries[next].offset : table_.buffer_elements();
            const ElementRange part{std::max(owned.begin, entries[i].offset), std::min(owned.end, end)};
            if (part.size() > 0)
                this->step(model, part, state + part.begin - owned.begin, decay, lr, gradient_scale, step, exec);
            i = next;
        }
        state += owned.size();
    }
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
    if (!second_) return {{"momentum", arena_[first_]}};
    return {{"m", arena_[first_]}, {"v", arena_[second_]}};
}

}  // namespace plimsoll
