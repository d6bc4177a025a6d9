#include "train/cad_sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace plimsoll {
namespace {

using nlohmann::json;

json plan_json(const CadUnequalRound& round) {
    const CaOptions& options = round.options;
    const CaPlan& plan = round.plan;
    const std::vector<CaSegment>& segments = round.segments;
    json segment_rows = json::array(), task_rows = json::array();
    for (const CaSegment& s : segments)
        segment_rows.push_back({s.document, s.home, s.begin, s.end, pairs_of(s.begin, s.end, options)});
    for (const CaTask& t : plan.tasks)
        task_rows.push_back({t.segment, t.server, t.begin, t.end, pairs_of(t.begin, t.end, options)});
    const CaKeys keys = keys_of(plan, segments, options);
    std::vector<int64_t> most_keys(static_cast<size_t>(options.servers), 0);
    for (const CaKeyRange& range : keys.ranges) {
        int64_t& most = most_keys[static_cast<size_t>(range.server)];
        most = std::max(most, range.prefix + range.end - range.begin);
    }
    const CaBytes bytes = bytes_of(plan, keys, segments, options);
    return {{"tick", round.tick},
            {"lane", round.lane},
            {"round", round.round},
            {"layers", round.layers},
            {"moves", plan.moves},
            {"tolerance", plan.tolerance},
            {"byte_cap", options.byte_cap},
            {"segments", segment_rows},
            {"tasks", task_rows},
            {"loads_before", loads_of(plan_nothing(segments), segments, options)},
            {"loads", loads_of(plan, segments, options)},
            {"most_keys", most_keys},
            {"sent", bytes.sent},
            {"received", bytes.received}};
}

// Rows of rank, lane, layer, phase, begin and end in ms since the first of them.
json timeline_json(const std::vector<CaWindow>& windows) {
    double start = std::numeric_limits<double>::infinity();
    for (const CaWindow& window : windows)
        if (window.count) start = std::min(start, window.intervals.front().begin);
    const auto ms = [&](double seconds) { return std::round(1e7 * (seconds - start)) / 1e4; };
    json rows = json::array();
    for (size_t rank = 0; rank < windows.size(); ++rank)
        for (const CaInterval& i : std::span(windows[rank].intervals).first(static_cast<size_t>(windows[rank].count)))
            rows.push_back(
                {rank, i.lane, i.layer, kCaPhaseNames[static_cast<size_t>(i.phase)], ms(i.begin), ms(i.end)});
    return rows;
}

}  // namespace

bool is_cad_sample(int64_t step) {
    while (step >= 10 && step % 10 == 0) step /= 10;
    return step == 1 || step == 2 || step == 5;
}

json cad_sample(int64_t step, const TrainingAttention& attention, Communicator& world) {
    json sample{{"step", step}, {"ranks", attention.most_unequal(Pass::kForward).options.servers}};
    for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
        json& part = sample[pass == Pass::kForward ? "forward" : "backward"] = plan_json(attention.most_unequal(pass));
        if (attention.travels()) part["timeline"] = timeline_json(world.gather_each(attention.window(pass)));
    }
    return sample;
}

}  // namespace plimsoll
