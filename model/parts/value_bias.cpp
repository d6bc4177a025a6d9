// V bias: a learned vector added to every output of attention, the control beside K and KV bias: no query attends to
// it.                                                                                      Gu et al., arXiv:2410.10781
#include "kernels/extra_key.h"
#include "model/part.h"

namespace plimsoll {
namespace {

constexpr double kStart = 0.02;

class ValueBias final : public BlockPart {
  public:
    explicit ValueBias(const NetworkConfig& config)
        : heads_(config.model.heads),
          shape_{config.attention.column_shared ? 1 : heads_, config.model.head_channels()} {}

    std::vector<ParameterSpec> parameters() const override {
        return {{.name = "attn.value_bias", .shape = shape_, .init = {InitSpec::Kind::kNormal, kStart}, .sink = true}};
    }
    PartNeeds needs(int64_t N, Precision precision) const override {
        return {.kept = {}, .operands = {}, .scratch = {{"biased", {N, heads_, shape_[1]}, precision.compute}}};
    }

    Tensor forward_attended(const PartView& v, Tensor y, const Exec& exec) const override {
        head_bias_forward(v.scratch[0], y, v.p[0], exec);
        return v.scratch[0];
    }
    void backward_attended(const PartView& v, Tensor dy, Tensor /*y*/, Write write, const Exec& exec) const override {
        head_bias_backward(v.d[0], dy, write, exec);
    }

  private:
    int64_t heads_;
    Shape shape_;
};

}  // namespace

std::unique_ptr<BlockPart> make_value_bias(const NetworkConfig& config, int64_t /*layer*/) {
    return config.attention.value_bias ? std::make_unique<ValueBias>(config) : nullptr;
}

}  // namespace plimsoll
