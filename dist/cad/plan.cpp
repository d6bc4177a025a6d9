#include "dist/cad/plan.h"

#include <cmath>
#include <limits>

#include "dist/cad/greedy.h"
#include "dist/cad/key_pieces.h"
#include "dist/cad/layout.h"
#include "dist/cad/repair.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// Of the tolerance: room for the rounding to blocks that follows the transfers.
constexpr double kAimed = 0.9;
// Tried in this order from the wanted one on while a byte cap is exceeded; with the last one nothing moves any more.
constexpr double kTolerances[] = {0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 9};

// With more segments than these the second order is not tried: documents are short then, and cost alike.
constexpr size_t kManySegments = 10'000;

void check_options(const CaOptions& options) {
    check(options.servers >= 1 && options.block >= 1, "{} servers and blocks of {} rows: both must be at least 1",
          options.servers, options.block);
    check(options.tolerance >= 0 && std::isfinite(options.tolerance), "tolerance {}: must be at least 0",
          options.tolerance);
    check(options.window >= 0 && options.pinned >= 0, "window {} and pinned prefix {}: must be at least 0",
          options.window, options.pinned);
    check(options.speeds.empty() || static_cast<int>(options.speeds.size()) == options.servers,
          "{} speeds for {} ranks", options.speeds.size(), options.servers);
    for (const double speed : options.speeds)
        check(speed > 0 && std::isfinite(speed), "speed {} of a rank: must be above 0", speed);
}

std::vector<int64_t> limits_of(const CaProblem& problem, double tolerance) {
    std::vector<int64_t> limits;
    for (int r = 0; r < problem.options.servers; ++r) limits.push_back(problem.share(r, 1.0 + tolerance));
    return limits;
}

// Pairs of the rank that is furthest above its limit; 0 if none is.
int64_t excess_of(std::span<const int64_t> loads, std::span<const int64_t> limits) {
    int64_t most = 0;
    for (size_t r = 0; r < loads.size(); ++r) most = std::max(most, loads[r] - limits[r]);
    return most;
}

// The plan with the fewest bytes among those of both orders that keep to the limits, or the one that comes closest.
CaPlan moved_plan(const CaProblem& problem, double tolerance) {
    const std::vector<int64_t> limits = limits_of(problem, tolerance);
    const std::vector<int64_t> targets = limits_of(problem, kAimed * tolerance);
    const HeldKeys held = keys_held_by_receivers(problem, targets);
    CaPlan best;
    auto best_score = std::pair(std::numeric_limits<int64_t>::max(), std::numeric_limits<double>::infinity());
    // Whether the plan keeps to the limits.
    const auto consider = [&](std::span<const CaTransfer> transfers, std::span<const int64_t> rounded_to) {
        CaPlan plan{.tasks = lay_out(problem, held, rounded_to, transfers), .tolerance = tolerance, .moves = true};
        repair(problem, limits, plan.tasks);
        const int64_t excess = excess_of(loads_of(plan, problem.segments, problem.options), limits);
        const auto score = std::pair(excess, bytes_of_tasks(problem, plan.tasks));
        if (score < best_score) best = std::move(plan), best_score = score;
        return excess == 0;
    };
    for (const DonorOrder order : {DonorOrder::kCheapest, DonorOrder::kLargestFirst}) {
        const std::vector<CaTransfer> transfers = choose_transfers(problem, held, targets, order);
        // Where blocks are coarse, rounding without regard to the limits leaves swaps to try.
        if (!consider(transfers, limits)) consider(transfers, std::vector<int64_t>(limits.size(), problem.total));
        if (problem.segments.size() > kManySegments) break;
    }
    return best;
}

