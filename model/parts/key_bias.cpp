// A bias on each key's scores, a learned linear function of the key's value: b_jh = w_h . v_j, with v as core attention
// reads it. No published source is known to us; the definition is plimsoll's.
#include "kernels/key_bias.h"

#include "model/part.h"

namespace plimsoll {
namespace {

constexpr double kStart = 0.02;  // standard deviation, as of the other virtual columns

class ValueKeyBias final : public BlockPart {
  public:
    explicit ValueKeyBias(const ModelConfig& model) : heads_(model.heads), HS_(model.head_channels()) {}

    std::vector<ParameterSpec> parameters() const override {
        return {
            {.name = "attn.key_bias", .shape = {heads_, HS_}, .init = {InitSpec::Kind::kNormal, kStart}, .sink = true}};
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        const DType sums = accumulator_of(precision.compute);
        return {
            .kept = {{"key_bias", {N, heads_}, sums}}, .operands = {}, .scratch = {{"dkey_bias", {N, heads_}, sums}}};
    }

    void bind(const PartView& v, AttentionTensors& t) const override { t.key_bias = v.kept[0]; }
    void bind_gradients(const PartView& v, AttentionTensors& d) const override { d.key_bias = v.scratch[0]; }
    void forward_operands(const PartView& v, const AttentionTensors& before, const Exec& exec) const override {
        key_bias_forward(v.kept[0], before.v, v.p[0], exec);
    }
    void backward_operands(const PartView& v, const AttentionTensors& d, const AttentionTensors& before, Write write,
                           const Exec& exec) const override {
        key_bias_backward(d.v, v.d[0], v.scratch[0], before.v, v.p[0], write, exec);
    }

  private:
    int64_t heads_, HS_;
};

}  // namespace

std::unique_ptr<BlockPart> make_key_bias(const NetworkConfig& config, int64_t /*layer*/) {
    return config.attention.key_bias == "value" ? std::make_unique<ValueKeyBias>(config.model) : nullptr;
}

}  // namespace plimsoll
