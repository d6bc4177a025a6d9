// Which rule updates which parameter: groups, Muon's and OrthoAdam's parameters, and who owns them.
#include <gtest/gtest.h>

#include <cmath>

#include "support/updates.h"
#include "train/optimizer.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

// Every kind of parameter: stacked queries, keys and values of different sizes, SwiGLU, gates, sinks, QK-norm, a head.
NetworkConfig network() {
    NetworkConfig c;
    c.model.layers = 2, c.model.channels = 24, c.model.heads = 4, c.model.kv_heads = 2, c.model.head_size = 6;
    c.model.ffn = 20, c.model.context = 8, c.model.tied = false, c.model.norm = "layer", c.model.bias = true;
    c.attention.gate = {"headwise"}, c.attention.extra_column = {"learned"};
    c.vocab = 13;
    return c;
}

// A network in fp64 with random parameters and gradients.
struct Subject {
    Transformer model;
    explicit Subject(const NetworkConfig& config = network())
        : model(config, StageRange::whole(config.model), 8, Precision{DType::kF64}) {
        model.allocate();
        const RandomStream parameters(1, "parameters"), gradients(1, "gradients");
        for (int i = 0; i < static_cast<int>(model.table().entries().size()); ++i) {
            const Tensor p = model.table().view(model.parameters(), i), g = model.table().view(model.gradients(), i);
            for (size_t n = 0; n < static_cast<size_t>(p.elements()); ++n) {
                const auto at = static_cast<uint64_t>(i) << 32 | n;
                p.span<double>()[n] = parameters.normal(at), g.span<double>()[n] = gradients.normal(at);
            }
        }
    }
    std::vector<ElementRange> all() const { return {{0, model.table().buffer_elements()}}; }
    std::vector<double> parameter(const std::string& name) const {
        const std::span<double> values =
            model.table().view(model.parameters(), model.table().find(name)).span<double>();
        return {values.begin(), values.end()};
    }
    // After some updates by an optimizer of its own.
    std::vector<double> updated(const OptimizerSection& section, const std::string& name, int steps = 1) {
        Subject copy(model.config());
        copy.update(section, copy.all(), steps);
        return copy.parameter(name);
    }
    void update(const OptimizerSection& section, const std::vector<ElementRange>& owned, int steps = 1) {
        Optimizer optimizer(section, model.table(), model.precision(), owned, 5);
        optimizer.allocate();
        for (int step = 1; step <= steps; ++step) optimizer.step(model, 0.01, 0.5, step, {});
    }
};

OptimizerSection section(const char* kind) {
    OptimizerSection s;
    s.kind = kind;
    return s;
}

// The frobenius norm of what one step changed, over rows [begin, begin + count) of a matrix.
double change(const std::vector<double>& before, const std::vector<double>& after, int64_t columns, int64_t begin,
              int64_t count) {
    double sum = 0;
    for (int64_t i = begin * columns; i < (begin + count) * columns; ++i)
        sum += std::pow(after[static_cast<size_t>(i)] - before[static_cast<size_t>(i)], 2);
    return std::sqrt(sum);
}

TEST(OptimizerRules, MuonUpdatesEachStackedMatrixByItself) {
    Subject subject;
    OptimizerSection muon = section("muon");
    muon.weight_decay = 0;
    Subject after;
    after.update(muon, after.all());
    // What muon_step makes of each matrix alone.
    for (const auto& [name, rows] : std::map<std::string, std::vector<int64_t>>{
             {"attn.qkv", {24, 12, 12}}, {"attn.out", {24}}, {"mlp.up", {20, 20}}, {"mlp.down", {24}}}) {
        const std::string full = "blocks.1." + name + ".weight";
        const int index = subject.model.table().find(full);
        const Tensor param = subject.model.table().view(subject.model.parameters(), index),
                     grad = subject.model.table().view(subject.model.gradients(), index);
        EXPECT_EQ(subject.model.table().entries()[static_cast<size_t>(index)].stacked, rows) << full;
        int64_t begin = 0;
        for (const int64_t count : rows) {
            const auto size = static_cast<size_t>(count * param.shape[1]);
            std::vector<double> buffer(size), a(size), b(size), c(size), d(size);
            const auto flat = [](std::vector<double>& v) {
                return Tensor(v.data(), DType::kF64, {static_cast<int64_t>(v.size())});
            };
            muon_step(param.slice_rows(begin, count), flat(buffer).reshape({count, param.shape[1]}),
                      grad.slice_rows(begin, count), {}, {flat(a), flat(b), flat(c), flat(d)},
                      {.lr = 0.01, .gradient_scale = 0.5}, {});
            begin += count;
        }
        EXPECT_EQ(after.parameter(full), subject.parameter(full)) << full;
    }
}

