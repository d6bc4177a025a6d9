#include <algorithm>

#include "dist/cad/plan.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// Whether a task may begin or end there.
bool is_edge(int64_t position, const CaSegment& segment, const CaOptions& options) {
    return position % options.block == 0 || position == segment.begin || position == segment.end;
}

std::string text_of(const CaTask& task) {
    return fmt::format("task [{}, {}) of segment {} on rank {}", task.begin, task.end, task.segment, task.server);
}

}  // namespace

std::string problem_with(const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options) {
    size_t segment = 0;
    int64_t next = segments.empty() ? 0 : segments[0].begin;  // of its rows
    const auto leave_finished = [&] {
        while (segment < segments.size() && next == segments[segment].end)
            if (++segment < segments.size()) next = segments[segment].begin;
    };
    leave_finished();
    bool moves = false;
    for (const CaTask& task : plan.tasks) {
        if (task.segment < 0 || task.segment >= static_cast<int64_t>(segments.size()))
            return fmt::format("{}: there are {} segments", text_of(task), segments.size());
        if (task.server < 0 || task.server >= options.servers)
            return fmt::format("{}: there are {} ranks", text_of(task), options.servers);
        if (task.begin >= task.end) return fmt::format("{}: no rows", text_of(task));
        if (segment == segments.size() || task.segment != static_cast<int64_t>(segment) || task.begin != next)
            return fmt::format("{}: row {} of segment {} is next", text_of(task), next, segment);
        const CaSegment& s = segments[segment];
        if (task.end > s.end) return fmt::format("{}: the segment ends at {}", text_of(task), s.end);
        for (const int64_t edge : {task.begin, task.end})
            if (!is_edge(edge, s, options))
                return fmt::format("{}: {} is neither a multiple of {} nor an edge of the segment", text_of(task), edge,
                                   options.block);
        moves = moves || task.server != s.home;
        next = task.end;
        leave_finished();
    }
    if (segment < segments.size()) return fmt::format("rows of segment {} from {} on have no task", segment, next);
    if (moves && !plan.moves) return "tasks move in a plan that says that none does";
    return "";
}

}  // namespace plimsoll