// For one tolerance; without moves where they gain too little.
CaPlan plan_at(const CaProblem& problem, double tolerance) {
    const CaOptions& options = problem.options;
    CaPlan nothing = plan_nothing(problem.segments);
    nothing.tolerance = tolerance;
    if (excess_of(problem.loads, limits_of(problem, tolerance)) == 0) return nothing;
    CaPlan plan = moved_plan(problem, tolerance);
    const double before = imbalance_of(problem.loads, options.speeds);
    const double after = imbalance_of(loads_of(plan, problem.segments, options), options.speeds);
    return after >= before || after > (1.0 - options.min_gain) * before ? nothing : plan;
}

bool is_granular(const CaProblem& problem, double tolerance) {
    int64_t smallest = problem.total;
    for (int r = 0; r < problem.options.servers; ++r) smallest = std::min(smallest, problem.share(r, tolerance));
    return problem.largest_block > smallest;
}

void hash_in(uint64_t& hash, int64_t value) {
    for (int byte = 0; byte < 8; ++byte)  // FNV-1a
        hash = (hash ^ (static_cast<uint64_t>(value) >> (8 * byte) & 0xff)) * 0x100000001b3ull;
}

}  // namespace

CaPlan plan_core_attention(std::span<const CaSegment> segments, const CaOptions& options) {
    check_options(options);
    const CaProblem problem(segments, options);
    const auto most_bytes = [&](const CaPlan& plan) {
        return bytes_of(plan, keys_of(plan, segments, options), segments, options).most();
    };
    CaPlan plan = plan_at(problem, options.tolerance);
    if (options.byte_cap > 0) {
        int64_t fewest = most_bytes(plan);
        for (const double tolerance : kTolerances) {
            if (fewest <= options.byte_cap || !plan.moves) break;
            if (tolerance <= options.tolerance) continue;
            CaPlan looser = plan_at(problem, tolerance);
            const int64_t bytes = most_bytes(looser);
            if (bytes < fewest) plan = std::move(looser), fewest = bytes;
        }
        plan.over_cap = fewest > options.byte_cap;
    }
    plan.granular = is_granular(problem, plan.tolerance);
    return plan;
}

CaPlan plan_nothing(std::span<const CaSegment> segments) {
    CaPlan plan;
    for (size_t i = 0; i < segments.size(); ++i) {
        const CaSegment& s = segments[i];
        if (s.begin < s.end) plan.tasks.push_back({static_cast<int64_t>(i), s.home, s.begin, s.end});
    }
    return plan;
}

int64_t pairs_of(int64_t begin, int64_t end, const CaOptions& options) {
    return PairCount(options).between(begin, end);
}

std::vector<int64_t> loads_of(const CaPlan& plan, std::span<const CaSegment>, const CaOptions& options) {
    const PairCount pairs(options);
    std::vector<int64_t> loads(static_cast<size_t>(options.servers), 0);
    for (const CaTask& task : plan.tasks)
        loads[static_cast<size_t>(task.server)] += pairs.between(task.begin, task.end);
    return loads;
}

double imbalance_of(std::span<const int64_t> loads, std::span<const double> speeds) {
    double total = 0, speed_sum = 0, largest = 0;
    for (size_t r = 0; r < loads.size(); ++r) {
        const double speed = speeds.empty() ? 1.0 : speeds[r];
        total += static_cast<double>(loads[r]);
        speed_sum += speed;
        largest = std::max(largest, static_cast<double>(loads[r]) / speed);
    }
    return total == 0 ? 1.0 : largest * speed_sum / total;
}

uint64_t hash_of(const CaPlan& plan, std::span<const CaSegment> segments) {
    uint64_t hash = 0xcbf29ce484222325ull;
    hash_in(hash, static_cast<int64_t>(segments.size()));
    for (const CaSegment& s : segments)
        for (const int64_t value : {s.document, int64_t{s.home}, s.begin, s.end}) hash_in(hash, value);
    for (const CaTask& task : plan.tasks)
        for (const int64_t value : {task.segment, int64_t{task.server}, task.begin, task.end}) hash_in(hash, value);
    return hash;
}

}  // namespace plimsoll
