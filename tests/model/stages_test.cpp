// A network in parts: the stages of a pipeline, and gradients of weights computed later than those of inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/memory.h"
#include "kernels/residual.h"
#include "support/named_networks.h"

namespace plimsoll {
namespace {

constexpr int kMicroBatches = 3;

class Stages : public testing::TestWithParam<Named> {
  protected:
    // Five layers, so that stages differ.
    NetworkConfig config() const {
        NetworkConfig c = GetParam().config;
        c.model.layers = 5;
        return c;
    }
    std::vector<TinyBatch> batches() const {
        std::vector<TinyBatch> list;
        for (int i = 0; i < kMicroBatches; ++i) list.push_back(batch_of(GetParam(), 2 + i));
        return list;
    }
    static int64_t most_tokens(const std::vector<TinyBatch>& batches) { return batches.back().n(); }
};

std::unique_ptr<Transformer> stage_of(const NetworkConfig& config, StageRange range, int64_t N, DType dtype,
                                      ActivationOptions options, const Exec& exec) {
    auto model = std::make_unique<Transformer>(config, range, N, Precision{dtype}, options);
    model->allocate();
    initialize(model->parameters(), model->table(), 3, exec);
    model->refresh_working(exec);
    return model;
}

// What a pipeline of these ranges computes, all forwards before all backwards.
struct Pipeline {
    Exec exec{.device = Device::kCpu, .threads = 2};
    LocalCoreAttention core;
    std::vector<std::unique_ptr<Transformer>> stages;
    LossSums sums;

    Pipeline(const NetworkConfig& config, const std::vector<StageRange>& ranges, int64_t N, DType dtype,
             BackwardSplit split) {
        for (const StageRange& range : ranges)
            stages.push_back(stage_of(config, range, N, dtype, {.sets = kMicroBatches, .split = split}, exec));
    }
    static Write write(int m) { return m == 0 ? Write::kOverwrite : Write::kAccumulate; }