// Plain descent, whose steps are the rate times the scale times the gradient: another rate and scale each time.
TEST(OptimizerRules, EveryStepHasItsOwnRateAndScale) {
    Subject subject;
    OptimizerSection plain = section("sgd");
    plain.momentum = 0, plain.weight_decay = 0;
    Optimizer optimizer(plain, subject.model.table(), subject.model.precision(), subject.all());
    optimizer.allocate();
    const Tensor gradients = subject.model.gradients(), parameters = subject.model.parameters();
    const auto all = parameters.span<double>();
    int64_t step = 0;
    for (const auto& [lr, scale] : {std::pair{0.01, 0.5}, {0.2, 0.5}, {0.0, 1.0}, {0.2, 0.125}}) {
        const std::vector<double> before(all.begin(), all.end());
        optimizer.step(subject.model, lr, scale, ++step, {});
        for (size_t i = 0; i < before.size(); ++i)
            ASSERT_NEAR(all[i], before[i] - lr * scale * gradients.span<double>()[i], 1e-12) << step << " " << i;
    }
}

TEST(OptimizerRules, EverythingElseOfMuonIsAdamWs) {
    Subject muon, adamw;
    muon.update(section("muon"), muon.all(), 2), adamw.update(section("adamw"), adamw.all(), 2);
    for (const Parameter& p : muon.model.table().entries())
        EXPECT_EQ(muon.parameter(p.name) == adamw.parameter(p.name), p.stacked.empty()) << p.name;
    EXPECT_TRUE(muon.model.table()
                    .entries()[static_cast<size_t>(muon.model.table().find("blocks.0.attn.gate.weight"))]
                    .stacked.empty());
}

