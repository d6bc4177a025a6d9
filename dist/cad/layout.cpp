#include "dist/cad/layout.h"

#include <tuple>

#include "dist/cad/stack.h"

namespace plimsoll {
namespace {

// The next edge of a block in the segment. Its own edges count as such: rounding the end of a document down to a
// multiple of the block would leave its last rows at home, which for documents of a few hundred rows is a large part of
// their pairs (up to 40% over the tolerance with many of them on one rank).
int64_t nearest_edge(int64_t position, const CaSegment& s, int64_t block) {
    const int64_t low = std::max(s.begin, position / block * block);
    const int64_t high = std::min(s.end, low / block * block + block);
    return position - low < high - position ? low : high;
}

class Layout {
  public:
    Layout(const CaProblem& problem, const HeldKeys& held, std::span<const int64_t> limits)
        : problem_(problem), held_(held), rooms_(limits.begin(), limits.end()) {
        for (size_t r = 0; r < rooms_.size(); ++r) rooms_[r] = std::max<int64_t>(0, rooms_[r] - problem.loads[r]);
    }

    void add(int64_t segment, std::span<const CaTransfer> transfers) {
        const CaSegment& s = problem_.segment(segment);
        if (s.begin == s.end) return;
        pieces_.clear();
        if (is_small(s, problem_.options)) {
            for (const CaTransfer& transfer : transfers) pieces_.push_back({transfer.server, transfer.pairs});
            return add_pieces(segment, s.end);
        }
        PieceStack stack;
        for (const CaTransfer& transfer : transfers) stack.add(transfer.server, transfer.pairs);
        pieces_.assign(stack.pieces().begin(), stack.pieces().end());
        add_pieces(segment, stack.best_end(problem_, held_, segment, problem_.options.block));
    }

    std::vector<CaTask> finish() {
        join_tasks(tasks_);
        return std::move(tasks_);
    }

  private:
    // Edges are rounded one by one from exact ones, so that roundings do not add up; but no piece exceeds its server's
    // room, so that what is left over is the segment's lowest rows, with few pairs each.
    void add_pieces(int64_t segment, int64_t end) {
        const CaSegment& s = problem_.segment(segment);
        const int64_t block = problem_.options.block;
        int64_t upper = nearest_edge(end, s, block);
        add_task(segment, s.home, upper, s.end);
        for (const PieceStack::Piece& piece : pieces_) {
            end = std::max(s.begin, problem_.pairs.begin_of(end, piece.pairs));
            int64_t& room = rooms_[static_cast<size_t>(piece.server)];
            int64_t lower = std::min(upper, nearest_edge(end, s, block));
            if (problem_.pairs.between(lower, upper) > room) lower = lowest_edge(s, upper, room);
            add_task(segment, piece.server, lower, upper);
            room -= problem_.pairs.between(lower, upper);
            upper = lower;
        }
        add_task(segment, s.home, s.begin, upper);
    }

    // The first edge from which rows up to `upper` have at most `pairs` pairs.
    int64_t lowest_edge(const CaSegment& s, int64_t upper, int64_t pairs) const {
        const int64_t block = problem_.options.block;
        const int64_t begin = std::max(s.begin, problem_.pairs.begin_of(upper, pairs));
        const bool is_edge = begin == s.begin || begin % block == 0;
        if (is_edge && problem_.pairs.between(begin, upper) <= pairs) return begin;
        return std::min(upper, begin / block * block + block);
    }

    void add_task(int64_t segment, int server, int64_t begin, int64_t end) {
        if (begin < end) tasks_.push_back({segment, server, begin, end});
    }

    const CaProblem& problem_;
    const HeldKeys& held_;
    std::vector<int64_t> rooms_;             // by rank: pairs below its limit
    std::vector<PieceStack::Piece> pieces_;  // of the segment that is being cut
    std::vector<CaTask> tasks_;
};

}  // namespace

std::vector<CaTask> lay_out(const CaProblem& problem, const HeldKeys& held, std::span<const int64_t> limits,
                            std::span<const CaTransfer> transfers) {
    std::vector<CaTransfer> sorted(transfers.begin(), transfers.end());
    std::ranges::stable_sort(sorted, {}, &CaTransfer::segment);
    Layout layout(problem, held, limits);
    size_t at = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(problem.segments.size()); ++i) {
        const size_t first = at;
        while (at < sorted.size() && sorted[at].segment == i) ++at;
        layout.add(i, std::span(sorted).subspan(first, at - first));
    }
    return layout.finish();
}

void join_tasks(std::vector<CaTask>& tasks) {
    const auto key = [](const CaTask& task) { return std::tuple(task.segment, task.begin); };
    if (!std::ranges::is_sorted(tasks, {}, key)) std::ranges::sort(tasks, {}, key);
    size_t kept = 0;
    for (const CaTask& task : tasks) {
        if (kept > 0 && tasks[kept - 1].segment == task.segment && tasks[kept - 1].server == task.server)
            tasks[kept - 1].end = task.end;
        else
            tasks[kept++] = task;
    }
    tasks.resize(kept);
}

}  // namespace plimsoll
