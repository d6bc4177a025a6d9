#include "dist/simulator/rehearsal.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <thread>

#include "dist/pipeline/executor.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Sleeps so long in all: what one sleep takes too long the next ones are shorter.
class Sleeper {
  public:
    void sleep(double seconds) {
        owed_ += seconds;
        if (owed_ <= 0) return;
        const Clock::time_point start = Clock::now();
        std::this_thread::sleep_for(std::chrono::duration<double>(owed_));
        owed_ -= seconds_since(start);
    }

  private:
    double owed_ = 0;
};

class SleepingAttention final : public RankAttention {
  public:
    SleepingAttention(Sleeper& sleeper, const StepCosts& costs) : sleeper_(sleeper), costs_(costs) {}
    void tasks_forward(const AttentionTensors&, const CaTasks& tasks, const AttentionSpec&, const Exec&) override {
        sleeper_.sleep(costs_.forward.attention(pairs(tasks)));
    }
    void tasks_backward(const AttentionTensors&, const AttentionTensors&, Tensor, const CaTasks& tasks,
                        const AttentionSpec&, const Exec&) override {
        sleeper_.sleep(costs_.backward.attention(pairs(tasks)));
    }
    void rows_backward(const AttentionCall&, Tensor, const Exec&) override {}
    void forward(const AttentionCall& call, const Exec&) override {
        sleeper_.sleep(costs_.forward.attention(pairs(call.cu_seqlens)));
    }
    void backward(const AttentionCall& call, const Exec&) override {
        sleeper_.sleep(costs_.backward.attention(pairs(call.cu_seqlens)));
    }

  private:
    static int64_t pairs(const CaTasks& tasks) {
        int64_t sum = 0;
        for (const AttentionTask& t : tasks.tasks) sum += causal_pairs(t.position, t.position + t.count);
        return sum;
    }
    static int64_t pairs(std::span<const int32_t> bounds) {
        int64_t sum = 0;
        for (size_t i = 1; i < bounds.size(); ++i) sum += causal_pairs(bounds[i] - bounds[i - 1]);
        return sum;
    }
    Sleeper& sleeper_;
    const StepCosts& costs_;
};

// The plans of all ticks, and which of them is under way.
class RehearsedRounds final : public CaRounds {
  public:
    using Key = std::pair<int64_t, int>;  // tick, nano batch
    RehearsedRounds(const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs,
                    const CadOptions& cad, int rank) {
        const std::vector<Tick> ticks = ticks_of(schedule);
        for (size_t t = 0; t < ticks.size(); ++t)
            for (size_t nano = 0; nano < placement.micro_batches.front().size(); ++nano) {
                const std::vector<CaSegment> segments = segments_of(placement, ticks[t].micro_batch, nano);
                const CaOptions options{.servers = placement.columns * schedule.stages,
                                        .tolerance = cad.tolerance,
                                        .block = cad.block,
                                        .costs = (ticks[t].forward ? costs.forward : costs.backward).bytes,
                                        .byte_cap = cad.byte_cap,
                                        .two_hop = cad.two_hop};
                rounds_.emplace(Key{static_cast<int64_t>(t), static_cast<int>(nano)},
                                round_of(plan_core_attention(segments, options), segments, options, rank));
            }
    }
    void enter(int64_t tick) { tick_ = tick; }
    const CaRound& forward_round(const AttentionCall& call) override { return rounds_.at({tick_, call.lane}); }
    const CaRound& backward_round(const AttentionCall& call) override { return rounds_.at({tick_, call.lane}); }

  private:
    // Of all stages' micro batches, on ranks column x stages + stage.
    static std::vector<CaSegment> segments_of(const StepPlacement& placement, const std::vector<int64_t>& stages,
                                              size_t nano) {
        std::vector<CaSegment> all;
        for (int column = 0; column < placement.columns; ++column)
            for (size_t s = 0; s < stages.size(); ++s) {
                if (stages[s] < 0) continue;
                for (CaSegment segment : placement.micro_batches[static_cast<size_t>(stages[s])][nano]) {
                    if (segment.home != column) continue;
                    check(segment.begin == 0, "a rehearsal needs whole documents");
                    segment.document = static_cast<int64_t>(all.size());
                    segment.home = column * static_cast<int>(stages.size()) + static_cast<int>(s);
                    all.push_back(segment);
                }
            }
        return all;
    }
    std::map<Key, CaRound> rounds_;
    int64_t tick_ = -1;
};

// A nano batch of this rank: memory that travels, and bounds of its documents.
struct Nano {
    std::vector<int32_t> bounds{0};
    std::vector<float> memory;
    AttentionCall forward, backward;

