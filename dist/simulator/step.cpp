#include "dist/simulator/step.h"

#include <algorithm>
#include <numeric>

#include "dist/pipeline/simulate.h"
#include "dist/simulator/exchange.h"
#include "dist/simulator/step_parts.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// What an action of a pipeline's stage takes one column.
StepParts parts_of(const RankWork& work, const Schedule& schedule, int stage, const Action& action,
                   const StepCosts& costs) {
    const bool forward = action.kind == ActionKind::kForward;
    const DirectionCosts& direction = forward ? costs.forward : costs.backward;
    const double blocks = static_cast<double>(costs.blocks) / schedule.chunks;
    const bool last = virtual_stage_of(schedule, stage, action) == schedule.stages * schedule.chunks - 1;
    StepParts parts{.linear = blocks * direction.linear(work.tokens),
                    .head = last ? direction.head_token * static_cast<double>(work.tokens) : 0};
    // Gradients of weights are one of the two products that a linear layer's backward has.
    if (!forward) parts *= 0.5;
    if (action.kind == ActionKind::kWeight) return parts;
    const int64_t copied = forward ? work.copied_forward : work.copied_backward;
    parts.attention = blocks * direction.attention(work.pairs);
    parts.copies = blocks * direction.copied_byte * static_cast<double>(copied);
    parts.waits = blocks * (forward ? work.waits_forward : work.waits_backward);
    return parts;
}

// Every rank's memory and bytes, which do not depend on time.
void account(SimulatedStep& result, const std::vector<RankWork>& work, size_t column, size_t columns,
             const Schedule& schedule, const StepCosts& costs) {
    const double blocks = static_cast<double>(costs.blocks) / schedule.chunks;
    for (size_t s = 0; s < static_cast<size_t>(schedule.stages); ++s) {
        const size_t rank = s * columns + column;
        double held = 0, peak = 0;
        for (const Action& action : schedule.actions[s]) {
            if (action.kind != ActionKind::kForward && action.kind != ActionKind::kWeight) continue;
            const RankWork& w = work[static_cast<size_t>(action.micro_batch)];
            const double bytes = blocks * (costs.memory.token_block * static_cast<double>(w.tokens) + w.kept);
            held += action.kind == ActionKind::kForward ? bytes : -bytes;
            peak = std::max(peak, held);
        }
        result.memory[rank] = costs.memory.fixed + peak;
        for (const RankWork& w : work) result.sent[rank] += w.sent * costs.blocks;
    }
}

}  // namespace

StepParts& StepParts::operator+=(const StepParts& other) {
    linear += other.linear, attention += other.attention, copies += other.copies, head += other.head;
    waits += other.waits;
    return *this;
}

StepParts& StepParts::operator*=(double factor) {
    linear *= factor, attention *= factor, copies *= factor, head *= factor, waits *= factor;
    return *this;
}

double SimulatedStep::idle() const {
    const double sum = std::accumulate(busy.begin(), busy.end(), 0.0);
    return seconds > 0 ? 1 - sum / (seconds * static_cast<double>(busy.size())) : 0;
}

double SimulatedStep::peak_memory() const {
    return *std::ranges::max_element(memory);
}

StepPlacement place(const StepDocuments& documents, int columns, int nano_batches) {
    check(nano_batches == 1 || nano_batches == 2, "{} nano batches, wanted 1 or 2", nano_batches);
    StepPlacement placement{.columns = columns, .micro_batches = {}};
    for (const MicroBatchDocuments& micro_batch : documents.micro_batches) {
        auto& nanos = placement.micro_batches.emplace_back();
        if (nano_batches == 1)
            nanos.push_back(place_in_order(micro_batch.all(), columns));
        else
            for (const Documents& half : micro_batch.halves) nanos.push_back(place_in_order(half, columns));
    }
    return placement;
}

StepPlacement place_whole(const std::vector<std::vector<std::vector<Documents>>>& lengths) {
    StepPlacement placement;
    for (const auto& micro_batch : lengths) {
        auto& nanos = placement.micro_batches.emplace_back();
        for (const std::vector<Documents>& columns : micro_batch) {
            placement.columns = static_cast<int>(columns.size());
            std::vector<CaSegment>& segments = nanos.emplace_back();
            for (size_t c = 0; c < columns.size(); ++c)
                for (const int64_t length : columns[c])
                    segments.push_back({static_cast<int64_t>(segments.size()), static_cast<int>(c), 0, length});
        }
    }
    return placement;
}

double update_seconds(const StepCosts& costs, double forward, double backward) {
    return std::max(0.0, costs.gradient_reduction - backward) + costs.optimizer +
           std::max(0.0, costs.parameter_gathering - forward);
}

