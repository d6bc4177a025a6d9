// A norm on the attention branch before it joins the stream, of the kind of model.norm: x + norm(attention(norm1(x))).
// Ramapuram et al., arXiv:2409.04431, need it ("hybrid-norm") for sigmoid attention at length 4,096.
#include "kernels/norm.h"

#include "kernels/residual.h"
#include "model/part.h"

namespace plimsoll {
namespace {

class PostNorm final : public BlockPart {
  public:
    explicit PostNorm(const ModelConfig& model)
        : spec_(model.norm_spec()), channels_(model.channels), layer_(model.norm == "layer") {}

    std::vector<ParameterSpec> parameters() const override {
        std::vector<ParameterSpec> all{
            {.name = "attn.post_norm.gain", .shape = {channels_}, .init = {InitSpec::Kind::kOne}}};
        if (layer_) all.push_back({.name = "attn.post_norm.bias", .shape = {channels_}, .init = {}});
        return all;
    }
    // Norms read the stream's dtype and add to its gradient, so the branch is kept in it.
    PartNeeds needs(int64_t N, Precision precision) const override {
        const DType stream = precision.stream();
        PartNeeds needs{.kept = {{"post_norm.in", {N, channels_}, stream}, {"post_norm.rstd", {N}, stream}},
                        .operands = {{"post_norm.din", {N, channels_}, precision.compute}},
                        .scratch = {{"post_norm.dsum", {N, channels_}, stream}}};
        if (layer_) needs.kept.push_back({"post_norm.mean", {N}, stream});
        return needs;
    }

    bool keeps_branch() const override { return true; }
    Tensor forward_branch(const PartView& v, Tensor branch, const Exec& exec) const override {
        convert(v.kept[0], branch, exec);
        norm_forward(branch, mean(v), v.kept[1], v.kept[0], v.p[0], bias(v.p), spec_, exec);
        return branch;
    }
    Tensor backward_branch(const PartView& v, Tensor dbranch, Write write, BackwardPart part,
                           const Exec& exec) const override {
        const Tensor din = v.operands[0], sum = v.scratch[0];
        if (!of_inputs(part)) return din;
        norm_backward(sum, v.d[0], bias(v.d), dbranch, v.kept[0], v.p[0], mean(v), v.kept[1], spec_, Write::kOverwrite,
                      write, exec);
        convert(din, sum, exec);
        return din;
    }

  private:
    Tensor mean(const PartView& v) const { return layer_ ? v.kept[2] : Tensor{}; }
    Tensor bias(std::span<const Tensor> of) const { return layer_ ? of[1] : Tensor{}; }

    NormSpec spec_;
    int64_t channels_;
    bool layer_;
};

}  // namespace

std::unique_ptr<BlockPart> make_post_norm(const NetworkConfig& config, int64_t /*layer*/) {
    return config.attention.post_norm ? std::make_unique<PostNorm>(config.model) : nullptr;
}

}  // namespace plimsoll
