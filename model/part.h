// What a block may have besides norm, linear maps and core attention: gates, temperatures, bias columns, scales.
//
// A part is described here once for its layer and owns no memory: its parameters are rows of the parameter table, its
// tensors lie in the arenas, and each call gets views of them. The hooks stand in the order of forward; backward calls
// their twins in the opposite order, with the parts in the opposite order too. A part overrides the hooks it needs.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/gate.h"
#include "model/parameters.h"
#include "model/precision.h"

namespace plimsoll {

// The part of a backward that is computed. kWeights, the gradients of linear weights and their biases, may come any
// time after kInputs, everything else, where memory was planned for that (BackwardSplit); it leaves dx alone. Together
// they are the ops of kAll.
enum class BackwardPart : uint8_t { kAll, kInputs, kWeights };
inline bool of_inputs(BackwardPart part) {
    return part != BackwardPart::kWeights;
}
inline bool of_weights(BackwardPart part) {
    return part != BackwardPart::kInputs;
}

// A tensor that a part wants planned; the first dimension counts tokens.
struct PartTensor {
    std::string name;
    Shape shape;
    DType dtype;
};

// What a part wants for N tokens: how many tensors does not depend on N or the precision, and their names on other
// parts' (tensors of one name share memory where layers do). The order is that of the views it gets.
struct PartNeeds {
    std::vector<PartTensor> kept;      // from forward to backward; computed again with Recompute::kBlock
    std::vector<PartTensor> operands;  // from the gradients of inputs to those of weights (BackwardSplit)
    std::vector<PartTensor> scratch;   // within a call of forward, or within one of backward; shared by all blocks
};

// Views of one part in one block, for one micro batch.
struct PartView {
    std::span<const Tensor> p, d;  // its parameters and their gradients, in the order of parameters()
    std::span<const Tensor> kept, operands, scratch;
    std::span<const int32_t> positions;  // (N), of the tokens in their documents; for hooks 1 and 2 only
};

// A gate on core attention's output, for probes.
struct OutputGate {
    Tensor z;  // (N, NH or 1, HS or 1), or (NH or 1, HS or 1) for all tokens; empty: no gate
    GateSpec spec;
    bool inside = false;  // core attention's output has it already
    explicit operator bool() const { return static_cast<bool>(z); }
};

class BlockPart {
  public:
    virtual ~BlockPart() = default;

    // Its rows of the parameter table, named without the block's prefix ("attn.gate.weight").
    virtual std::vector<ParameterSpec> parameters() const { return {}; }
    virtual PartNeeds needs(int64_t N, Precision precision) const = 0;
    // Whether hooks 4 and 5 fill what it keeps: then backward runs them again, with the projection between them, where
    // that was not kept.
    virtual bool keeps_branch() const { return false; }
    // How many heads the output projection reads of `heads`: at most as many.
    virtual int64_t output_heads(int64_t heads) const { return heads; }

    // Whether it reads positions. A stream of tokens whose keys move in their cache has none to give.
    virtual bool reads_positions() const { return false; }

    // 1 From x (N, C), the first norm's output: linear maps of the part's own.
    virtual void forward_maps(const PartView& /*v*/, Tensor /*x*/, const Exec& /*exec*/) const {}
    // Gradients of these maps' parameters from v.operands, and what they add to dx, as `part` says.
    virtual void backward_maps(const PartView& /*v*/, Tensor /*dx*/, Tensor /*x*/, Write /*write*/,
                               BackwardPart /*part*/, const Exec& /*exec*/) const {}

    // 1b The queries and keys (N, NH + NKV, HS) that RoPE will rotate, after QK-norm: `unrotated` returns them or a
    // tensor of the part's own, which forward_unrotated fills from `qk`. backward_unrotated makes the gradient of what
    // it returned that of `qk`, in place.
    virtual Tensor unrotated(const PartView& /*v*/, Tensor qk) const { return qk; }
    virtual void forward_unrotated(const PartView& /*v*/, Tensor /*qk*/, const Exec& /*exec*/) const {}
    virtual void backward_unrotated(const PartView& /*v*/, Tensor /*dqk*/, Tensor /*qk*/, Write /*write*/,
                                    const Exec& /*exec*/) const {}

