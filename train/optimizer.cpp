#include "train/optimizer.h"

#include <algorithm>
#include <numeric>

#include "kernels/optimizer.h"

namespace plimsoll {
namespace {

// Rows that are rotated by themselves alone need not be in memory together: this many elements at a time.
constexpr int64_t kRotatedAtOnce = int64_t{1} << 22;

ElementRange overlap(ElementRange a, ElementRange b) {
    return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

}  // namespace

Optimizer::Rule Optimizer::rule_of(const OptimizerSection& config, const Parameter& parameter) {
    if (config.kind == "sgd") return Rule::kSgd;
    if (config.kind == "muon" && !parameter.stacked.empty()) return Rule::kMuon;
    if (config.kind == "orthoadam" && parameter.matrix) return Rule::kOrthoAdam;
    return Rule::kAdamW;
}

int64_t Optimizer::unit(const OptimizerSection& config, const Parameter& parameter) {
    const Rule rule = rule_of(config, parameter);
    if (rule == Rule::kAdamW || rule == Rule::kSgd) return 1;
    if (!parameter.stacked.empty()) return parameter.shape.elements();
    return std::lcm(parameter.shape[1], kParameterAlignment);  // whole rows
}

Optimizer::Optimizer(const OptimizerSection& config, const ParameterTable& table, Precision precision,
                     std::vector<ElementRange> owned, uint64_t seed)
    : config_(config), table_(table), owned_(std::move(owned)), seed_(seed) {
    for (const Rule rule : {Rule::kAdamW, Rule::kSgd, Rule::kMuon, Rule::kOrthoAdam}) add_family(rule);
    plan_state(precision);
}

void Optimizer::allocate(Device device) {
    arena_ = Arena(plan_, device);
    arena_.zero();
}

double Optimizer::weight_decay(const Parameter& parameter) const {
    const ParameterGroup* group = group_of(config_.groups, parameter.name);
    if (group && group->weight_decay) return *group->weight_decay;
    if (parameter.sink || (config_.decay == "matrices" && !parameter.matrix)) return 0;
    return config_.weight_decay;
}

void Optimizer::add_family(Rule rule) {
    const std::vector<Parameter>& entries = table_.entries();
    Family family{.rule = rule};
    int64_t state = 0;
    for (const ElementRange& owned : owned_)
        for (size_t i = 0; i < entries.size(); ++i) {
            const Parameter& p = entries[i];
            if (rule_of(config_, p) != rule) continue;
            // With the gap behind it.
            const int64_t end = i + 1 < entries.size() ? entries[i + 1].offset : table_.buffer_elements();
            const ElementRange range = overlap(owned, {p.offset, end});
            if (range.size() <= 0) continue;
            const ParameterGroup* group = group_of(config_.groups, p.name);
            const Update update{.family = families_.size(),
                                .range = range,
                                .state = state,
                                .lr_scale = group ? group->lr_scale : 1,
                                .weight_decay = weight_decay(p)};
            state += range.size();
            const bool neighbours = !family.ranges.empty() && family.ranges.back().end == range.begin;
            if (rule == Rule::kMuon || rule == Rule::kOrthoAdam)
                add_matrices(update, p);
            else if (neighbours && updates_.back().lr_scale == update.lr_scale &&
                     updates_.back().weight_decay == update.weight_decay)
                updates_.back().range.end = range.end;  // few large ops instead of many small ones
            else
                updates_.push_back(update);
            if (neighbours)
                family.ranges.back().end = range.end;
            else
                family.ranges.push_back(range);
        }
    if (!family.ranges.empty()) families_.push_back(family);
}

void Optimizer::add_matrices(const Update& update, const Parameter& parameter) {
    const int64_t columns = parameter.shape[1], begin = update.range.begin - parameter.offset;
    const int64_t end = std::min(update.range.end - parameter.offset, parameter.shape.elements());
    check(begin % unit(config_, parameter) == 0 &&
              (end % unit(config_, parameter) == 0 || end == parameter.shape.elements()),
          "Optimizer: elements {} .. {} of {} {} are not whole matrices or rows", begin, end, parameter.name,
          parameter.shape);
    std::vector<int64_t> rows = parameter.stacked;
    if (rows.empty())
        for (int64_t left = (end - begin) / columns; left > 0; left -= rows.back())
            rows.push_back(std::min(left, std::max<int64_t>(1, kRotatedAtOnce / columns)));
    const auto basis = [&](const std::string& axis) { return Rotation{RandomStream(seed_, "orthoadam", axis)}; };
    Update matrix = update;
    for (size_t part = 0; part < rows.size(); ++part) {
        matrix.matrix = {rows[part], columns};
        matrix.range.end = matrix.range.begin + rows[part] * columns;
        matrix.basis.columns = basis(parameter.name + " columns");
        // The stacked matrices share their inputs, and so a basis there.
        if (!parameter.stacked.empty()) matrix.basis.rows = basis(fmt::format("{} rows {}", parameter.name, part));
        updates_.push_back(matrix);
        matrix.state += matrix.range.size();
        matrix.range.begin = matrix.range.end;
    }
}

void Optimizer::plan_state(Precision precision) {
    const DType stream = precision.stream();
    for (Family& family : families_) {
        const Rule rule = family.rule;
        int64_t elements = 0;
        for (const ElementRange& range : family.ranges) elements += range.size();
        const bool rotated = rule == Rule::kOrthoAdam, momentum = rule == Rule::kSgd || rule == Rule::kMuon;
        family.first = plan_.add(momentum ? "momentum" : rotated ? "rotated_m" : "m", {elements}, stream);
        if (!momentum) family.second = plan_.add(rotated ? "rotated_v" : "v", {elements}, stream);
    }
    int64_t largest = 0, side = 0;
    bool muon = false;
    for (const Update& update : updates_) {
        if (update.matrix.rank() == 0) continue;
        muon = muon || families_[update.family].rule == Rule::kMuon;
        largest = std::max(largest, update.matrix.elements());
        side = std::max(side, std::min(update.matrix[0], update.matrix[1]));
    }
    if (largest == 0) return;
    direction_ = plan_.add("direction", {largest}, stream);
    if (!muon) return;
    next_ = plan_.add("next direction", {largest}, stream);
    gram_ = plan_.add("gram", {side * side}, stream);
    square_ = plan_.add("square of gram", {side * side}, stream);
}

void Optimizer::run(Transformer& model, const Update& update, double lr, double gradient_scale, int64_t step,
                    const Exec& exec) {
    const auto slice = [&](Tensor buffer, int64_t begin) {
        if (!buffer) return buffer;
        const Tensor flat = buffer.slice_rows(begin, update.range.size());
        return update.matrix.rank() ? flat.reshape(update.matrix) : flat;
    };
    const auto span = [&](Tensor buffer) { return slice(buffer, update.range.begin); };
    const Family& family = families_[update.family];
    const Tensor param = span(model.parameters()), grad = span(model.gradients()), working = span(model.working());
    const Tensor first = slice(arena_[family.first], update.state), second = slice(arena_[family.second], update.state);
    WorkingRounding rounding{.stochastic = {}, .first = update.range.begin};
    if (config_.rounding == "stochastic")
        rounding.stochastic.emplace(seed_, "rounding", "", static_cast<uint64_t>(step));
    const AdamWSpec adam{.lr = lr * update.lr_scale,
                         .beta1 = config_.beta1,
                         .beta2 = config_.beta2,
                         .eps = config_.eps,
                         .weight_decay = update.weight_decay,
                         .gradient_scale = gradient_scale,
                         .step = step,
                         .rounding = rounding};
    switch (family.rule) {
        case Rule::kAdamW:
            return adamw_step(param, first, second, grad, working, adam, exec);
        case Rule::kOrthoAdam:
            return orthoadam_step(param, first, second, grad, working, arena_[direction_], update.basis, adam, exec);
        case Rule::kSgd:
            return sgd_step(param, first, grad, working,
                            {.lr = adam.lr,
                             .momentum = config_.momentum,
                             .weight_decay = update.weight_decay,
                             .gradient_scale = gradient_scale,
                             .step = step,
                             .rounding = rounding},
                            exec);
        case Rule::kMuon:
            return muon_step(param, first, grad, working,
                             {arena_[direction_], arena_[next_], arena_[gram_], arena_[square_]},
                             {.lr = adam.lr,
                              .momentum = config_.muon_momentum,
                              .weight_decay = update.weight_decay,
                              .gradient_scale = gradient_scale,
                              .scale = config_.muon_scale == "rms" ? MuonSpec::Scale::kRms : MuonSpec::Scale::kSpectral,
                              .rounding = rounding},
                             exec);
    }
    check(false, "Optimizer: no rule {}", static_cast<int>(family.rule));
}

void Optimizer::step(Transformer& model, double lr, double gradient_scale, int64_t step, const Exec& exec) {
    for (const Update& update : updates_) run(model, update, lr, gradient_scale, step, exec);
}

std::vector<Optimizer::State> Optimizer::state() const {
    std::vector<State> all;
    for (const Family& family : families_)
        for (const ArenaSlot slot : {family.first, family.second})
            if (slot)
                all.push_back({plan_.entries()[static_cast<size_t>(slot.index)].name, arena_[slot], family.ranges});
    return all;
}

}  // namespace plimsoll
