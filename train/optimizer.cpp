#include "train/optimizer.h"

#include <cmath>

#include "kernels/global_norm.h"
#include "kernels/optimizer.h"

namespace plimsoll {

Optimizer::Optimizer(const OptimizerSection& config, const ParameterTable& table, Precision precision, uint64_t seed)
    : config_(config), table_(table), seed_(seed) {
    const int64_t elements = table.buffer_elements();
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

void Optimizer::step(Transformer& model, double lr, double gradient_scale, int64_t step, const Exec& exec) {
    // Neighbours in the flat buffer with the same decay are one span: few large ops instead of many small ones.
    const std::vector<Parameter>& entries = table_.entries();
    const auto flat = [](Tensor buffer, int64_t begin, int64_t end) {
        return buffer ? buffer.slice_rows(begin, end - begin) : buffer;
    };
    for (size_t i = 0; i < entries.size();) {
        const double decay = weight_decay(entries[i]);
        size_t next = i + 1;
        while (next < entries.size() && weight_decay(entries[next]) == decay) ++next;
        const int64_t begin = entries[i].offset,
                      end = next < entries.size() ? entries[next].offset : table_.buffer_elements();
        const auto span = [&](Tensor buffer) { return flat(buffer, begin, end); };
        WorkingRounding rounding{.stochastic = {}, .first = begin};
        if (config_.rounding == "stochastic")
            rounding.stochastic.emplace(seed_, "rounding", "", static_cast<uint64_t>(step));
        if (config_.kind == "sgd")
            sgd_step(span(model.parameters()), span(arena_[first_]), span(model.gradients()), span(model.working()),
                     {.lr = lr,
                      .momentum = config_.momentum,
                      .weight_decay = decay,
                      .gradient_scale = gradient_scale,
                      .step = step,
                      .rounding = rounding},
                     exec);
        else
            adamw_step(span(model.parameters()), span(arena_[first_]), span(arena_[second_]), span(model.gradients()),
                       span(model.working()),
                       {.lr = lr,
                        .beta1 = config_.beta1,
                        .beta2 = config_.beta2,
                        .eps = config_.eps,
                        .weight_decay = decay,
                        .gradient_scale = gradient_scale,
                        .step = step,
                        .rounding = rounding},
                       exec);
        i = next;
    }
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
    if (!second_) return {{"momentum", arena_[first_]}};
    return {{"m", arena_[first_]}, {"v", arena_[second_]}};
}

double gradient_norm(const Transformer& model, const Exec& exec) {
    return std::sqrt(sum_of_squares(model.gradients(), exec));
}

}  // namespace plimsoll
