// Gates: y times, or plus, a function of the block's normed input, at five places.      Qiu et al., arXiv:2505.06708
//   G1 core attention's output, before the output projection (attention.gate)
//   G2, G3, G4 values, keys and queries as core attention reads them, behind QK-norm and RoPE: QK-norm would undo a
//      gate that came before it and is one number per head (attention.gate_value, gate_key, gate_query)
//   G5 the output projection's output (attention.gate_projection)
// z = x W^T (+ b) has an element per head, per head and channel, or per channel, the same for all heads; or is a
// learned constant. A sigmoid per head at G1 is part of core attention, everything else stands behind it.
//
// gate_input = "value": z = v W^T (+ b) of the token's values instead of x, those of all key heads side by side, as the
// parts before the gate leave them (a gate on the values reads them ungated; one on keys, queries or the projection,
// gated). With gate_value that is softmax(q k^T) (sigmoid(G(v)) * v).  Value-state gated attention, Bu et al.,
// arXiv:2510.09017; G is here a linear map of all heads' values.
//
// gate_function = "softmax" is a soft mixture of heads: a token's gates are NH softmax(z) over its heads, so that all
// of them share a fixed sum. It is the soft routing of MoH (Jin et al., arXiv:2410.11842) without its choice of the top
// k heads and its load-balance loss.
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "kernels/residual.h"
#include "model/part.h"

namespace plimsoll {
namespace {

// z of a gate: its parameters, its shape, and its gradient.
class GateInput {
  public:
    // `heads` of `channels` each, at the place that the gate acts on.
    GateInput(std::string name, const std::string& granularity, const AttentionConfig& attention,
              const ModelConfig& model, int64_t heads, int64_t channels)
        : name_(std::move(name)),
          attention_(attention),
          model_(model),
          constant_(granularity.starts_with("constant")),
          of_values_(!constant_ && attention.gate_input == "value"),
          heads_(granularity == "shared" ? 1 : heads),
          channels_(granularity.ends_with("headwise") ? 1 : channels) {}

    bool softmax() const { return attention_.gate_function == "softmax"; }
    GateSpec spec() const {
        GateSpec spec;
        if (attention_.gate_function == "half_sigmoid") spec.function = GateFunction::kHalfSigmoid;
        if (attention_.gate_function == "silu") spec.function = GateFunction::kSilu;
        if (softmax()) spec.function = GateFunction::kIdentity;
        if (attention_.gate_combination == "add") spec.combination = GateCombination::kAdd;
        return spec;
    }

    std::vector<ParameterSpec> parameters() const {
        const InitSpec start{InitSpec::Kind::kConstant, attention_.gate_start};
        const auto named = [&](const char* what) { return fmt::format("attn.{}.{}", name_, what); };
        if (constant_) return {{.name = named("constant"), .shape = {heads_, channels_}, .init = start}};
        const int64_t inputs = of_values_ ? model_.key_heads() * model_.head_channels() : model_.channels;
        std::vector<ParameterSpec> all{{.name = named("weight"),
                                        .shape = {heads_ * channels_, inputs},
                                        .init = Initializer(model_).linear(inputs),
                                        .matrix = true}};
        if (attention_.gate_bias) all.push_back({.name = named("bias"), .shape = {heads_ * channels_}, .init = start});
        return all;
    }
    // Before what else the part keeps, and before its other operands.
    void add_needs(PartNeeds& needs, int64_t N, DType compute) const {
        if (constant_) return;
        needs.kept.push_back({name_ + ".z", {N, heads_, channels_}, compute});
        needs.operands.push_back({name_ + ".dz", {N, heads_, channels_}, compute});
    }

    Tensor z(const PartView& v) const { return constant_ ? v.p[0] : v.kept[0]; }
    Tensor dz(const PartView& v) const { return constant_ ? v.d[0] : v.operands[0]; }

    // z, from hook 1 or 2 as gate_input says.
    void forward_maps(const PartView& v, Tensor x, const Exec& exec) const {
        if (!constant_ && !of_values_) map(v, x, exec);
    }
    void backward_maps(const PartView& v, Tensor dx, Tensor x, Write write, BackwardPart part, const Exec& exec) const {
        if (!constant_ && !of_values_) map_backward(v, dx, x, write, part, exec);
    }
    void forward_operands(const PartView& v, const AttentionTensors& before, const Exec& exec) const {
        if (of_values_) map(v, flat(before.v), exec);
    }
    void backward_operands(const PartView& v, const AttentionTensors& d, const AttentionTensors& before, Write write,
                           const Exec& exec) const {
        if (of_values_) map_backward(v, flat(d.v), flat(before.v), write, BackwardPart::kAll, exec);
    }
    void backward(const PartView& v, Tensor dy, Tensor dout, Tensor y, Write write, const Exec& exec) const {
        gate_backward(dy, dz(v), dout, y, z(v), spec(), write, exec);
    }

