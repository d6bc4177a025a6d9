// LayerScale: the attention branch times a learned vector that starts small.  Touvron et al., arXiv:2103.17239; for
// sigmoid attention Ramapuram et al., arXiv:2409.04431, with 1e-4.
#include "kernels/gate.h"

#include "kernels/residual.h"
#include "model/part.h"

namespace plimsoll {
namespace {

constexpr GateSpec kScale{.function = GateFunction::kIdentity};

class LayerScale final : public BlockPart {
  public:
    LayerScale(int64_t channels, double start) : channels_(channels), start_(start) {}

    std::vector<ParameterSpec> parameters() const override {
        return {{.name = "attn.layer_scale", .shape = {channels_}, .init = {InitSpec::Kind::kConstant, start_}}};
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        return {.kept = {{"layer_scale.in", {N, channels_}, precision.compute}},
                .operands = {{"layer_scale.din", {N, channels_}, precision.compute}},
                .scratch = {}};
    }

    bool keeps_branch() const override { return true; }
    Tensor forward_branch(const PartView& v, Tensor branch, const Exec& exec) const override {
        convert(v.kept[0], branch, exec);
        gate_forward(as_head(branch), as_head(v.kept[0]), scale(v.p), kScale, exec);
        return branch;
    }
    Tensor backward_branch(const PartView& v, Tensor dbranch, Write write, BackwardPart part,
                           const Exec& exec) const override {
        if (of_inputs(part))
            gate_backward(as_head(v.operands[0]), scale(v.d), as_head(dbranch), as_head(v.kept[0]), scale(v.p), kScale,
                          write, exec);
        return v.operands[0];
    }

  private:
    Tensor as_head(Tensor t) const { return t.reshape({t.shape[0], 1, channels_}); }
    Tensor scale(std::span<const Tensor> of) const { return of[0].reshape({1, channels_}); }

    int64_t channels_;
    double start_;
};

}  // namespace

std::unique_ptr<BlockPart> make_layer_scale(const NetworkConfig& config, int64_t /*layer*/) {
    const double start = config.attention.layer_scale;
    return start != 0 ? std::make_unique<LayerScale>(config.model.channels, start) : nullptr;
}

}  // namespace plimsoll
