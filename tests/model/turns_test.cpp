// Micro batches computed in turns (ping-pong) give the bits they give one after the other.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "model/transformer.h"
#include "tests/support/tiny_network.h"

namespace plimsoll {
namespace {

// Does each call's work when it is ended, as late as it may: nothing may read its results before, nor touch what it
// reads. A call is described anew in each phase, and must be the same.
class LateCoreAttention final : public CoreAttention {
  public:
    void begin_forward(const AttentionCall& call, const Exec&) override { begun_[call.lane] = call.t.q.data; }
    void compute_forward(const AttentionCall&, const Exec&) override {}
    void end_forward(const AttentionCall& call, const Exec& exec) override {
        EXPECT_EQ(begun_[call.lane], call.t.q.data);
        local_.compute_forward(call, exec);
    }
    void begin_backward(const AttentionCall& call, const Exec&) override { begun_[call.lane] = call.d.q.data; }
    void compute_backward(const AttentionCall&, const Exec&) override {}
    void end_backward(const AttentionCall& call, const Exec& exec) override {
        EXPECT_EQ(begun_[call.lane], call.d.q.data);
        local_.compute_backward(call, exec);
    }

  private:
    LocalCoreAttention local_;
    std::map<int, const void*> begun_;
};

class Turns : public ::testing::TestWithParam<std::tuple<std::string, Recompute, BackwardSplit, DType>> {};

TEST_P(Turns, GiveTheBitsOfOneAfterTheOther) {
    const auto& [name, recompute, split, dtype] = GetParam();
    NetworkConfig c = tiny_llama();  // untied: a tied table is added to in another order
    if (name == "parts") {
        c.attention.gate = {"shared"}, c.attention.gate_value = {"elementwise"}, c.attention.gate_query = {"headwise"};
        c.attention.query_temperature = {"both"}, c.attention.gate_projection = {"headwise"};
        c.attention.post_norm = true, c.attention.layer_scale = 0.5;
    } else if (name == "kv_bias") {
        c.attention.extra_column = {"key_value"}, c.attention.value_bias = true, c.attention.key_bias = "value";
    } else if (name == "embedding_qk") {
        c.attention.qk_source = {"embedding", "position"};
    } else if (name == "differential") {
        c.model.heads = 4, c.model.kv_heads = 2, c.attention.differential = "v1";
    } else if (name == "decorrelation") {
        c.loss.bos_decorrelation = 2;
    } else if (name == "gates_of_values") {
        c.attention.gate = {"headwise", "elementwise"}, c.attention.gate_value = {"elementwise"};
        c.attention.gate_input = "value";
    } else {
        c.attention.gate = {name};
    }
    const TinyBatch first(c, 3), second(c, 2, true, 6);
    const std::array batches{&first, &second};
    const auto model_of = [&](ActivationOptions options, Exec& exec) {
        auto model = std::make_unique<Transformer>(c, StageRange::whole(c.model), first.n(), Precision{dtype}, options);
        model->allocate();
        initialize(model->parameters(), model->table(), 3, exec);
        model->refresh_working(exec);
        return model;
    };
    Exec exec{.device = Device::kCpu, .threads = 2};
    const auto in_turns = model_of({.recompute = recompute, .sets = 2, .lanes = 2, .split = split}, exec);
    const auto in_order = model_of({.recompute = recompute, .sets = 2, .split = split}, exec);
    const std::vector<BackwardPart> parts = split == BackwardSplit::kNo
                                                ? std::vector{BackwardPart::kAll}
                                                : std::vector{BackwardPart::kInputs, BackwardPart::kWeights};
    std::array inputs{first.input(), second.input()};
    inputs[1].set = 1;
    LateCoreAttention late;
    LocalCoreAttention local;
    std::vector<int64_t> ready, wanted;
    in_turns->forward(
        late, inputs, Write::kOverwrite, [](int64_t) {}, exec);
    for (const BackwardPart part : parts)
        in_turns->backward(
            late, inputs, Write::kOverwrite, part, [&](int64_t layer) { ready.push_back(layer); }, exec);
    for (size_t m = 0; m < 2; ++m) {
        const Write write = m ? Write::kAccumulate : Write::kOverwrite;
        in_order->forward(local, inputs[m], write, exec);
        for (const BackwardPart part : parts)
            in_order->backward(
                local, {&inputs[m], 1}, write, part,
                [&](int64_t layer) {
                    if (m) wanted.push_back(layer);
                },
                exec);
    }
    EXPECT_EQ(ready, wanted);
    EXPECT_EQ(in_turns->loss(exec).nll, in_order->loss(exec).nll);
    EXPECT_NEAR(in_turns->loss(exec).decorrelation, in_order->loss(exec).decorrelation, 1e-9);
    const Tensor a = in_turns->gradients(), b = in_order->gradients();
    EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())), 0);
}

INSTANTIATE_TEST_SUITE_P(Of, Turns,
                         ::testing::Combine(::testing::Values("none", "headwise", "elementwise", "parts", "kv_bias",
                                                              "differential", "embedding_qk", "decorrelation",
                                                              "gates_of_values"),
                                            ::testing::Values(Recompute::kNone, Recompute::kLight, Recompute::kBlock),
                                            ::testing::Values(BackwardSplit::kNo),
                                            ::testing::Values(DType::kF32, DType::kBF16)));
INSTANTIATE_TEST_SUITE_P(OfSplit, Turns,
                         ::testing::Combine(::testing::Values("headwise", "elementwise", "parts", "kv_bias",
                                                              "differential", "embedding_qk", "decorrelation",
                                                              "gates_of_values"),
                                            ::testing::Values(Recompute::kNone), ::testing::Values(BackwardSplit::kYes),
                                            ::testing::Values(DType::kF64, DType::kF32)));

TEST(TurnsOf, NeedALaneEach) {
    const NetworkConfig c = tiny_llama();
    const TinyBatch batch(c, 1);
    TinyModel model(c, batch.n(), DType::kF32);
    const std::array inputs{batch.input(), batch.input()};
    EXPECT_THROW(model.model.forward(
                     model.core, inputs, Write::kOverwrite, [](int64_t) {}, model.exec),
                 Error);
    EXPECT_THROW(Transformer(c, StageRange::whole(c.model), batch.n(), Precision{}, {.sets = 3, .lanes = 2}), Error);
}

}  // namespace
}  // namespace plimsoll
