#include "train/cad_plans.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace plimsoll {
namespace {

bool alike(const AttentionSpec& a, const AttentionSpec& b) {
    return a.window == b.window && a.pinned == b.pinned && is_normalized(a.weighting) == is_normalized(b.weighting) &&
           a.extra_column == b.extra_column &&
           (a.bias_kind == ScoreBias::kLearned) == (b.bias_kind == ScoreBias::kLearned);
}

bool same(const AttentionSpec& a, const AttentionSpec& b) {
    return alike(a, b) && a.weighting == b.weighting && a.scale == b.scale && a.extra_logit == b.extra_logit &&
           a.bias_kind == b.bias_kind && a.score_bias == b.score_bias && a.alibi == b.alibi;
}

size_t index(Pass pass) {
    return static_cast<size_t>(pass);
}

CaShape shape_of(const NetworkConfig& network, DType compute) {
    const auto [NH, NKV, HS, VS] = network.attention.core_sizes(network.model);
    return {.NH = NH, .NKV = NKV, .HS = HS, .VS = VS, .dtype = compute};
}

}  // namespace

CadPlans::CadPlans(const RunConfig& config, const NetworkConfig& network, DType compute, const Loader& data,
                   const RankPlace& place, int64_t micro_batches)
    : config_(config),
      data_(data),
      shape_(shape_of(network, compute)),
      data_ranks_(place.data_ranks * static_cast<int>(config.parallel.virtual_ranks)),
      stages_(static_cast<int>(place.stages * config.parallel.chunks)),
      rank_(place.data_rank * place.stages + place.stage),
      micro_batches_(micro_batches),
      stage_(place.stage) {
    const auto ranks = static_cast<size_t>(data_ranks_ * stages_);
    if (!config.cad.speeds.empty() && config.cad.speeds.size() != ranks)
        fail_input("cad.speeds has {} numbers for {} ranks", config.cad.speeds.size(), ranks);
    ranges_ = stages_ == 1 ? std::vector{StageRange::whole(network.model)} : stage_ranges(network, stages_);
    for (size_t r = 0; r < ranks; ++r) groups_.push_back(static_cast<int>(r) % stages_);
    for (int s = 0; s < stages_; ++s)
        for (int64_t layer = ranges_[static_cast<size_t>(s)].first_layer;
             layer < ranges_[static_cast<size_t>(s)].last_layer; ++layer) {
            const AttentionSpec spec = network.attention.spec(layer, network.model);
            const auto round = static_cast<size_t>(layer - ranges_[static_cast<size_t>(s)].first_layer);
            if (round == specs_.size()) specs_.push_back(spec);
            if (!same(specs_[round], spec))
                fail_input(
                    "cad.mode = \"on\": layers {} and {} are computed at one time, on stages 0 and {}, and have "
                    "different attention; wanted a pattern of layers that every stage begins anew",
                    round, layer, s);
        }
    const auto deep = [&](size_t round, int s) {
        const StageRange& range = ranges_[static_cast<size_t>(s)];
        return range.last_layer - range.first_layer > static_cast<int64_t>(round);
    };
    for (size_t round = 0; round < specs_.size(); ++round) {
        size_t like = 0;
        const auto planned_alike = [&](size_t other) {
            for (int s = 0; s < stages_; ++s)
                if (deep(round, s) != deep(other, s)) return false;
            return alike(specs_[round], specs_[other]);
        };
        while (!planned_alike(like)) ++like;
        like_.push_back(static_cast<int64_t>(like));
    }
    if (stages_ == 1) {
        for (auto* ticks : {&tick_of_[0], &tick_of_[1]}) ticks->assign(1, {});
        for (int64_t m = 0; m < micro_batches; ++m)
            for (const size_t pass : {size_t{0}, size_t{1}})
                at_tick_[pass].push_back({m}), tick_of_[pass][0].push_back(m);
        return;
    }
    const Schedule schedule = make_schedule(
        "same-phase",
        {.stages = stages_, .micro_batches = micro_batches, .in_flight_cap = config.parallel.in_flight, .costs = {}});
    for (auto* ticks : {&tick_of_[0], &tick_of_[1]})
        ticks->assign(static_cast<size_t>(stages_), std::vector<int64_t>(static_cast<size_t>(micro_batches), -1));
    int64_t number = 0;
    for (const Tick& tick : ticks_of(schedule)) {
        const size_t pass = index(tick.forward ? Pass::kForward : Pass::kBackward);
        for (size_t s = 0; s < tick.micro_batch.size(); ++s)
            if (const int64_t m = tick.micro_batch[s]; m >= 0) tick_of_[pass][s][static_cast<size_t>(m)] = number;
        at_tick_[pass].resize(static_cast<size_t>(number), std::vector<int64_t>(tick.micro_batch.size(), -1));
        at_tick_[pass].push_back(tick.micro_batch);
        ++number;
    }
}

