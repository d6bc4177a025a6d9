// The parts of one layer together: their parameters, and memory for what they keep.
#pragma once

#include <span>

#include "kernels/arena.h"
#include "model/part.h"

namespace plimsoll {

class LayerParts {
  public:
    LayerParts(const NetworkConfig& config, int64_t layer);

    size_t size() const { return parts_.size(); }
    const BlockPart& operator[](size_t part) const { return *parts_[part]; }
    // Whether one of them does.
    bool keep_branch() const;
    bool read_queries() const;
    // How many of `heads` the output projection reads.
    int64_t output_heads(int64_t heads) const;
    // Those of all parts, in their order.
    std::vector<ParameterSpec> parameters() const;
    PartNeeds needs(int64_t N, Precision precision) const;
    // A part's own of all the layer's tensors.
    PartView view(size_t part, const PartTensors& p, const PartTensors& d, const PartTensors& kept,
                  const PartTensors& operands, const PartTensors& scratch) const;

  private:
    struct Count {
        size_t parameters = 0, kept = 0, operands = 0, scratch = 0;
    };
    BlockParts parts_;
    std::vector<Count> first_;  // [part + 1]: where its tensors begin
};

// Where the tensors of a layer's parts lie.
class PlannedPartTensors {
  public:
    // One slot for each tensor, named with `prefix`.
    static PlannedPartTensors add(ArenaPlan& plan, const std::string& prefix, std::vector<PartTensor> tensors);
    // For each of some layers; tensors of one name share a slot, as large as the largest.
    static std::vector<PlannedPartTensors> add_shared(ArenaPlan& plan, const std::string& prefix,
                                                      std::vector<std::vector<PartTensor>> layers);
    // The first n tokens of each.
    PartTensors view(const Arena& arena, int64_t n) const;
    size_t size() const { return tensors_.size(); }

  private:
    std::vector<PartTensor> tensors_;
    std::vector<ArenaSlot> slots_;
};

// The first n of the N tokens of a planned (N, ...).
Tensor first_rows(Tensor tensor, int64_t n);

}  // namespace plimsoll