  private:
    Tensor bias(std::span<const Tensor> of) const { return attention_.gate_bias ? of[1] : Tensor{}; }
    void map(const PartView& v, Tensor input, const Exec& exec) const {
        matmul_forward(flat(z(v)), input, v.p[0], bias(v.p), exec);
        if (softmax()) head_softmax_forward(flat(z(v)), flat(z(v)), exec);
    }
    void map_backward(const PartView& v, Tensor dinput, Tensor input, Write write, BackwardPart part,
                      const Exec& exec) const {
        const Tensor dz = flat(this->dz(v));
        if (of_inputs(part) && softmax()) head_softmax_backward(dz, dz, flat(z(v)), exec);
        if (of_weights(part)) matmul_backward_weight(v.d[0], bias(v.d), dz, input, write, exec);
        if (of_inputs(part)) matmul_backward_input(dinput, dz, v.p[0], Write::kAccumulate, exec);
    }

    std::string name_;
    AttentionConfig attention_;
    ModelConfig model_;
    bool constant_, of_values_;
    int64_t heads_, channels_;
};

// What gates at all places have in common.
class GatePart : public BlockPart {
  public:
    explicit GatePart(GateInput gate) : gate_(std::move(gate)) {}

    std::vector<ParameterSpec> parameters() const override { return gate_.parameters(); }
    void forward_maps(const PartView& v, Tensor x, const Exec& exec) const override { gate_.forward_maps(v, x, exec); }
    void backward_maps(const PartView& v, Tensor dx, Tensor x, Write write, BackwardPart part,
                       const Exec& exec) const override {
        gate_.backward_maps(v, dx, x, write, part, exec);
    }
    void forward_operands(const PartView& v, const AttentionTensors& before, const Exec& exec) const override {
        gate_.forward_operands(v, before, exec);
    }
    void backward_operands(const PartView& v, const AttentionTensors& d, const AttentionTensors& before, Write write,
                           const Exec& exec) const override {
        gate_.backward_operands(v, d, before, write, exec);
    }

  protected:
    GateInput gate_;
};

// G1.
class OutputGatePart final : public GatePart {
  public:
    OutputGatePart(GateInput gate, const ModelConfig& model, bool inside)
        : GatePart(std::move(gate)), shape_{0, model.heads, model.head_channels()}, inside_(inside) {}

    PartNeeds needs(int64_t N, Precision precision) const override {
        PartNeeds needs;
        gate_.add_needs(needs, N, precision.compute);
        if (!inside_) needs.kept.push_back({"gated", {N, shape_[1], shape_[2]}, precision.compute});
        return needs;
    }

    void bind(const PartView& v, AttentionTensors& t) const override {
        if (inside_) t.gate = flat(gate_.z(v));
    }
    void bind_gradients(const PartView& v, AttentionTensors& d) const override {
        if (inside_) d.gate = flat(gate_.dz(v));
    }
    Tensor forward_attended(const PartView& v, Tensor y, const Exec& exec) const override {
        if (inside_) return y;
        gate_forward(v.kept.back(), y, gate_.z(v), gate_.spec(), exec);
        return v.kept.back();
    }
    Tensor attended(const PartView& v, Tensor y, const Exec& /*exec*/) const override {
        return inside_ ? y : v.kept.back();
    }
    bool keeps_branch() const override { return !inside_; }
    bool reads_attended() const override { return !inside_; }
    void backward_attended(const PartView& v, Tensor dy, Tensor y, Write write, const Exec& exec) const override {
        if (!inside_) gate_.backward(v, dy, dy, y, write, exec);
    }

    OutputGate output_gate(const PartView& v) const override {
        return {.z = gate_.z(v), .spec = gate_.spec(), .inside = inside_};
    }

  private:
    Shape shape_;
    bool inside_;
};

// G2, G3, G4: an operand of core attention, (N, heads, HS).
class OperandGatePart final : public GatePart {
  public:
    OperandGatePart(std::string name, GateInput gate, Tensor AttentionTensors::*operand, int64_t heads,
                    int64_t channels)
        : GatePart(std::move(gate)), name_(std::move(name)), operand_(operand), heads_(heads), channels_(channels) {}