void CadPlans::begin_step(int64_t first_sample) {
    first_sample_ = first_sample;
    documents_.clear();
    for (auto& plans : planned_) plans.clear();
    tick_[0] = tick_[1] = -1;
    counted_.clear();
    balance_ = {};
    keeps_ = false;
    for (CadUnequalRound& most : most_unequal_) most = {};
}

void CadPlans::enter_tick(Pass pass, int64_t tick) {
    if (tick_[index(pass)] == tick) return;
    tick_[index(pass)] = tick;
    planned_[index(pass)].clear();
}

void CadPlans::enter(Pass pass, int data_rank, int stage, int64_t micro_batch) {
    const int home = data_rank * stages_ + stage;
    if (home != home_)
        for (auto& plans : planned_)
            for (auto& [key, planned] : plans) planned.home_round.reset();
    stage_ = stage, home_ = home;
    enter_tick(pass, tick_of_[index(pass)][static_cast<size_t>(stage)][static_cast<size_t>(micro_batch)]);
}

const std::vector<int32_t>& CadPlans::documents(int64_t first_sample) {
    std::vector<int32_t>& bounds = documents_[first_sample];
    if (bounds.empty()) bounds = data_.document_bounds(first_sample, config_.train.micro_batch);
    return bounds;
}

std::vector<CaSegment> CadPlans::segments_of(Pass pass, int lane, int64_t round) {
    const std::vector<int64_t>& here = at_tick_[index(pass)][static_cast<size_t>(tick_[index(pass)])];
    const int64_t rows = config_.train.micro_batch, lanes = config_.lanes();
    std::vector<CaSegment> segments;
    for (int d = 0; d < data_ranks_; ++d)
        for (int s = 0; s < stages_; ++s) {
            const StageRange& range = ranges_[static_cast<size_t>(s)];
            const int64_t m = here[static_cast<size_t>(s)];
            if (m < 0 || range.last_layer - range.first_layer <= round) continue;
            const int64_t batch = (d * micro_batches_ + m) * lanes + lane;
            const std::vector<int32_t>& bounds = documents(first_sample_ + batch * rows);
            for (size_t i = 1; i < bounds.size(); ++i)
                segments.push_back(
                    {static_cast<int64_t>(segments.size()), d * stages_ + s, 0, bounds[i] - bounds[i - 1]});
        }
    return segments;
}

CadPlans::Planned& CadPlans::planned(Pass pass, int lane, int64_t round) {
    round = like_[static_cast<size_t>(round)];
    const auto [found, is_new] = planned_[index(pass)].try_emplace({lane, round});
    Planned& p = found->second;
    if (!is_new) return p;
    const auto start = std::chrono::steady_clock::now();
    const AttentionSpec& spec = specs_[static_cast<size_t>(round)];
    p.segments = segments_of(pass, lane, round);
    p.options = {.servers = data_ranks_ * stages_,
                 .tolerance = config_.cad.tolerance,
                 .min_gain = config_.cad.min_gain,
                 .window = spec.window,
                 .pinned = spec.pinned,
                 .costs = pass == Pass::kForward ? shape_.forward_costs(spec) : shape_.backward_costs(spec),
                 .speeds = {config_.cad.speeds.begin(), config_.cad.speeds.end()},
                 .byte_cap = static_cast<int64_t>(config_.cad.byte_cap_mib * (1 << 20)),
                 .two_hop = config_.cad.two_hop};
    p.plan = plan_core_attention(p.segments, p.options);
    // As virtual ranks in turn, one process meets a round once for each.
    if (counted_.insert({pass, tick_[index(pass)], lane, round}).second) {
        add_to_balance(p, std::ranges::count(like_, round));
        if (keeps_) keep_if_most_unequal(pass, lane, round, p);
    }
    balance_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return p;
}

