// K bias and KV bias: a learned key beside the keys of softmax, without a value or with one. Core attention computes
// without it; its output and lse are rescaled after it, exactly, so that windows and disaggregated attention know
// nothing of it.                        Gu et al., arXiv:2410.10781; explicit attention biases: Sun et al.,
// arXiv:2402.17762
#include "kernels/extra_key.h"
#include "model/part.h"

namespace plimsoll {
namespace {

constexpr double kStart = 0.02;  // standard deviation of both, in both papers

class ExtraKeyPart final : public BlockPart {
  public:
    ExtraKeyPart(const NetworkConfig& config, int64_t layer, bool with_value)
        : heads_(config.model.heads),
          shape_{config.attention.column_shared ? 1 : heads_, config.model.head_channels()},
          scale_(config.attention.spec(layer, config.model).scale),
          with_value_(with_value) {}

    std::vector<ParameterSpec> parameters() const override {
        const InitSpec init{InitSpec::Kind::kNormal, kStart};
        std::vector<ParameterSpec> all{{.name = "attn.extra_key", .shape = shape_, .init = init, .sink = true}};
        if (with_value_) all.push_back({.name = "attn.extra_value", .shape = shape_, .init = init, .sink = true});
        return all;
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        const DType sums = accumulator_of(precision.compute);
        return {.kept = {{"extra_score", {N, heads_}, sums}},
                .operands = {},
                .scratch = {{"dextra_score", {N, heads_}, sums}}};
    }

    bool reads_queries() const override { return true; }
    void forward_output(const PartView& v, const AttentionTensors& t, const Exec& exec) const override {
        extra_key_forward(t, key(v), scale_, exec);
    }
    void backward_output(const PartView& v, const AttentionTensors& d, const AttentionTensors& t, Write write,
                         const Exec& exec) const override {
        extra_key_backward({.k = v.d[0], .v = with_value_ ? v.d[1] : Tensor{}, .score = v.scratch[0]}, d.out, t, key(v),
                           scale_, write, exec);
    }
    void backward_operands(const PartView& v, const AttentionTensors& d, const AttentionTensors& /*before*/,
                           Write /*write*/, const Exec& exec) const override {
        extra_key_backward_query(d.q, v.scratch[0], v.p[0], scale_, exec);
    }

    Tensor column_scores(const PartView& v) const override { return v.kept[0]; }

  private:
    ExtraKey key(const PartView& v) const {
        return {.k = v.p[0], .v = with_value_ ? v.p[1] : Tensor{}, .score = v.kept[0]};
    }

    int64_t heads_;
    Shape shape_;
    double scale_;
    bool with_value_;
};

}  // namespace

std::unique_ptr<BlockPart> make_extra_key(const NetworkConfig& config, int64_t layer) {
    const std::string& column = config.attention.extra_column_at(layer);
    if (column != "key" && column != "key_value") return nullptr;
    return std::make_unique<ExtraKeyPart>(config, layer, column == "key_value");
}

}  // namespace plimsoll