SimulatedStep simulate_pipelines(const std::vector<std::vector<RankWork>>& work, int context, const Schedule& schedule,
                                 const StepCosts& costs) {
    const size_t columns = work.size(), ranks = columns * static_cast<size_t>(schedule.stages);
    SimulatedStep result(ranks);
    int64_t tokens = 0;  // of a message
    for (const std::vector<RankWork>& column : work)
        for (const RankWork& w : column) tokens = std::max(tokens, w.tokens);
    const double send = costs.network.latency + costs.message_token * static_cast<double>(tokens);
    const auto micro_batches = static_cast<double>(schedule.micro_batches);
    double least_forward = 0, least_backward = 0;
    for (size_t first = 0; first < columns; first += static_cast<size_t>(context)) {
        StepParts forward, backward;
        const auto seconds = [&](int stage, const Action& action) {
            StepParts slowest;
            if (action.micro_batch < 0) return 0.0;
            for (size_t c = first; c < first + static_cast<size_t>(context); ++c) {
                const RankWork& w = work[c][static_cast<size_t>(action.micro_batch)];
                const StepParts parts = parts_of(w, schedule, stage, action, costs);
                result.busy[static_cast<size_t>(stage) * columns + c] += parts.computing();
                if (parts.sum() > slowest.sum()) slowest = parts;
            }
            (action.kind == ActionKind::kForward ? forward : backward) += slowest;
            return slowest.sum();
        };
        const Simulation run = simulate(schedule, seconds, schedule.stages > 1 ? send : 0);
        check(run.stuck.empty(), "pipeline schedule {}: {}", schedule.name, run.stuck);
        forward *= 1.0 / schedule.stages, backward *= 1.0 / schedule.stages;
        if (run.makespan > result.seconds)
            result.seconds = run.makespan, result.forward = forward, result.backward = backward;
        const double f = forward.sum() / micro_batches, b = backward.sum() / micro_batches;
        least_forward = first ? std::min(least_forward, f) : f;
        least_backward = first ? std::min(least_backward, b) : b;
    }
    const double update = update_seconds(costs, least_forward, least_backward);
    result.seconds += update;
    result.exposed = result.forward.waits + result.backward.waits + update - costs.optimizer;
    for (double& busy : result.busy) busy += costs.optimizer;

    double most = 0, mean = 0;
    for (size_t c = 0; c < columns; ++c) account(result, work[c], c, columns, schedule, costs);
    for (size_t m = 0; m < static_cast<size_t>(schedule.micro_batches); ++m) {
        int64_t largest = 0, sum = 0;
        for (size_t c = 0; c < columns; ++c) largest = std::max(largest, work[c][m].pairs), sum += work[c][m].pairs;
        result.pairs += sum;
        most += static_cast<double>(largest), mean += static_cast<double>(sum) / static_cast<double>(columns);
    }
    result.imbalance_before = result.imbalance = mean > 0 ? most / mean : 1;
    return result;
}

SimulatedStep simulate_step(const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs) {
    const auto columns = static_cast<size_t>(placement.columns);
    std::vector<std::vector<RankWork>> work(columns, std::vector<RankWork>(placement.micro_batches.size()));
    for (size_t m = 0; m < placement.micro_batches.size(); ++m)
        for (const std::vector<CaSegment>& segments : placement.micro_batches[m]) {
            const auto moved = [&](const DirectionCosts& direction) {
                const CaOptions options{.servers = placement.columns, .costs = direction.bytes, .two_hop = false};
                return traffic_of(plan_nothing(segments), segments, options, costs.network.ranks_per_node);
            };
            const PlanTraffic forward = moved(costs.forward), backward = moved(costs.backward);
            const std::vector<int64_t> sent_forward = forward.sent(), sent_backward = backward.sent();
            const std::vector<int64_t> got_forward = forward.received(), got_backward = backward.received();
            for (const CaSegment& segment : segments) {
                RankWork& w = work[static_cast<size_t>(segment.home)][m];
                w.tokens += segment.end - segment.begin;
                w.pairs += causal_pairs(segment.begin, segment.end);
            }
            for (size_t c = 0; c < columns; ++c) {
                RankWork& w = work[c][m];
                w.waits_forward += out_seconds(forward, costs.network) + back_seconds(forward, costs.network);
                w.waits_backward += out_seconds(backward, costs.network) + back_seconds(backward, costs.network);
                w.copied_forward += sent_forward[c] + got_forward[c];
                w.copied_backward += sent_backward[c] + got_backward[c];
                w.sent += sent_forward[c] + sent_backward[c];
            }
        }
    // A document that goes on on another rank makes all wait for each other in its micro batch.
    bool alone = true;
    for (const std::vector<RankWork>& column : work)
        for (const RankWork& w : column) alone = alone && w.sent == 0;
    return simulate_pipelines(work, alone ? 1 : placement.columns, schedule, costs);
}

}  // namespace plimsoll
