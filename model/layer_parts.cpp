#include "model/layer_parts.h"

#include <algorithm>
#include <map>

#include "kernels/memory.h"

namespace plimsoll {

#define PLIMSOLL_PART(make) std::unique_ptr<BlockPart> make(const NetworkConfig& config, int64_t layer);
#include "model/parts.def"
#undef PLIMSOLL_PART

namespace {

template <class T>
void append(std::vector<T>& to, std::vector<T> from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

void copy_rows(Tensor to, Tensor from, const Exec& exec) {
    check(to.dtype == from.dtype && to.rows() == from.rows() && to.row_elements() == from.row_elements(),
          "copy_rows: {} in {} from {} in {}", to.shape, name_of(to.dtype), from.shape, name_of(from.dtype));
    const int64_t size = size_of(from.dtype);
    copy_rects(std::array{CopyRect{.to = to.data,
                                   .to_pitch = to.row_stride * size,
                                   .from = from.data,
                                   .from_pitch = from.row_stride * size,
                                   .width = from.row_elements() * size,
                                   .height = from.rows()}},
               exec);
}

BlockParts make_parts(const NetworkConfig& config, int64_t layer) {
    BlockParts parts;
#define PLIMSOLL_PART(make) \
    if (auto part = make(config, layer)) parts.push_back(std::move(part));
#include "model/parts.def"
#undef PLIMSOLL_PART
    return parts;
}

LayerParts::LayerParts(const NetworkConfig& config, int64_t layer) : parts_(make_parts(config, layer)), first_(1) {
    for (const auto& part : parts_) {
        const PartNeeds needs = part->needs(1, {});
        const Count& before = first_.back();
        first_.push_back({.parameters = before.parameters + part->parameters().size(),
                          .kept = before.kept + needs.kept.size(),
                          .operands = before.operands + needs.operands.size(),
                          .scratch = before.scratch + needs.scratch.size()});
    }
    const Count& all = first_.back();
    check(std::max({all.parameters, all.kept, all.operands, all.scratch}) <= kMaxPartTensors,
          "layer {}: the parts have {} parameters and keep {} tensors, kMaxPartTensors is {}", layer, all.parameters,
          all.kept, kMaxPartTensors);
}

bool LayerParts::keep_branch() const {
    return std::ranges::any_of(parts_, [](const auto& part) { return part->keeps_branch(); });
}

bool LayerParts::read_queries() const {
    return std::ranges::any_of(parts_, [](const auto& part) { return part->reads_queries(); });
}

int64_t LayerParts::output_heads(int64_t heads) const {
    for (const auto& part : parts_) heads = part->output_heads(heads);
    return heads;
}

std::vector<ParameterSpec> LayerParts::parameters() const {
    std::vector<ParameterSpec> all;
    for (const auto& part : parts_) append(all, part->parameters());
    return all;
}

PartNeeds LayerParts::needs(int64_t N, Precision precision) const {
    PartNeeds all;
    for (const auto& part : parts_) {
        PartNeeds needs = part->needs(N, precision);
        append(all.kept, std::move(needs.kept));
        append(all.operands, std::move(needs.operands));
        append(all.scratch, std::move(needs.scratch));
    }
    return all;
}

PartView LayerParts::view(size_t part, const PartTensors& p, const PartTensors& d, const PartTensors& kept,
                          const PartTensors& operands, const PartTensors& scratch) const {
    const Count &begin = first_[part], &end = first_[part + 1];
    const auto own = [](const PartTensors& tensors, size_t from, size_t to) {
        return std::span(tensors).subspan(from, to - from);
    };
    return {.p = own(p, begin.parameters, end.parameters),
            .d = own(d, begin.parameters, end.parameters),
            .kept = own(kept, begin.kept, end.kept),
            .operands = own(operands, begin.operands, end.operands),
            .scratch = own(scratch, begin.scratch, end.scratch),
            .positions = {}};
}

PlannedPartTensors PlannedPartTensors::add(ArenaPlan& plan, const std::string& prefix,
                                           std::vector<PartTensor> tensors) {
    PlannedPartTensors planned;
    for (const PartTensor& t : tensors) planned.slots_.push_back(plan.add(prefix + t.name, t.shape, t.dtype));
    planned.tensors_ = std::move(tensors);
    return planned;
}

std::vector<PlannedPartTensors> PlannedPartTensors::add_shared(ArenaPlan& plan, const std::string& prefix,
                                                               std::vector<std::vector<PartTensor>> layers) {
    const auto bytes = [](const PartTensor& t) { return t.shape.elements() * size_of(t.dtype); };
    std::map<std::string, PartTensor> largest;
    for (const auto& tensors : layers)
        for (const PartTensor& t : tensors) {
            const auto [entry, isnew] = largest.emplace(t.name, t);
            if (!isnew && bytes(entry->second) < bytes(t)) entry->second = t;
        }
    std::map<std::string, ArenaSlot> slots;
    for (const auto& [name, t] : largest) slots[name] = plan.add(prefix + name, t.shape, t.dtype);
    std::vector<PlannedPartTensors> planned;
    for (auto& tensors : layers) {
        PlannedPartTensors& layer = planned.emplace_back();
        for (const PartTensor& t : tensors) layer.slots_.push_back(slots[t.name]);
        layer.tensors_ = std::move(tensors);
    }
    return planned;
}

PartTensors PlannedPartTensors::view(const Arena& arena, int64_t n) const {
    PartTensors views;
    for (size_t i = 0; i < tensors_.size(); ++i) {
        const Tensor memory = arena[slots_[i]];
        views[i] = first_rows(Tensor(memory.data, tensors_[i].dtype, tensors_[i].shape, memory.device), n);
    }
    return views;
}

Tensor first_rows(Tensor tensor, int64_t n) {
    return tensor ? tensor.slice_rows(0, n) : tensor;
}

}  // namespace plimsoll