const CaKeys& CadPlans::Planned::keys() {
    if (!known_keys) known_keys = keys_of(plan, segments, options);
    return *known_keys;
}

void CadPlans::add_to_balance(Planned& p, int64_t layers) {
    const std::vector<int64_t> before = loads_of(plan_nothing(p.segments), p.segments, p.options);
    const std::vector<int64_t> after = loads_of(p.plan, p.segments, p.options);
    const CaBytes bytes = bytes_of(p.plan, p.keys(), p.segments, p.options);
    double total = 0;
    for (const int64_t load : after) total += static_cast<double>(load);
    const auto times = static_cast<double>(layers);
    balance_.mean += times * total / static_cast<double>(after.size());
    balance_.largest_before += times * static_cast<double>(*std::ranges::max_element(before));
    balance_.largest += times * static_cast<double>(*std::ranges::max_element(after));
    balance_.bytes += layers * bytes.total();
    balance_.most_bytes += layers * bytes.most();
    balance_.hash += hash_of(p.plan, p.segments);  // in any order: idle stages meet the rounds in their own
}

// Idle stages meet the rounds in their own order: of equals the first by tick, lane and round is kept.
void CadPlans::keep_if_most_unequal(Pass pass, int lane, int64_t round, const Planned& p) {
    const std::vector<int64_t> loads = loads_of(plan_nothing(p.segments), p.segments, p.options);
    const double mean =
        std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(loads.size());  // whole pairs: exact
    const double excess = static_cast<double>(*std::ranges::max_element(loads)) - mean;
    const int64_t tick = tick_[index(pass)];
    CadUnequalRound& most = most_unequal_[index(pass)];
    if (std::tuple(-excess, tick, lane, round) < std::tuple(-most.excess, most.tick, most.lane, most.round))
        most = {.excess = excess,
                .tick = tick,
                .lane = lane,
                .round = round,
                .layers = std::ranges::count(like_, round),
                .segments = p.segments,
                .options = p.options,
                .plan = p.plan};
}

int64_t CadPlans::round_of_layer(int64_t layer) const {
    return layer - first_layer(stage_);
}

const CaRound& CadPlans::round(Pass pass, const AttentionCall& call) {
    Planned& p = planned(pass, call.lane, round_of_layer(call.layer));
    if (!p.round) p.round = round_of(p.plan, p.keys(), p.segments, p.options.servers, rank_, groups_);
    return *p.round;
}

const CaHomeRound& CadPlans::home_round(Pass pass, const AttentionCall& call) {
    Planned& p = planned(pass, call.lane, round_of_layer(call.layer));
    if (!p.home_round) p.home_round.emplace(home_round_of(p.plan, p.keys(), p.segments, home_));
    return *p.home_round;
}

void CadPlans::plan_step() {
    for (const Pass pass : {Pass::kForward, Pass::kBackward})
        for (size_t tick = 0; tick < at_tick_[index(pass)].size(); ++tick) {
            if (at_tick_[index(pass)][tick].empty()) continue;
            enter_tick(pass, static_cast<int64_t>(tick));
            for (int lane = 0; lane < config_.lanes(); ++lane)
                for (int64_t round = 0; round < rounds(); ++round) planned(pass, lane, round);
        }
}

}  // namespace plimsoll