    Nano(const std::vector<CaSegment>& segments, int column, const CaShape& shape, int lane) {
        for (const CaSegment& segment : segments)
            if (segment.home == column)
                bounds.push_back(bounds.back() + static_cast<int32_t>(segment.end - segment.begin));
        const int64_t N = bounds.back(), both = shape.HS + shape.VS;
        memory.resize(static_cast<size_t>(2 * N * (shape.NH + shape.NKV) * both + N * shape.NH));
        float* at = memory.data();
        const auto take = [&](Shape s) { return Tensor(std::exchange(at, at + s.elements()), DType::kF32, s); };
        const Shape queries{N, shape.NH, shape.HS}, outs{N, shape.NH, shape.VS};
        const Shape keys{N, shape.NKV, shape.HS}, values{N, shape.NKV, shape.VS};
        for (AttentionTensors* t : {&forward.t, &backward.d})
            t->out = take(outs), t->q = take(queries), t->k = take(keys), t->v = take(values);
        forward.t.lse = take({shape.NH, N});
        forward.cu_seqlens = bounds, forward.lane = lane;
        const AttentionTensors gradients = backward.d;
        backward = forward;
        backward.d = gradients;
    }
    int64_t tokens() const { return bounds.back(); }
};

class RehearsedStage final : public StageWork {
  public:
    RehearsedStage(Communicator& world, const StepPlacement& placement, const Schedule& schedule,
                   const StepCosts& costs, const CadOptions* cad, const RehearsalSizes& sizes)
        : costs_(costs), stage_(world.rank() % schedule.stages) {
        const int column = world.rank() / schedule.stages;
        auto sleeping = std::make_unique<SleepingAttention>(sleeper_, costs);
        if (cad) {
            rounds_.emplace(placement, schedule, costs, *cad, world.rank());
            const int lanes = static_cast<int>(placement.micro_batches.front().size());
            core_ = std::make_unique<DisaggregatedAttention>(world, *rounds_, sizes.shape, lanes, std::move(sleeping));
        } else {
            local_ = std::move(sleeping);
        }
        for (const auto& micro_batch : placement.micro_batches) {
            std::vector<Nano>& nanos = nanos_.emplace_back();
            for (size_t n = 0; n < micro_batch.size(); ++n)
                nanos.emplace_back(micro_batch[n], column, sizes.shape, static_cast<int>(n));
            int64_t tokens = 0;
            for (const Nano& nano : nanos) tokens += nano.tokens();
            most_tokens_ = std::max(most_tokens_, tokens);
        }
        for (const Action& a : schedule.actions[static_cast<size_t>(stage_)])
            if (a.kind == ActionKind::kForward || a.kind == ActionKind::kBackward)
                tick_of_[a.kind == ActionKind::kBackward][a.micro_batch] = a.tick;
        const size_t sets = static_cast<size_t>(StagePlan(schedule, stage_).sets.front());
        for (auto* list : {&in_, &out_, &gradient_})
            list->assign(sets, std::vector<float>(static_cast<size_t>(most_tokens_ * sizes.stream)));
    }

    void forward(int, int64_t micro_batch, int) override {
        if (rounds_) rounds_->enter(tick_of_[0].at(micro_batch));
        std::vector<Nano>& nanos = nanos_[static_cast<size_t>(micro_batch)];
        for (int64_t block = 0; block < costs_.blocks; ++block) {
            for (Nano& nano : nanos) {
                if (block > 0) leave(nano);
                half(costs_.forward, nano);
                if (core_) core_->begin_forward(nano.forward, exec_);
            }
            for (Nano& nano : nanos)
                core_ ? core_->compute_forward(nano.forward, exec_) : local_->forward(nano.forward, exec_);
        }
        for (Nano& nano : nanos) leave(nano);
    }
    void backward(int, int64_t micro_batch, int) override {
        if (rounds_) rounds_->enter(tick_of_[1].at(micro_batch));
        std::vector<Nano>& nanos = nanos_[static_cast<size_t>(micro_batch)];
        for (int64_t block = 0; block < costs_.blocks; ++block) {
            for (Nano& nano : nanos) {
                half(costs_.backward, nano);
                if (core_) core_->begin_backward(nano.backward, exec_);
            }
            for (Nano& nano : nanos)
                core_ ? core_->compute_backward(nano.backward, exec_) : local_->backward(nano.backward, exec_);
            for (Nano& nano : nanos) {
                if (core_) core_->end_backward(nano.backward, exec_);
                half(costs_.backward, nano);
            }
        }
    }
    void backward_inputs(int, int64_t, int) override { check(false, "a rehearsal's backwards are whole"); }
    void backward_weights(int, int64_t, int) override { check(false, "a rehearsal's backwards are whole"); }
    void serve_forward(int64_t tick) override {
        serve(tick, &CoreAttention::begin_forward, &CoreAttention::compute_forward, &CoreAttention::end_forward);
    }
    void serve_backward(int64_t tick) override {
        serve(tick, &CoreAttention::begin_backward, &CoreAttention::compute_backward, &CoreAttention::end_backward);
    }
    Tensor stream_in(int, int set, int) override { return stream(in_, set); }
    Tensor stream_out(int, int set, int) override { return stream(out_, set); }
    Tensor stream_gradient(int, int set, int) override { return stream(gradient_, set); }

