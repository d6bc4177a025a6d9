// Core attention by ranks whose tensors lie on a device, in bf16, against the same on the CPU.
#include <gtest/gtest.h>

#include "dist/as_device_ranks.h"
#include "support/cad_ranks.h"

namespace plimsoll {
namespace {

// A rank's tensors on the device.
struct DeviceRun {
    OnDevice<bf16> qkv, out, dout, dqkv, gate, dgate;
    OnDevice<float> lse, sink, dsink;
    OnDevice<int32_t> bounds;

    explicit DeviceRun(const AttentionRun<bf16>& run)
        : qkv(run.qkv),
          out(run.out),
          dout(run.dout),
          dqkv(run.dqkv),
          gate(run.gate),
          dgate(run.dgate),
          lse(run.lse),
          sink(run.sink),
          dsink(run.dsink),
          bounds(run.c.cu_seqlens) {}

    AttentionTensors tensors(const AttentionCase& c, bool gradients) const {
        const int64_t N = c.N();
        const auto [q, k, v] = Qkv(c, (gradients ? dqkv : qkv).tensor({N, c.columns()}));
        return {.out = (gradients ? dout : out).tensor({N, c.NH, c.value_size()}),
                .lse = gradients ? Tensor{} : lse.tensor({c.NH, N}),
                .q = q,
                .k = k,
                .v = v,
                .sink_logit = (gradients ? dsink : sink).tensor({c.NH}),
                .gate = (gradients ? dgate : gate).tensor({N, c.NH})};
    }
};

class CadOnDevice : public testing::TestWithParam<AttentionCase> {};

// Products of bf16 operands in another order, and weights rounded to bf16 in front of the second product: about 2^-8 of
// a value, as in the tests of the kernels.
TEST_P(CadOnDevice, GivesWhatTheCpuGives) {
    const CadCase c = CadCase::whole("three ranks", {{385}, {40, 7}, {130}}, GetParam());
    CadRanks<bf16> ranks(c, scattered_plan(c, 1), scattered_plan(c, 2));
    const AttentionRun<bf16> want = ranks.compute(true);
    const std::vector<double> wanted_sinks = ranks.learned_sum();
    std::vector<AttentionRun<bf16>> own;
    std::vector<std::unique_ptr<DeviceRun>> device;
    for (int r = 0; r < c.ranks; ++r) {
        own.push_back(ranks.own_run(r));
        device.push_back(std::make_unique<DeviceRun>(own.back()));
    }
    as_device_ranks(c.ranks, over_host_memory, [&](Communicator& world) {
        const auto r = static_cast<size_t>(world.rank());
        const Exec exec = exec_of_rank(world.rank());
        OneRound rounds(round_of(scattered_plan(c, 1), c.segments, ranks.options(false), world.rank()),
                        round_of(scattered_plan(c, 2), c.segments, ranks.options(true), world.rank()));
        DisaggregatedAttention core(world, rounds, ranks.shape());
        AttentionCall call;
        call.t = device[r]->tensors(own[r].c, false), call.cu_seqlens = device[r]->bounds.span(),
        call.spec = own[r].c.spec();
        core.forward(call, exec);
        call.d = device[r]->tensors(own[r].c, true);
        core.begin_backward(call, exec);
        core.compute_backward(call, exec);
        core.end_backward(call, exec);
        wait_for(exec);
    });
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
    AttentionRun<bf16> got(c.attention);
    ranks.clear_learned_sum();
    for (size_t r = 0; r < own.size(); ++r) {
        own[r].out = device[r]->out.values(), own[r].lse = device[r]->lse.values();
        own[r].dqkv = device[r]->dqkv.values(), own[r].dgate = device[r]->dgate.values();
        own[r].dsink = device[r]->dsink.values();
        ranks.gather(got, own[r], static_cast<int>(r));
    }
    EXPECT_LE(relative_l2(widened(got.out), widened(want.out)), 1e-2);
    EXPECT_LE(relative_l2(widened(got.dqkv), widened(want.dqkv)), 1e-2);
    if (GetParam().gate) EXPECT_LE(relative_l2(widened(got.dgate), widened(want.dgate)), 1e-2);
    if (!wanted_sinks.empty()) EXPECT_LE(relative_l2(ranks.learned_sum(), wanted_sinks), 2e-2);  // a sum of both signs
}

INSTANTIATE_TEST_SUITE_P(
    Of, CadOnDevice,
    testing::Values(AttentionCase{.NH = 4, .NKV = 2, .HS = 32},
                    AttentionCase{.extra = ExtraColumn::kLearnedLogit, .NH = 2, .NKV = 1, .HS = 32, .gate = true},
                    AttentionCase{
                        .weighting = "sigmoid", .bias = ScoreBias::kPerRow, .alibi = true, .NH = 2, .NKV = 2, .HS = 32},
                    AttentionCase{.window = 140, .pinned = 4, .NH = 2, .NKV = 1, .HS = 64},
                    AttentionCase{.NH = 4, .NKV = 2, .HS = 32, .VS = 64}));

}  // namespace
}  // namespace plimsoll