    PartNeeds needs(int64_t N, Precision precision) const override {
        PartNeeds needs;
        gate_.add_needs(needs, N, precision.compute);
        needs.kept.push_back({name_ + ".out", {N, heads_, channels_}, precision.compute});
        return needs;
    }

    void bind(const PartView& v, AttentionTensors& t) const override { t.*operand_ = v.kept.back(); }
    void forward_operands(const PartView& v, const AttentionTensors& before, const Exec& exec) const override {
        GatePart::forward_operands(v, before, exec);
        gate_forward(v.kept.back(), before.*operand_, gate_.z(v), gate_.spec(), exec);
    }
    void backward_operands(const PartView& v, const AttentionTensors& d, const AttentionTensors& before, Write write,
                           const Exec& exec) const override {
        gate_.backward(v, d.*operand_, d.*operand_, before.*operand_, write, exec);
        GatePart::backward_operands(v, d, before, write, exec);
    }

  private:
    std::string name_;
    Tensor AttentionTensors::*operand_;
    int64_t heads_, channels_;
};

// G5: the branch (N, C), one head of C channels.
class ProjectionGatePart final : public GatePart {
  public:
    ProjectionGatePart(GateInput gate, int64_t channels) : GatePart(std::move(gate)), channels_(channels) {}

    PartNeeds needs(int64_t N, Precision precision) const override {
        PartNeeds needs;
        gate_.add_needs(needs, N, precision.compute);
        needs.kept.push_back({"gate_projection.in", {N, channels_}, precision.compute});
        needs.operands.push_back({"gate_projection.din", {N, channels_}, precision.compute});
        return needs;
    }

    bool keeps_branch() const override { return true; }
    Tensor forward_branch(const PartView& v, Tensor branch, const Exec& exec) const override {
        convert(v.kept.back(), branch, exec);
        gate_forward(as_head(branch), as_head(v.kept.back()), gate_.z(v), gate_.spec(), exec);
        return branch;
    }
    Tensor backward_branch(const PartView& v, Tensor dbranch, Write write, BackwardPart part,
                           const Exec& exec) const override {
        const Tensor din = v.operands.back();
        if (of_inputs(part)) gate_.backward(v, as_head(din), as_head(dbranch), as_head(v.kept.back()), write, exec);
        return din;
    }

  private:
    Tensor as_head(Tensor t) const { return t.reshape({t.shape[0], 1, channels_}); }

    int64_t channels_;
};

std::unique_ptr<BlockPart> make_operand_gate(const NetworkConfig& config, const std::string& name,
                                             const std::string& granularity, Tensor AttentionTensors::*operand,
                                             int64_t heads) {
    if (granularity == "none") return nullptr;
    const int64_t HS = config.model.head_channels();
    return std::make_unique<OperandGatePart>(
        name, GateInput(name, granularity, config.attention, config.model, heads, HS), operand, heads, HS);
}

}  // namespace

std::unique_ptr<BlockPart> make_output_gate(const NetworkConfig& config, int64_t layer) {
    const std::string& granularity = config.attention.gate_at(layer);
    if (granularity == "none") return nullptr;
    const ModelConfig& model = config.model;
    const bool inside = granularity == "headwise" && config.attention.plain_gates();
    return std::make_unique<OutputGatePart>(
        GateInput("gate", granularity, config.attention, model, model.heads, model.head_channels()), model, inside);
}

std::unique_ptr<BlockPart> make_value_gate(const NetworkConfig& config, int64_t layer) {
    return make_operand_gate(config, "gate_value", config.attention.at(config.attention.gate_value, layer),
                             &AttentionTensors::v, config.model.key_heads());
}
std::unique_ptr<BlockPart> make_key_gate(const NetworkConfig& config, int64_t layer) {
    return make_operand_gate(config, "gate_key", config.attention.at(config.attention.gate_key, layer),
                             &AttentionTensors::k, config.model.key_heads());
}
std::unique_ptr<BlockPart> make_query_gate(const NetworkConfig& config, int64_t layer) {
    return make_operand_gate(config, "gate_query", config.attention.at(config.attention.gate_query, layer),
                             &AttentionTensors::q, config.model.heads);
}

std::unique_ptr<BlockPart> make_projection_gate(const NetworkConfig& config, int64_t layer) {
    const std::string& granularity = config.attention.at(config.attention.gate_projection, layer);
    if (granularity == "none") return nullptr;
    const int64_t C = config.model.channels;
    return std::make_unique<ProjectionGatePart>(
        GateInput("gate_projection", granularity, config.attention, config.model, 1, C), C);
}

}  // namespace plimsoll