  private:
    void half(const DirectionCosts& costs, const Nano& nano) { sleeper_.sleep(costs.linear(nano.tokens()) / 2); }
    void leave(Nano& nano) {
        if (core_) core_->end_forward(nano.forward, exec_);
        half(costs_.forward, nano);
    }
    template <class... Phases>
    void serve(int64_t tick, Phases... phases) {
        if (!core_) return;
        rounds_->enter(tick);
        const auto lanes = static_cast<int>(nanos_.front().size());
        const auto each = [&](auto phase) {
            for (int lane = 0; lane < lanes; ++lane) {
                AttentionCall idle;
                idle.lane = lane;
                ((*core_).*phase)(idle, exec_);
            }
        };
        for (int64_t block = 0; block < costs_.blocks; ++block) (each(phases), ...);
    }
    static Tensor stream(std::vector<std::vector<float>>& list, int set) {
        std::vector<float>& memory = list[static_cast<size_t>(set)];
        return Tensor(memory.data(), DType::kF32, {static_cast<int64_t>(memory.size())});
    }

    const StepCosts& costs_;
    int stage_;
    Sleeper sleeper_;
    Exec exec_{.device = Device::kCpu, .threads = 1};
    std::optional<RehearsedRounds> rounds_;
    std::unique_ptr<CoreAttention> core_;    // by plan
    std::unique_ptr<RankAttention> local_;   // or each its own
    std::vector<std::vector<Nano>> nanos_;   // [micro batch]
    std::map<int64_t, int64_t> tick_of_[2];  // of this stage's micro batches: forward, backward
    int64_t most_tokens_ = 0;
    std::vector<std::vector<float>> in_, out_, gradient_;  // [set]
};

// Median seconds of an all-to-all in which every rank sends `bytes` to each other one.
double all_to_all_median(Communicator& world, int64_t bytes) {
    constexpr int kTries = 15;
    const auto ranks = static_cast<size_t>(world.size());
    std::vector<std::byte> send(ranks * static_cast<size_t>(bytes)), receive(send.size());
    std::vector<int64_t> sizes(ranks, bytes), offsets(ranks);
    for (size_t r = 0; r < ranks; ++r) offsets[r] = static_cast<int64_t>(r) * bytes;
    sizes[static_cast<size_t>(world.rank())] = 0;
    std::vector<double> seconds;
    for (int i = 0; i < kTries; ++i) {
        world.barrier();
        const Clock::time_point start = Clock::now();
        world.all_to_all_v(send, sizes, offsets, receive, sizes, offsets).wait();
        seconds.push_back(seconds_since(start));
    }
    std::ranges::sort(seconds);
    std::array<double, 1> sum{seconds[kTries / 2]};
    world.sum(sum);
    return sum[0] / static_cast<double>(ranks);
}

}  // namespace

StepCosts rehearsal_costs(StepCosts costs, const RehearsalSizes& sizes, Communicator& world) {
    const AttentionSpec spec;
    costs.forward.bytes = sizes.shape.forward_costs(spec);
    costs.backward.bytes = sizes.shape.backward_costs(spec);
    constexpr int64_t kSmall = 64, kLarge = 1 << 16;
    const double peers = std::max(1, world.size() - 1);
    const double small = all_to_all_median(world, kSmall), large = all_to_all_median(world, kLarge);
    const double byte = std::max(0.0, large - small) / (peers * static_cast<double>(kLarge - kSmall));
    // The ranks' own threads carry the messages: that hides under nothing.
    costs.network = {
        .intra_byte = byte, .inter_byte = byte, .latency = 0, .host = small, .ranks_per_node = world.size()};
    costs.message_token = byte * static_cast<double>(sizes.stream * size_of(DType::kF32));
    return costs;
}

double rehearse(Communicator& world, const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs,
                const CadOptions* cad, const RehearsalSizes& sizes) {
    check(world.size() == placement.columns * schedule.stages, "a rehearsal of {} x {} ranks on {}", placement.columns,
          schedule.stages, world.size());
    Communicator forward = world.split(world.rank() / schedule.stages, world.rank(), "stages, forward");
    Communicator backward = world.split(world.rank() / schedule.stages, world.rank(), "stages, backward");
    RehearsedStage stage(world, placement, schedule, costs, cad, sizes);
    PipelineExecutor executor(forward, backward, schedule);
    world.barrier();
    const Clock::time_point start = Clock::now();
    executor.run(stage, {.device = Device::kCpu, .threads = 1});
    world.barrier();
    std::array<double, 1> sum{seconds_since(start)};
    world.sum(sum);
    return sum[0] / world.size();
}

}  // namespace plimsoll
