// Temperatures of queries and of values, as core attention reads them: tau = 1 + tanh(x W^T) + sigmoid(alpha) log(i +
// 1) with the block's normed input x and the position i.              Selective self-attention, Zhang et al.,
// arXiv:2411.12892
//
// The paper lets the token's term be a small function of the input, and shares weights by reading the head's own query.
// Here it is a linear map of the input, NH C weights that start at 0 (0.1 % of a block): behind RoPE a query depends on
// its position, and behind QK-norm not on its length.
#include "kernels/temperature.h"

#include "kernels/matmul.h"
#include "model/part.h"

namespace plimsoll {
namespace {

constexpr double kFirstAlpha = -6;  // tau starts within 2 % of 1 up to position 2,000

class Temperature final : public BlockPart {
  public:
    // `kind`: "token", "position" or "both".
    Temperature(std::string name, const std::string& kind, Tensor AttentionTensors::*operand, const ModelConfig& model,
                int64_t heads)
        : name_(std::move(name)),
          token_(kind != "position"),
          position_(kind != "token"),
          operand_(operand),
          heads_(heads),
          HS_(model.head_channels()),
          C_(model.channels) {}

    std::vector<ParameterSpec> parameters() const override {
        std::vector<ParameterSpec> all;
        if (token_)
            all.push_back({.name = "attn." + name_ + ".weight", .shape = {heads_, C_}, .init = {}, .matrix = true});
        if (position_)
            all.push_back({.name = "attn." + name_ + ".alpha",
                           .shape = {heads_},
                           .init = {InitSpec::Kind::kConstant, kFirstAlpha}});
        return all;
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        PartNeeds needs{.kept = {{name_ + ".out", {N, heads_, HS_}, precision.compute}}, .operands = {}, .scratch = {}};
        if (token_) {
            needs.kept.push_back({name_ + ".z", {N, heads_}, precision.compute});
            needs.operands.push_back({name_ + ".dz", {N, heads_}, precision.compute});
        }
        if (position_) needs.scratch.push_back({name_ + ".dtau", {N, heads_}, accumulator_of(precision.compute)});
        return needs;
    }
    bool reads_positions() const override { return position_; }

    void forward_maps(const PartView& v, Tensor x, const Exec& exec) const override {
        if (token_) matmul_forward(z(v), x, v.p[0], {}, exec);
    }
    void backward_maps(const PartView& v, Tensor dx, Tensor x, Write write, BackwardPart part,
                       const Exec& exec) const override {
        if (!token_) return;
        if (of_weights(part)) matmul_backward_weight(v.d[0], {}, dz(v), x, write, exec);
        if (of_inputs(part)) matmul_backward_input(dx, dz(v), v.p[0], Write::kAccumulate, exec);
    }

    void bind(const PartView& v, AttentionTensors& t) const override { t.*operand_ = v.kept[0]; }
    void forward_operands(const PartView& v, const AttentionTensors& before, const Exec& exec) const override {
        temperature_forward(v.kept[0], before.*operand_, z(v), alpha(v.p), v.positions, exec);
    }
    void backward_operands(const PartView& v, const AttentionTensors& d, const AttentionTensors& before, Write write,
                           const Exec& exec) const override {
        temperature_backward(d.*operand_, dz(v), alpha(v.d), position_ ? v.scratch[0] : Tensor{}, d.*operand_,
                             before.*operand_, z(v), alpha(v.p), v.positions, write, exec);
    }

  private:
    Tensor z(const PartView& v) const { return token_ ? v.kept[1] : Tensor{}; }
    Tensor dz(const PartView& v) const { return token_ ? v.operands[0] : Tensor{}; }
    Tensor alpha(std::span<const Tensor> of) const { return position_ ? of[token_ ? 1 : 0] : Tensor{}; }

    std::string name_;
    bool token_, position_;
    Tensor AttentionTensors::*operand_;
    int64_t heads_, HS_, C_;
};

std::unique_ptr<BlockPart> make_temperature(const NetworkConfig& config, const std::string& name,
                                            const std::string& kind, Tensor AttentionTensors::*operand, int64_t heads) {
    if (kind == "none") return nullptr;
    return std::make_unique<Temperature>(name, kind, operand, config.model, heads);
}

}  // namespace

std::unique_ptr<BlockPart> make_query_temperature(const NetworkConfig& config, int64_t layer) {
    return make_temperature(config, "query_temperature", AttentionConfig::at(config.attention.query_temperature, layer),
                            &AttentionTensors::q, config.model.heads);
}
std::unique_ptr<BlockPart> make_value_temperature(const NetworkConfig& config, int64_t layer) {
    return make_temperature(config, "value_temperature", AttentionConfig::at(config.attention.value_temperature, layer),
                            &AttentionTensors::v, config.model.key_heads());
}

}  // namespace plimsoll