// rms: a step's root mean square is 0.2 of the rate, as far as singular values are 1.
TEST(OptimizerRules, MuonsScaleIsAKey) {
    Subject subject;
    OptimizerSection rms = section("muon"), spectral = rms;
    rms.weight_decay = spectral.weight_decay = 0, spectral.muon_scale = "spectral";
    const std::string name = "blocks.0.mlp.down.weight";  // (24, 20)
    const std::vector<double> before = subject.parameter(name);
    const double by_rms = change(before, subject.updated(rms, name), 20, 0, 24);
    EXPECT_NEAR(by_rms / std::sqrt(24.0 * 20.0), 0.2 * 0.01, 0.05 * 0.01);
    EXPECT_NEAR(by_rms / change(before, subject.updated(spectral, name), 20, 0, 24),
                0.2 * std::sqrt(24.0) / std::sqrt(24.0 / 20), 1e-9);
    OptimizerSection still = rms;
    still.muon_momentum = 0.5;
    // The first step is the gradient's alone, but for roundings.
    const std::vector<double> first = subject.updated(still, name), usual = subject.updated(rms, name);
    for (size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(first[i], usual[i], 1e-12);
    // Then a smaller gradient the other way: much momentum goes on, little turns round.
    const auto second = [&](const OptimizerSection& rule) {
        Subject turned;
        Optimizer optimizer(rule, turned.model.table(), turned.model.precision(), turned.all());
        optimizer.allocate();
        optimizer.step(turned.model, 0.01, 1, 1, {}), optimizer.step(turned.model, 0.01, -0.4, 2, {});
        return change(before, turned.parameter(name), 20, 0, 24);
    };
    EXPECT_NEAR(second(rms), 2 * by_rms, 1e-6 * by_rms);
    EXPECT_NEAR(second(still), 0, 1e-6 * by_rms);
}

TEST(OptimizerRules, OrthoAdamRotatesMatricesAndLeavesVectorsToAdamW) {
    Subject ortho, adamw, again;
    ortho.update(section("orthoadam"), ortho.all(), 2), adamw.update(section("adamw"), adamw.all(), 2);
    again.update(section("orthoadam"), again.all(), 2);
    for (const Parameter& p : ortho.model.table().entries()) {
        EXPECT_EQ(ortho.parameter(p.name) == adamw.parameter(p.name), !p.matrix) << p.name;
        EXPECT_EQ(ortho.parameter(p.name), again.parameter(p.name)) << p.name;
    }
    // A token's row is its own: one that has no gradient only decays.
    Subject sparse, plain;
    for (Subject* s : {&sparse, &plain}) {
        const Tensor g = s->model.table().view(s->model.gradients(), s->model.table().find("wte.weight"));
        std::ranges::fill(g.slice_rows(3, 1).span<double>(), 0);
    }
    sparse.update(section("orthoadam"), sparse.all(), 2), plain.update(section("adamw"), plain.all(), 2);
    for (size_t i = 3 * 24; i < 4 * 24; ++i)
        EXPECT_NEAR(sparse.parameter("wte.weight")[i], plain.parameter("wte.weight")[i], 1e-15);
}

// A cut between ranks, at whatever units allow, changes no bit.
TEST(OptimizerRules, BitsDoNotDependOnWhoOwnsWhat) {
    for (const char* kind : {"adamw", "sgd", "muon", "orthoadam"}) {
        const OptimizerSection rule = section(kind);
        Subject whole, parts;
        whole.update(rule, whole.all(), 3);
        std::vector<LayerPart> list;
        for (const Parameter& p : parts.model.table().entries())
            list.push_back({{p.offset, p.offset + p.shape.elements()}, p.layer, Optimizer::unit(rule, p)});
        const ShardLayout layout(list, parts.model.table().buffer_elements(), 3);
        for (int rank = 0; rank < 3; ++rank) parts.update(rule, layout.owned(rank), 3);
        for (const Parameter& p : whole.model.table().entries())
            EXPECT_EQ(whole.parameter(p.name), parts.parameter(p.name)) << kind << ": " << p.name;
    }
    Subject subject;
    EXPECT_THROW(subject.update(section("muon"), {{0, 4500}}), Error);  // within a matrix
}

TEST(OptimizerRules, StateIsWhatEachRuleKeeps) {
    const auto names = [](const char* kind) {
        Subject subject;
        Optimizer optimizer(section(kind), subject.model.table(), subject.model.precision(), subject.all());
        optimizer.allocate();
        std::map<std::string, int64_t> sizes;
        for (const Optimizer::State& state : optimizer.state()) {
            int64_t elements = 0;
            for (const ElementRange& range : state.ranges) elements += range.size();
            EXPECT_EQ(elements, state.buffer.elements());
            sizes[state.name] = elements;
        }
        return sizes;
    };
    Subject subject;
    int64_t matrices = 0;  // of Muon
    for (const Parameter& p : subject.model.table().entries())
        if (!p.stacked.empty()) matrices += p.shape.elements();
    const int64_t all = subject.model.table().buffer_elements();
    using Sizes = std::map<std::string, int64_t>;
    EXPECT_EQ(names("adamw"), (Sizes{{"m", all}, {"v", all}}));
    EXPECT_EQ(names("sgd"), (Sizes{{"momentum", all}}));
    const Sizes muon = names("muon");
    EXPECT_EQ(muon.at("momentum") + muon.at("m"), all);
    EXPECT_EQ(muon.at("m"), muon.at("v"));
    EXPECT_EQ(muon.at("momentum"), matrices);  // they have no gaps behind them here
    EXPECT_EQ(names("orthoadam").size(), 4u);
}

TEST(ParameterGroups, PatternsAreGlobs) {
    for (const auto& [pattern, name, fits] : std::initializer_list<std::tuple<const char*, const char*, bool>>{
             {"wte.weight", "wte.weight", true},
             {"wte", "wte.weight", false},
             {"*", "anything", true},
             {"*", "", true},
             {"", "a", false},
             {"blocks.*.attn.*", "blocks.11.attn.qkv.weight", true},
             {"blocks.*.attn.*", "blocks.11.mlp.up.weight", false},
             {"*.bias", "a.bias.b", false},
             {"*.bias", "a.bias.b.bias", true},
             {"blocks.?.norm1.gain", "blocks.3.norm1.gain", true},
             {"blocks.?.norm1.gain", "blocks.13.norm1.gain", false},
             {"a*b*c", "aXbXbXc", true},
             {"a*b*c", "aXbXbX", false},
             {"**", "x", true},
             {"?", "", false}})
        EXPECT_EQ(matches_pattern(pattern, name), fits) << pattern << " " << name;
    const std::string stars(2000, '*');
    EXPECT_FALSE(matches_pattern(stars + "b", std::string(5000, 'a')));  // and in no time
}

TEST(ParameterGroups, ScaleRatesAndReplaceDecays) {
    for (const char* kind : {"adamw", "sgd", "muon", "orthoadam"}) {
        OptimizerSection plain = section(kind), grouped = plain;
        grouped.groups = {{.match = {"blocks.0.*"}, .lr_scale = 0},
                          {.match = {"blocks.*", "wte.weight"}, .lr_scale = 0.25, .weight_decay = 0.3}};
        Subject start, reference;
        OptimizerSection quarter = plain;
        quarter.weight_decay = 0.3, quarter.decay = "all";
        Optimizer by_hand(quarter, reference.model.table(), reference.model.precision(), reference.all(), 5);
        by_hand.allocate();
        by_hand.step(reference.model, 0.01 * 0.25, 0.5, 1, {});
        for (const Parameter& p : start.model.table().entries()) {
            const std::vector<double> seen = start.updated(grouped, p.name);
            if (p.layer == 0)
                EXPECT_EQ(seen, start.parameter(p.name)) << kind << ": " << p.name;  // the first group counts
            else if (p.layer == 1 && p.sink)
                EXPECT_NE(seen, reference.parameter(p.name)) << kind;  // a group decays what else never does
            else if (p.layer == 1 || p.name == "wte.weight")
                EXPECT_EQ(seen, reference.parameter(p.name)) << kind << ": " << p.name;
            else
                EXPECT_EQ(seen, start.updated(plain, p.name)) << kind << ": " << p.name;
        }
    }
}

}  // namespace
}  // namespace plimsoll