    double run(const std::vector<TinyBatch>& batches, BackwardSplit split) {
        for (int m = 0; m < kMicroBatches; ++m)
            for (size_t s = 0; s < stages.size(); ++s) {
                const ModelInput input = input_of(batches, m);
                if (s) copy_tensor(stages[s]->stream_in(n(input), m), stages[s - 1]->stream_out(n(input), m), exec);
                stages[s]->forward(core, input, write(m), exec);
            }
        const std::vector<BackwardPart> parts = split == BackwardSplit::kNo
                                                    ? std::vector{BackwardPart::kAll}
                                                    : std::vector{BackwardPart::kInputs, BackwardPart::kWeights};
        for (const BackwardPart part : parts)
            for (int m = 0; m < kMicroBatches; ++m)
                for (size_t s = stages.size(); s-- > 0;) {
                    const ModelInput input = input_of(batches, m);
                    if (s + 1 < stages.size() && part != BackwardPart::kWeights)
                        copy_tensor(stages[s]->stream_gradient(n(input), m),
                                    stages[s + 1]->stream_gradient(n(input), m), exec);
                    stages[s]->backward(
                        core, {&input, 1}, write(m), part, [](int64_t) {}, exec);
                }
        sums = {};
        for (const auto& stage : stages) sums += stage->loss(exec);
        return sums.nll + sums.z;
    }
    static ModelInput input_of(const std::vector<TinyBatch>& batches, int m) {
        ModelInput input = batches[static_cast<size_t>(m)].input();
        input.set = m;
        return input;
    }
    static int64_t n(const ModelInput& input) { return static_cast<int64_t>(input.tokens.size()); }
};

// The gradient of a parameter, summed over the stages that hold it, in their order.
std::vector<double> gradient_of(const Pipeline& pipeline, const std::string& name) {
    std::vector<double> sum;
    for (const auto& stage : pipeline.stages) {
        const Tensor g = stage->table().view(stage->gradients(), stage->table().find(name));
        if (!g) continue;
        sum.resize(static_cast<size_t>(g.shape.elements()));
        for (size_t i = 0; i < sum.size(); ++i)
            sum[i] += g.dtype == DType::kF64 ? g.span<double>()[i] : static_cast<double>(g.span<float>()[i]);
    }
    return sum;
}

TEST_P(Stages, ComputeTheBitsOfTheWholeNetwork) {
    const NetworkConfig c = config();
    const std::vector<TinyBatch> data = batches();
    const std::vector<std::vector<StageRange>> cuts{
        {StageRange::whole(c.model)},
        {{0, 2, true, false}, {2, 5, false, true}},
        {{0, 1, true, false}, {1, 2, false, false}, {2, 4, false, false}, {4, 5, false, true}}};
    for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
        // One set of activations, each micro batch forward and backward in turn: what is tested elsewhere.
        TinyModel whole(c, most_tokens(data), dtype);
        for (int m = 0; m < kMicroBatches; ++m) {
            const ModelInput input = data[static_cast<size_t>(m)].input();
            whole.model.forward(whole.core, input, Pipeline::write(m), whole.exec);
            whole.model.backward(
                whole.core, input, Pipeline::write(m), [](int64_t) {}, whole.exec);
        }
        const LossSums sums = whole.model.loss(whole.exec);
        for (const std::vector<StageRange>& ranges : cuts)
            for (const BackwardSplit split : {BackwardSplit::kNo, BackwardSplit::kYes}) {
                Pipeline pipeline(c, ranges, most_tokens(data), dtype, split);
                EXPECT_EQ(pipeline.run(data, split), sums.nll + sums.z);
                EXPECT_NEAR(pipeline.sums.decorrelation, sums.decorrelation, 1e-13 * sums.decorrelation);
                for (const Parameter& p : whole.model.table().entries()) {
                    const Tensor g =
                        whole.model.table().view(whole.model.gradients(), whole.model.table().find(p.name));
                    const std::vector<double> here = gradient_of(pipeline, p.name);
                    ASSERT_EQ(here.size(), static_cast<size_t>(g.shape.elements())) << p.name;
                    // The head's and the embedding's part of a tied table are added in another order.
                    const bool apart =
                        c.model.tied && p.name == "wte.weight" && (ranges.size() > 1 || split == BackwardSplit::kYes);
                    double largest = 0;
                    for (const double value : here) largest = std::max(largest, std::abs(value));
                    for (size_t i = 0; i < here.size(); ++i) {
                        const double there =
                            g.dtype == DType::kF64 ? g.span<double>()[i] : static_cast<double>(g.span<float>()[i]);
                        if (apart)
                            ASSERT_NEAR(here[i], there, 1e-6 * largest) << p.name << " " << i;
                        else
                            ASSERT_EQ(here[i], there) << p.name << " " << i << ", " << ranges.size() << " stages";
                    }
                }
            }
    }
}

// Those that stages can hold.
std::vector<Named> staged() {
    std::vector<Named> all = trained_networks();
    std::erase_if(all, [](const Named& n) {
        return reads_source(n.config, StageRange::whole(n.config.model), QkSource::kEmbedding);
    });
    return all;
}

INSTANTIATE_TEST_SUITE_P(Networks, Stages, testing::ValuesIn(staged()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(StagesOf, ASplitBackwardNeedsAllActivations) {
    const NetworkConfig c = tiny_llama();
    EXPECT_THROW(Transformer(c, StageRange::whole(c.model), 11, Precision{DType::kF32},
                             {.recompute = Recompute::kLight, .split = BackwardSplit::kYes}),
                 Error);
}

TEST(StagesOf, EmbeddingsForQueriesStayOnTheirStage) {
    NetworkConfig c = tiny_llama();
    c.model.layers = 4, c.attention.qk_source = {"embedding", "embedding", "input", "input"};
    const auto plan = [&](StageRange range) { Transformer(c, range, 11, Precision{DType::kF32}); };
    EXPECT_NO_THROW(plan({0, 2, true, false}));
    EXPECT_NO_THROW(plan({2, 4, false, true}));
    try {
        plan({1, 4, false, true});
        ADD_FAILURE() << "a stage without embeddings";
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("attention.qk_source = \"embedding\" in layers 1 to 3"),
                  std::string::npos);
    }
}

// The gradients of weights may come later than those of inputs, which embeddings for queries add to.
TEST(StagesOf, ASplitBackwardWithEmbeddingsForQueriesGivesTheSameBits) {
    for (const char* map : {"separate", "merged", "symmetric"}) {
        NetworkConfig c = tiny_llama();
        c.model.kv_heads = 3, c.attention.qk_source = {"embedding"}, c.attention.query_key = map;
        const TinyBatch batch(c, 2);
        Exec exec{.device = Device::kCpu, .threads = 2};
        LocalCoreAttention core;
        const ModelInput input = batch.input();
        const auto whole = stage_of(c, StageRange::whole(c.model), batch.n(), DType::kF32, {}, exec);
        const auto split = stage_of(c, StageRange::whole(c.model), batch.n(), DType::kF32,
                                    {.sets = 1, .split = BackwardSplit::kYes}, exec);
        for (Transformer* model : {whole.get(), split.get()}) model->forward(core, input, Write::kOverwrite, exec);
        const auto nothing = [](int64_t) {};
        whole->backward(core, {&input, 1}, Write::kOverwrite, BackwardPart::kAll, nothing, exec);
        for (const BackwardPart part : {BackwardPart::kInputs, BackwardPart::kWeights})
            split->backward(core, {&input, 1}, Write::kOverwrite, part, nothing, exec);
        const std::span<float> a = whole->gradients().span<float>(), b = split->gradients().span<float>();
        EXPECT_TRUE(std::ranges::equal(a, b)) << map;
    }
}

// Each layer is announced before it is read and once its gradients are complete: weights last.
TEST(StagesOf, LayersAreAnnouncedInOrder) {
    NetworkConfig c = tiny_llama();
    c.model.layers = 3;
    const TinyBatch batch(c, 2);
    Exec exec{.device = Device::kCpu, .threads = 1};
    LocalCoreAttention core;
    const auto model =
        stage_of(c, {1, 3, false, true}, batch.n(), DType::kF32, {.sets = 1, .split = BackwardSplit::kYes}, exec);
    fill_zero(model->stream_in(batch.n(), 0), exec);
    std::vector<int64_t> seen;
    const auto note = [&](int64_t layer) { seen.push_back(layer); };
    const ModelInput input = batch.input();
    model->forward(core, {&input, 1}, Write::kOverwrite, note, exec);
    EXPECT_EQ(seen, (std::vector<int64_t>{-1, 1, 2, 3}));
    seen.clear();
    model->backward(core, {&input, 1}, Write::kOverwrite, BackwardPart::kInputs, note, exec);
    EXPECT_TRUE(seen.empty());
    model->backward(core, {&input, 1}, Write::kOverwrite, BackwardPart::kWeights, note, exec);
    EXPECT_EQ(seen, (std::vector<int64_t>{3, 2, 1, -1}));
}

}  // namespace
}  // namespace plimsoll
