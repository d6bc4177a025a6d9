#include <algorithm>
#include <numeric>

#include "dist/pipeline/simulate.h"
#include "dist/simulator/exchange.h"
#include "dist/simulator/step.h"
#include "dist/simulator/step_parts.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr double kNanos = 2;  // that ping-pong keeps buffers of at a time

// One nano batch of all stages in one direction of a tick.
struct NanoTimes {
    double linear = 0;                    // seconds of one block, of an active stage
    double attention = 0;                 // of the slowest server
    double out = 0, back = 0;             // all-to-alls
    double copies = 0;                    // packing and unpacking, of the rank with most
    std::vector<double> serving;          // by rank: seconds of core attention and copies
    std::vector<int64_t> sent, received;  // by rank, bytes
};

class CadStep {
  public:
    CadStep(const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs, const CadOptions& options)
        : placement_(placement),
          schedule_(schedule),
          costs_(costs),
          options_(options),
          columns_(static_cast<size_t>(placement.columns)),
          ranks_(columns_ * static_cast<size_t>(schedule.stages)),
          result_(ranks_),
          buffers_(ranks_, 0) {}

    SimulatedStep run() {
        std::vector<double> seconds;  // by tick
        double forward = 0, backward = 0;
        for (const Tick& tick : ticks_of(schedule_)) {
            seconds.push_back(tick_seconds(tick));
            double& least = tick.forward ? forward : backward;
            least = least == 0 ? seconds.back() : std::min(least, seconds.back());
        }
        const double send =
            schedule_.stages > 1
                ? costs_.network.latency + costs_.message_token * static_cast<double>(tokens_of_micro_batch())
                : 0;
        const Simulation run = simulate(
            schedule_,
            [&](int, const Action& action) {
                return action.kind == ActionKind::kWeight ? 0 : seconds[static_cast<size_t>(action.tick)];
            },
            send);
        check(run.stuck.empty(), "pipeline schedule {}: {}", schedule_.name, run.stuck);
        const double update = update_seconds(costs_, forward, backward);
        result_.seconds = run.makespan + update;
        result_.exposed = result_.forward.waits + result_.backward.waits + update - costs_.optimizer;
        for (double& busy : result_.busy) busy += costs_.optimizer;
        result_.imbalance_before = mean_before_ > 0 ? most_before_ / mean_before_ : 1;
        result_.imbalance = mean_ > 0 ? most_ / mean_ : 1;
        result_.pairs /= schedule_.stages;  // every stage has the same documents
        account_memory();
        return std::move(result_);
    }

  private:
    // Of a rank, in one micro batch.
    int64_t tokens_of_micro_batch() const {
        int64_t tokens = 0;
        for (const std::vector<CaSegment>& segments : placement_.micro_batches.front())
            for (const CaSegment& segment : segments) tokens += segment.end - segment.begin;
        return tokens / placement_.columns;
    }

    const DirectionCosts& direction(bool forward) const { return forward ? costs_.forward : costs_.backward; }

    // The segments of all active stages, on the ranks of stage and column.
    std::vector<CaSegment> segments_of(const Tick& tick, size_t nano) const {
        std::vector<CaSegment> all;
        int64_t documents = 0;
        for (size_t s = 0; s < tick.micro_batch.size(); ++s) {
            if (tick.micro_batch[s] < 0) continue;
            const int64_t first = documents;
            for (CaSegment segment : placement_.micro_batches[static_cast<size_t>(tick.micro_batch[s])][nano]) {
                segment.document += first;
                documents = std::max(documents, segment.document + 1);
                segment.home += static_cast<int>(s * columns_);
                all.push_back(segment);
            }
        }
        return all;
    }

    CaOptions plan_options(bool forward) const {
        return {.servers = static_cast<int>(ranks_),
                .tolerance = options_.tolerance,
                .block = options_.block,
                .costs = direction(forward).bytes,
                .byte_cap = options_.byte_cap,
                .two_hop = options_.two_hop};
    }

    NanoTimes nano_times(const Tick& tick, size_t nano) {
        const std::vector<CaSegment> segments = segments_of(tick, nano);
        const DirectionCosts& direction = this->direction(tick.forward);
        const CaOptions options = plan_options(tick.forward);
        // Servers that keep what forward brought them serve backward by the same plan.
        const CaPlan plan = plan_core_attention(segments, plan_options(tick.forward || !options_.resend));
        const std::vector<int64_t> loads = loads_of(plan, segments, options);
        const PlanTraffic traffic = traffic_of(plan, segments, options, costs_.network.ranks_per_node);

        NanoTimes times{
            .serving = std::vector<double>(ranks_, 0), .sent = traffic.sent(), .received = traffic.received()};
        std::vector<int64_t> tokens(ranks_, 0);
        for (const CaSegment& segment : segments)
            tokens[static_cast<size_t>(segment.home)] += segment.end - segment.begin;
        times.linear = direction.linear(*std::ranges::max_element(tokens));
        const int exchanges = plan.moves ? 2 + !traffic.out_again.empty() + !traffic.back_again.empty() : 0;
        const double host = costs_.network.host * exchanges;
        for (size_t r = 0; r < ranks_; ++r) {
            const double attention = direction.attention(loads[r]);
            int64_t bytes = times.sent[r] + times.received[r];
            if (options_.copy_local && plan.moves)
                bytes = std::max(bytes, 2 * tokens[r] * (direction.bytes.query() + direction.bytes.key()));
            const double copies = direction.copied_byte * static_cast<double>(bytes) + host;
            times.attention = std::max(times.attention, attention * (plan.moves ? options_.spread : 1));
            times.copies = std::max(times.copies, copies);
            times.serving[r] = attention + copies;
            buffers_[r] = std::max(buffers_[r], times.sent[r] + times.received[r]);
        }
        if (!options_.free_traffic) {
            times.out = out_seconds(traffic, costs_.network);
            times.back = back_seconds(traffic, costs_.network);
        }
        result_.over_cap += plan.over_cap;
        count_imbalance(segments, loads);
        if (tick.forward) result_.pairs += std::reduce(loads.begin(), loads.end());
        return times;
    }

