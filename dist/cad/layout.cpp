#include "dist/cad/layout.h"

#include <cmath>
#include <tuple>

#include "dist/cad/greedy.h"

namespace plimsoll {
namespace {

// The next edge of a block in the segment. Its own edges count as such: rounding the end of a document down to a
// multiple of the block would leave its last rows at home, which for documents of a few hundred rows is a large part of
// their pairs (up to 40% over the tolerance with many of them on one rank).
int64_t nearest_edge(int64_t position, const CaSegment& s, int64_t block) {
    if (position >= s.end) return s.end;
    const int64_t low = std::max(s.begin, position / block * block),
                  high = std::min(s.end, low / block * block + block);
    return position - low < high - position ? low : high;
}

class Layout {
  public:
    explicit Layout(const CaProblem& problem) : problem_(problem), held_(problem) {
        const CaDocuments& documents = problem.documents;
        for (int64_t i = 0; i < static_cast<int64_t>(problem.segments.size()); ++i)
            if (documents.segments_of(documents.of(i)).size() > 1)
                held_.add(documents.of(i), problem.segment(i).home, problem.segment(i).end);
    }

    void add(int64_t segment, std::span<const CaTransfer> transfers) {
        const CaSegment& s = problem_.segment(segment);
        if (s.begin == s.end) return;
        pieces_.assign(transfers.begin(), transfers.end());
        if (!is_small(s, problem_.options)) {
            join_pieces();
            add_pieces(segment, best_end(s));
        } else {
            add_pieces(segment, s.end);
        }
    }

    std::vector<CaTask> finish() {
        join_tasks(tasks_);
        return std::move(tasks_);
    }

  private:
    void join_pieces() {
        size_t kept = 0;
        for (size_t i = 0; i < pieces_.size(); ++i) {
            size_t same = 0;
            while (same < kept && pieces_[same].server != pieces_[i].server) ++same;
            if (same < kept)
                pieces_[same].pairs += pieces_[i].pairs;
            else
                pieces_[kept++] = pieces_[i];
        }
        pieces_.resize(kept);
        std::ranges::stable_sort(pieces_, std::ranges::greater(), &CaTransfer::pairs);
    }

    // Bytes if the pieces, one below the other, end at `end`.
    double bytes_at(const CaSegment& s, int64_t document, int64_t end) const {
        double bytes = 0;
        for (const CaTransfer& piece : pieces_) {
            const int64_t begin = std::max(s.begin, problem_.pairs.begin_of(end, piece.pairs));
            const int64_t keys = end > begin ? held_.missing(document, piece.server, begin, end) : 0;
            bytes += problem_.query_bytes * static_cast<double>(end - begin) +
                     problem_.key_bytes * static_cast<double>(keys);
            end = begin;
        }
        return bytes;
    }

    // Fewer keys the lower the pieces lie, fewer queries the higher: a minimum between, or at the segment's end.
    int64_t best_end(const CaSegment& s) const {
        if (pieces_.empty() || problem_.options.window > 0) return s.end;
        const int64_t document = problem_.documents.of(pieces_.front().segment);
        int64_t pairs = 0;
        for (const CaTransfer& piece : pieces_) pairs += piece.pairs;
        int64_t low = std::min(s.end, problem_.pairs.end_of(s.begin, pairs)), high = s.end;
        while (high - low > problem_.options.block) {
            const int64_t third = (high - low) / 3;
            if (bytes_at(s, document, low + third) < bytes_at(s, document, high - third))
                high -= third;
            else
                low += third;
        }
        const int64_t middle = low + (high - low) / 2;
        return bytes_at(s, document, middle) < bytes_at(s, document, s.end) ? middle : s.end;
    }

    // Edges are rounded one by one from exact ones, so that roundings do not add up.
    void add_pieces(int64_t segment, int64_t end) {
        const CaSegment& s = problem_.segment(segment);
        const int64_t block = problem_.options.block;
        int64_t upper = nearest_edge(end, s, block);
        add_task(segment, s.home, upper, s.end);
        for (const CaTransfer& piece : pieces_) {
            end = std::max(s.begin, problem_.pairs.begin_of(end, piece.pairs));
            const int64_t lower = std::min(upper, nearest_edge(end, s, block));
            add_task(segment, piece.server, lower, upper);
            upper = lower;
        }
        add_task(segment, s.home, s.begin, upper);
    }

    void add_task(int64_t segment, int server, int64_t begin, int64_t end) {
        if (begin < end) tasks_.push_back({segment, server, begin, end});
    }

    const CaProblem& problem_;
    HeldKeys held_;
    std::vector<CaTransfer> pieces_;  // of the segment that is being cut
    std::vector<CaTask> tasks_;
};

}  // namespace

std::vector<CaTask> lay_out(const CaProblem& problem, std::span<const CaTransfer> transfers) {
    std::vector<CaTransfer> sorted(transfers.begin(), transfers.end());
    std::ranges::stable_sort(sorted, {}, &CaTransfer::segment);
    Layout layout(problem);
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
