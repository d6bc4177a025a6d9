#include "train/optimizer.h"

#include <algorithm>
#include <numeric>

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
    updates_table_.place(arena_[on_device_]);
}

double Optimizer::weight_decay(const Parameter& parameter) const {
    const ParameterGroup* group = group_of(config_.groups, parameter.name);
    if (group && group->weight_decay) return *group->weight_decay;
    if (parameter.sink || (config_.decay == "matrices" && !parameter.matrix)) return 0;
    return config_.weight_decay;
}

void Optimizer::add_family(Rule rule) {
    const std::vector<Parameter>& entries = table_.entries();
    Family family{.rule = rule, .update = updates_.size()};
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
    family.updates = updates_.size() - family.update;
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
    std::vector<UpdateSpan> spans;
    for (const Update& update : updates_)
        spans.push_back({.begin = update.range.begin, .state = update.state, .count = update.range.size()});
    updates_table_ = UpdateTable(std::move(spans));
    on_device_ = plan_.add("updates", updates_table_.shape(), DType::kI32);
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

UpdateFactors Optimizer::factors(const Update& update, double lr, double gradient_scale, int64_t step) const {
    // Rounding counts from the first element of a matrix, or else of the flat buffer.
    WorkingRounding rounding{.stochastic = {}, .first = update.matrix.rank() ? update.range.begin : 0};
    if (config_.rounding == "stochastic")
        rounding.stochastic.emplace(seed_, "rounding", "", static_cast<uint64_t>(step));
    const double rate = lr * update.lr_scale;
    switch (families_[update.family].rule) {
        case Rule::kAdamW:
        case Rule::kOrthoAdam:
            return factors_of(AdamWSpec{.lr = rate,
                                        .beta1 = config_.beta1,
                                        .beta2 = config_.beta2,
                                        .eps = config_.eps,
                                        .weight_decay = update.weight_decay,
                                        .gradient_scale = gradient_scale,
                                        .step = step,
                                        .rounding = rounding});
        case Rule::kSgd:
            return factors_of(SgdSpec{.lr = rate,
                                      .momentum = config_.momentum,
                                      .weight_decay = update.weight_decay,
                                      .gradient_scale = gradient_scale,
                                      .step = step,
                                      .rounding = rounding});
        case Rule::kMuon:
            break;
    }
    return factors_of(
        MuonSpec{.lr = rate,
                 .momentum = config_.muon_momentum,
                 .weight_decay = update.weight_decay,
                 .gradient_scale = gradient_scale,
                 .scale = config_.muon_scale == "rms" ? MuonSpec::Scale::kRms : MuonSpec::Scale::kSpectral,
                 .rounding = rounding},
        update.matrix);
}

void Optimizer::begin_step(double lr, double gradient_scale, int64_t step, const Exec& exec) {
    for (size_t i = 0; i < updates_.size(); ++i)
        updates_table_.factors(i) = factors(updates_[i], lr, gradient_scale, step);
    updates_table_.upload(exec);
}

void Optimizer::update_matrix(Transformer& model, size_t index, const Exec& exec) {
    const Update& update = updates_[index];
    const Family& family = families_[update.family];
    const auto matrix = [&](Tensor buffer, int64_t begin) {
        return buffer ? buffer.slice_rows(begin, update.range.size()).reshape(update.matrix) : buffer;
    };
    const auto span = [&](Tensor buffer) { return matrix(buffer, update.range.begin); };
    const Tensor param = span(model.parameters()), grad = span(model.gradients()), working = span(model.working());
    const Tensor first = matrix(arena_[family.first], update.state),
                 second = matrix(arena_[family.second], update.state);
    const UpdateFactors* const numbers = updates_table_.factors_on_device(index);
    if (family.rule == Rule::kMuon)
        muon_step(param, first, grad, working, {arena_[direction_], arena_[next_], arena_[gram_], arena_[square_]},
                  numbers, exec);
    else
        orthoadam_step(param, first, second, grad, working, arena_[direction_], update.basis, numbers, exec);
}

void Optimizer::update(Transformer& model, const Exec& exec) {
    for (const Family& family : families_) {
        const UpdateSpans spans = updates_table_.spans(family.update, family.updates);
        const Tensor first = arena_[family.first], second = arena_[family.second];
        if (family.rule == Rule::kAdamW)
            adamw_step(model.parameters(), first, second, model.gradients(), model.working(), spans, exec);
        else if (family.rule == Rule::kSgd)
            sgd_step(model.parameters(), first, model.gradients(), model.working(), spans, exec);
        else
            for (size_t i = 0; i < family.updates; ++i) update_matrix(model, family.update + i, exec);
    }
}

void Optimizer::step(Transformer& model, double lr, double gradient_scale, int64_t step, const Exec& exec) {
    begin_step(lr, gradient_scale, step, exec);
    update(model, exec);
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