    void count_imbalance(std::span<const CaSegment> segments, std::span<const int64_t> loads) {
        std::vector<int64_t> homes(ranks_, 0);
        for (const CaSegment& segment : segments)
            homes[static_cast<size_t>(segment.home)] += causal_pairs(segment.begin, segment.end);
        int64_t sum = 0;
        for (const int64_t load : loads) sum += load;
        most_ += static_cast<double>(*std::ranges::max_element(loads));
        mean_ += static_cast<double>(sum) / static_cast<double>(ranks_);
        for (size_t s = 0; s < ranks_; s += columns_) {  // a stage's ranks among themselves: idle stages say nothing
            int64_t most = 0, stage = 0;
            for (size_t c = s; c < s + columns_; ++c) most = std::max(most, homes[c]), stage += homes[c];
            most_before_ += static_cast<double>(most);
            mean_before_ += static_cast<double>(stage) / static_cast<double>(columns_);
        }
    }

    double tick_seconds(const Tick& tick) {
        std::vector<NanoTimes> nanos;
        for (size_t n = 0; n < placement_.micro_batches.front().size(); ++n) nanos.push_back(nano_times(tick, n));
        const NanoTimes &first = nanos.front(), &last = nanos.back();
        const DirectionCosts& direction = this->direction(tick.forward);
        const auto blocks = static_cast<double>(costs_.blocks);
        const int last_stage = schedule_.stages - 1;
        const double head = tick.micro_batch[static_cast<size_t>(last_stage)] >= 0
                                ? direction.head_token * static_cast<double>(tokens_of_micro_batch())
                                : 0;
        double computing = 0, block = 0;
        for (const NanoTimes& nano : nanos) computing += nano.linear + nano.attention + nano.copies;
        if (nanos.size() == 2) {
            // Packing belongs to the linear ticks, unpacking to those of core attention.
            block = std::max(first.linear + first.copies / 2, last.back) +
                    std::max(last.linear + last.copies / 2, first.out) +
                    std::max(first.attention + first.copies / 2, last.out) +
                    std::max(last.attention + last.copies / 2, first.back);
        } else {
            block = computing + first.out + first.back;
        }
        StepParts parts{.head = head, .waits = std::max(0.0, blocks * (block - computing))};
        for (const NanoTimes& nano : nanos)
            parts.linear += blocks * nano.linear, parts.attention += blocks * nano.attention,
                parts.copies += blocks * nano.copies;
        (tick.forward ? result_.forward : result_.backward) += parts;
        for (size_t r = 0; r < ranks_; ++r) {
            const size_t stage = r / columns_;
            for (const NanoTimes& nano : nanos) {
                const double linear = tick.micro_batch[stage] >= 0 ? nano.linear : 0;
                result_.busy[r] += blocks * (linear + nano.serving[r]);
                result_.sent[r] += costs_.blocks * nano.sent[r];
            }
            if (static_cast<int>(stage) == last_stage) result_.busy[r] += head;
        }
        return blocks * block + head;
    }

    void account_memory() {
        const std::vector<int64_t> in_flight = peak_in_flight(schedule_);
        const auto tokens = static_cast<double>(tokens_of_micro_batch());
        for (size_t r = 0; r < ranks_; ++r) {
            const double held = static_cast<double>(in_flight[r / columns_] * costs_.blocks) * tokens;
            const double buffers = costs_.memory.buffer_byte * static_cast<double>(buffers_[r]);
            result_.memory[r] = costs_.memory.fixed + held * costs_.memory.token_block + kNanos * buffers;
            // Servers that keep what they got hold it for every block and micro batch in flight.
            if (!options_.resend)
                result_.memory[r] += buffers * static_cast<double>(in_flight[r / columns_] * costs_.blocks);
        }
    }

    const StepPlacement& placement_;
    const Schedule& schedule_;
    const StepCosts& costs_;
    const CadOptions& options_;
    size_t columns_, ranks_;
    SimulatedStep result_;
    std::vector<int64_t> buffers_;  // by rank: bytes of the largest plan
    double most_before_ = 0, mean_before_ = 0, most_ = 0, mean_ = 0;
};

}  // namespace

SimulatedStep simulate_cad_step(const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs,
                                const CadOptions& options) {
    check(!placement.micro_batches.empty() &&
              schedule.micro_batches == static_cast<int64_t>(placement.micro_batches.size()),
          "{} micro batches for a schedule of {}", placement.micro_batches.size(), schedule.micro_batches);
    check(options.resend || schedule.stages == 1, "servers can keep what forward brought them with one stage only");
    return CadStep(placement, schedule, costs, options).run();
}

}  // namespace plimsoll
