// Kernels: scores are products of phi(q) and phi(k). Meant for weightings that divide by the sum of scores.
//   elu1: phi(x) = elu(x) + 1 per channel, of what RoPE has rotated: scores are positive.
//   mlp:  phi(x) = W2 relu(W1 x), one for queries, keys and heads of a layer, before RoPE.
//                                        Gu et al., arXiv:2410.10781; elu + 1: Katharopoulos et al., arXiv:2006.16236
#include "kernels/feature_map.h"

#include <cmath>

#include "kernels/matmul.h"
#include "model/part.h"

namespace plimsoll {
namespace {

// In place: nobody wants queries and keys as they were, since the gradient follows from what they became.
class Elu1 final : public BlockPart {
  public:
    PartNeeds needs(int64_t /*N*/, Precision /*precision*/) const override { return {}; }
    void forward_operands(const PartView& /*v*/, const AttentionTensors& before, const Exec& exec) const override {
        elu1_forward(before.q, before.q, exec);
        elu1_forward(before.k, before.k, exec);
    }
    void backward_operands(const PartView& /*v*/, const AttentionTensors& d, const AttentionTensors& before,
                           Write /*write*/, const Exec& exec) const override {
        elu1_backward(d.q, d.q, before.q, exec);
        elu1_backward(d.k, d.k, before.k, exec);
    }
};

class MlpMap final : public BlockPart {
  public:
    explicit MlpMap(const ModelConfig& model)
        : model_(model), H_(model.heads + model.key_heads()), HS_(model.head_channels()) {}

    // sail-sg's initial values, N(0, 2 / (5 fan_in)): with the usual 0.02 twice scores would be nearly zero.
    std::vector<ParameterSpec> parameters() const override {
        const InitSpec init = model_.init == "pytorch"
                                  ? Initializer(model_).linear(HS_)
                                  : InitSpec{InitSpec::Kind::kNormal, std::sqrt(0.4 / static_cast<double>(HS_))};
        return {{.name = "attn.map.up.weight", .shape = {HS_, HS_}, .init = init, .matrix = true, .uses = H_},
                {.name = "attn.map.down.weight", .shape = {HS_, HS_}, .init = init, .matrix = true, .uses = H_}};
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        const auto tensor = [&](const char* name) { return PartTensor{name, {N, H_, HS_}, precision.compute}; };
        return {.kept = {tensor("map_in"), tensor("map_act"), tensor("phi_qk")},
                .operands = {},
                .scratch = {tensor("dmap_out"), tensor("dmap_act")}};
    }

    Tensor unrotated(const PartView& v, Tensor /*qk*/) const override { return v.kept[kOut]; }
    void forward_unrotated(const PartView& v, Tensor qk, const Exec& exec) const override {
        copy_rows(v.kept[kIn], qk, exec);
        const Tensor act = rows(v.kept[kAct]);
        matmul_activation_forward(act, act, rows(v.kept[kIn]), v.p[0], {}, Activation::kRelu, exec);
        matmul_forward(rows(v.kept[kOut]), act, v.p[1], {}, exec);
    }
    void backward_unrotated(const PartView& v, Tensor dqk, Tensor /*qk*/, Write write,
                            const Exec& exec) const override {
        const Tensor d = rows(v.scratch[0]), dact = rows(v.scratch[1]), act = rows(v.kept[kAct]);
        copy_rows(v.scratch[0], dqk, exec);
        matmul_backward_weight(v.d[1], {}, d, act, write, exec);
        matmul_activation_backward(dact, dact, d, v.p[1], act, Activation::kRelu, exec);
        matmul_backward_weight(v.d[0], {}, dact, rows(v.kept[kIn]), write, exec);
        matmul_backward_input(d, dact, v.p[0], Write::kOverwrite, exec);
        copy_rows(dqk, v.scratch[0], exec);
    }

  private:
    enum Kept : size_t { kIn, kAct, kOut };

    // Each head's row as one of a matrix.
    static Tensor rows(Tensor t) { return t.reshape({t.shape[0] * t.shape[1], t.shape[2]}); }

    ModelConfig model_;
    int64_t H_, HS_;
};

}  // namespace

std::unique_ptr<BlockPart> make_feature_map(const NetworkConfig& config, int64_t /*layer*/) {
    if (config.attention.feature_map == "elu1") return std::make_unique<Elu1>();
    if (config.attention.feature_map == "mlp") return std::make_unique<MlpMap>(config.model);
    return nullptr;
}

}  // namespace plimsoll