    // 2 What core attention reads, (N, NH, HS) and (N, NKV, HS) after QK-norm and RoPE: `bind` replaces operands of `t`
    // by the part's own tensors, forward_operands fills them from those before. The gradients that core attention then
    // writes, bound by bind_gradients, become those of the operands before: `d`, as the parts before have bound them.
    // A part that wants nothing of what was before may write its operands there, without `bind`.
    virtual void bind(const PartView& /*v*/, AttentionTensors& /*t*/) const {}
    virtual void bind_gradients(const PartView& /*v*/, AttentionTensors& /*d*/) const {}
    virtual void forward_operands(const PartView& /*v*/, const AttentionTensors& /*before*/,
                                  const Exec& /*exec*/) const {}
    virtual void backward_operands(const PartView& /*v*/, const AttentionTensors& /*d*/,
                                   const AttentionTensors& /*before*/, Write /*write*/, const Exec& /*exec*/) const {}

    // 3 Right after core attention: changes t.out and t.lse in place, once; t.q is as core attention read it only for a
    // part that says so, which a cache that rotates queries otherwise saves. The way back is called before core
    // attention's, with d.out; what it has to add to d.q, d.k and d.v it adds in backward_operands.
    virtual bool reads_queries() const { return false; }
    virtual void forward_output(const PartView& /*v*/, const AttentionTensors& /*t*/, const Exec& /*exec*/) const {}
    virtual void backward_output(const PartView& /*v*/, const AttentionTensors& /*d*/, const AttentionTensors& /*t*/,
                                 Write /*write*/, const Exec& /*exec*/) const {}

    // 4 y, core attention's output, as the output projection reads it: returns y or a tensor of the part's own.
    // `attended` returns the same again in backward, for the projection's gradient: what the part has kept, or computed
    // again, and then forward_attended changes nothing else. dy becomes the gradient of y in place, or where
    // bind_gradients bound another gradient of core attention's output, that is written. On the way back y is given
    // only to parts that read it: the others get an empty one.
    virtual bool reads_attended() const { return false; }
    virtual Tensor forward_attended(const PartView& /*v*/, Tensor y, const Exec& /*exec*/) const { return y; }
    virtual Tensor attended(const PartView& v, Tensor y, const Exec& exec) const {
        return forward_attended(v, y, exec);
    }
    virtual void backward_attended(const PartView& /*v*/, Tensor /*dy*/, Tensor /*y*/, Write /*write*/,
                                   const Exec& /*exec*/) const {}

    // 5 The branch (N, C) that the stream gains: returns it, changed or not, or a tensor of the part's own. Backward
    // returns the gradient of what it was given, without changing `dbranch`, which may be the stream's gradient itself.
    virtual Tensor forward_branch(const PartView& /*v*/, Tensor branch, const Exec& /*exec*/) const { return branch; }
    virtual Tensor backward_branch(const PartView& /*v*/, Tensor dbranch, Write /*write*/, BackwardPart /*part*/,
                                   const Exec& /*exec*/) const {
        return dbranch;
    }

    // For probes; empty if the part is no gate on core attention's output.
    virtual OutputGate output_gate(const PartView& /*v*/) const { return {}; }
    // For probes: logits (N, NH) of a virtual column beside the keys that core attention does not know of; empty if it
    // has none.
    virtual Tensor column_scores(const PartView& /*v*/) const { return {}; }
};

// (N, a, b) as (N, a * b), with the same stride of rows.
inline Tensor flat(Tensor t) {
    if (!t || t.shape.rank() != 3) return t;
    Tensor rows(t.data, t.dtype, {t.shape[0], t.shape[1] * t.shape[2]}, t.device);
    rows.row_stride = t.row_stride;
    return rows;
}

// to = from: tensors of one dtype with as many rows, and as many elements in each, with row strides or not.
void copy_rows(Tensor to, Tensor from, const Exec& exec);

// The parts of a layer, in the order of parts.def.
using BlockParts = std::vector<std::unique_ptr<BlockPart>>;
BlockParts make_parts(const NetworkConfig& config, int64_t layer);

// At most so many tensors of each kind have the parts of one layer together.
inline constexpr size_t kMaxPartTensors = 24;
using PartTensors = std::array<Tensor, kMaxPartTensors>;

}  // namespace plimsoll
