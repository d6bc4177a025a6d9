// Differential attention: heads are pairs of score maps, and a pair's output is the difference of theirs.
//   V1: model.heads maps of as many queries and keys; values are two heads wide; one lambda per layer, exp(q1 . k1) -
//       exp(q2 . k2) + lambda_init; RMSNorm per pair, times 1 - lambda_init.       Ye et al., arXiv:2410.05258
//   V2: the two maps of a pair share keys and values of one width; lambda = sigmoid(x W) per token and pair; no norm.
//       So the output projection reads half as many channels.                       Microsoft, January 2026
#include "kernels/differential.h"

#include <cmath>

#include "kernels/matmul.h"
#include "model/part.h"

namespace plimsoll {
namespace {

// Values are two heads wide, one pair of them for both key heads of the pair: core attention gets them once for either.
class DifferentialV1 final : public BlockPart {
  public:
    DifferentialV1(const NetworkConfig& config, int64_t layer)
        : sizes_(config.attention.core_sizes(config.model)),
          start_(0.8 - 0.6 * std::exp(-0.3 * static_cast<double>(layer))),
          spec_{.factor = 1 - start_, .eps = config.model.norm_eps} {}

    std::vector<ParameterSpec> parameters() const override {
        return {{.name = "attn.lambda", .shape = {4, sizes_.HS}, .init = {InitSpec::Kind::kNormal, 0.1}},
                {.name = "attn.pair_norm.gain", .shape = {sizes_.VS}, .init = {InitSpec::Kind::kOne}}};
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        const auto& [NH, NKV, HS, VS] = sizes_;
        const DType type = precision.compute, sums = accumulator_of(type);
        const Shape values{N, NKV, VS}, maps{N, NH, VS}, pairs{N, NH / 2};
        return {.kept = {{"map_v", values, type},
                         {"map_out", maps, type},
                         {"lambda", {N, 1}, sums},
                         {"pair_rstd", pairs, sums},
                         {"pairs", {N, NH, HS}, type}},
                .operands = {},
                .scratch = {{"dmap_v", values, type},
                            {"dmap_out", maps, type},
                            {"dlambda_parts", pairs, sums},
                            {"dlambda", {N, 1}, sums}}};
    }

    void bind(const PartView& v, AttentionTensors& t) const override { t.v = v.kept[0], t.out = v.kept[1]; }
    void bind_gradients(const PartView& v, AttentionTensors& d) const override {
        d.v = v.scratch[0], d.out = v.scratch[1];
    }
    void forward_operands(const PartView& v, const AttentionTensors& before, const Exec& exec) const override {
        repeat_heads_forward(heads_of(v.kept[0]), before.v, 2, exec);
        differential_lambda_forward(first(v.kept[2]), v.p[0], start_, exec);
    }
    void backward_operands(const PartView& v, const AttentionTensors& d, const AttentionTensors& /*before*/,
                           Write /*write*/, const Exec& exec) const override {
        repeat_heads_backward(d.v, heads_of(v.scratch[0]), 2, exec);
    }

    bool keeps_branch() const override { return true; }
    Tensor forward_attended(const PartView& v, Tensor y, const Exec& exec) const override {
        differential_forward(tensors(v, y), spec_, exec);
        return v.kept[4];
    }
    Tensor attended(const PartView& v, Tensor /*y*/, const Exec& /*exec*/) const override { return v.kept[4]; }
    bool reads_attended() const override { return true; }
    void backward_attended(const PartView& v, Tensor dy, Tensor y, Write write, const Exec& exec) const override {
        const Tensor dlambda = first(v.scratch[3]);
        differential_backward(
            {.y = v.scratch[1], .lambda = dlambda, .gain = v.d[1], .rstd = v.scratch[2], .out = in_pairs(dy)},
            tensors(v, y), spec_, write, exec);
        differential_lambda_backward(v.d[0], dlambda, v.p[0], write, exec);
    }

  private:
    static Tensor first(Tensor t) { return t.slice_rows(0, 1).reshape({1}); }
    // Values in heads of HS channels.
    Tensor heads_of(Tensor t) const { return t.reshape({t.rows(), 2 * sizes_.NKV, sizes_.HS}); }
    Tensor in_pairs(Tensor t) const { return t.reshape({t.rows(), sizes_.NH / 2, sizes_.VS}); }
    DifferentialTensors tensors(const PartView& v, Tensor y) const {
        return {.y = y, .lambda = first(v.kept[2]), .gain = v.p[1], .rstd = v.kept[3], .out = in_pairs(v.kept[4])};
    }

    AttentionConfig::CoreSizes sizes_;
    double start_;
    DifferentialSpec spec_;
};

class DifferentialV2 final : public BlockPart {
  public:
    explicit DifferentialV2(const ModelConfig& model) : model_(model), pairs_(model.heads / 2) {}

    std::vector<ParameterSpec> parameters() const override {
        return {{.name = "attn.lambda.weight",
                 .shape = {pairs_, model_.channels},
                 .init = Initializer(model_).linear(model_.channels),
                 .matrix = true}};
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        const DType type = precision.compute;
        const int64_t HS = model_.head_channels();
        return {.kept = {{"lambda", {N, pairs_}, type}, {"pairs", {N, pairs_, HS}, type}},
                .operands = {{"dlambda", {N, pairs_}, type}},
                .scratch = {{"dmap_out", {N, model_.heads, HS}, type}}};
    }

    void forward_maps(const PartView& v, Tensor x, const Exec& exec) const override {
        matmul_forward(v.kept[0], x, v.p[0], {}, exec);
    }
    void backward_maps(const PartView& v, Tensor dx, Tensor x, Write write, BackwardPart part,
                       const Exec& exec) const override {
        if (of_weights(part)) matmul_backward_weight(v.d[0], {}, v.operands[0], x, write, exec);
        if (of_inputs(part)) matmul_backward_input(dx, v.operands[0], v.p[0], Write::kAccumulate, exec);
    }

    void bind_gradients(const PartView& v, AttentionTensors& d) const override { d.out = v.scratch[0]; }
    int64_t output_heads(int64_t heads) const override { return heads / 2; }
    Tensor forward_attended(const PartView& v, Tensor y, const Exec& exec) const override {
        differential_forward(tensors(v, y), {}, exec);
        return v.kept[1];
    }
    bool keeps_branch() const override { return true; }
    Tensor attended(const PartView& v, Tensor /*y*/, const Exec& /*exec*/) const override { return v.kept[1]; }
    bool reads_attended() const override { return true; }
    void backward_attended(const PartView& v, Tensor dy, Tensor y, Write write, const Exec& exec) const override {
        differential_backward({.y = v.scratch[0], .lambda = v.operands[0], .gain = {}, .rstd = {}, .out = dy},
                              tensors(v, y), {}, write, exec);
    }

  private:
    static DifferentialTensors tensors(const PartView& v, Tensor y) {
        return {.y = y, .lambda = v.kept[0], .gain = {}, .rstd = {}, .out = v.kept[1]};
    }

    ModelConfig model_;
    int64_t pairs_;
};

}  // namespace

std::unique_ptr<BlockPart> make_differential(const NetworkConfig& config, int64_t layer) {
    const std::string& kind = config.attention.differential;
    if (kind == "v1") return std::make_unique<DifferentialV1>(config, layer);
    if (kind == "v2") return std::make_unique<DifferentialV2>(config.model);
    return nullptr;
}

}  // namespace plimsoll
