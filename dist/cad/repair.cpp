#include "dist/cad/repair.h"

#include <limits>
#include <numeric>
#include <tuple>

#include "dist/cad/layout.h"

namespace plimsoll {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr size_t kTasks = 48;   // of an overloaded rank that are compared
constexpr size_t kServers = 8;  // with the most room that are compared
constexpr size_t kSwapServers = 16;
constexpr size_t kSwapTasks = 12;  // of each of these
enum class Edge { kBegin, kEnd };

class Repair {
  public:
    Repair(const CaProblem& problem, std::span<const int64_t> limits, std::vector<CaTask>& tasks)
        : problem_(problem),
          limits_(limits.begin(), limits.end()),
          tasks_(tasks),
          loads_(limits.size(), 0),
          tasks_of_(limits.size()),
          held_(problem) {
        for (size_t i = 0; i < tasks.size(); ++i) {
            const auto server = static_cast<size_t>(tasks[i].server);
            loads_[server] += pairs_in(tasks[i].begin, tasks[i].end);
            tasks_of_[server].push_back(i);
            hold(tasks[i]);
        }
    }

    void run() {
        // Each step removes an excess or uses up a room or a task; the number is for tasks of single blocks.
        for (size_t step = 0; step < 8 * loads_.size() + 64; ++step) {
            const size_t from = most_overloaded();
            if (room(from) >= 0) break;
            if (!move_cheapest(from) && !swap_cheapest(from)) break;
        }
        while (move_any()) continue;
        join_tasks(tasks_);
    }

  private:
    struct Move {
        size_t task = 0;
        int server = 0;
        int64_t begin = 0, end = 0;
        double score = kNever;
    };

    int64_t pairs_in(int64_t begin, int64_t end) const { return problem_.pairs.between(begin, end); }
    int64_t room(size_t rank) const { return limits_[rank] - loads_[rank]; }
    const CaSegment& segment_of(const CaTask& task) const { return problem_.segment(task.segment); }
    int64_t document_of(const CaTask& task) const { return problem_.documents.of(task.segment); }

    void hold(const CaTask& task) {
        const bool whole = problem_.documents.segments_of(document_of(task)).size() == 1;
        if (whole && segment_of(task).home == task.server) return;
        held_.add(document_of(task), task.server, task.end);
    }

    size_t most_overloaded() const {
        size_t most = 0;
        for (size_t r = 1; r < loads_.size(); ++r)
            if (room(r) < room(most)) most = r;
        return most;
    }

    // The ranks with the most room, without those that have none.
    std::vector<int> roomiest(size_t count) const {
        std::vector<int> ranks(loads_.size());
        std::iota(ranks.begin(), ranks.end(), 0);
        std::erase_if(ranks, [&](int r) { return room(static_cast<size_t>(r)) <= 0; });
        std::ranges::sort(ranks, {}, [&](int r) { return std::tuple(-room(static_cast<size_t>(r)), r); });
        if (ranks.size() > count) ranks.resize(count);
        return ranks;
    }

    // Half of them those that end last, which have the most pairs per row, the others from all the rest.
    std::vector<size_t> some_tasks(size_t rank, size_t count) const {
        std::vector<size_t> tasks = tasks_of_[rank];
        const auto by_end = [&](size_t i) { return std::tuple(-tasks_[i].end, i); };
        if (tasks.size() <= count) {
            std::ranges::sort(tasks, {}, by_end);
            return tasks;
        }
        const auto half = static_cast<std::ptrdiff_t>(count / 2);
        std::ranges::partial_sort(tasks, tasks.begin() + half, {}, by_end);
        const size_t stride = (tasks.size() - count / 2) / (count - count / 2);
        for (size_t i = count / 2; i < count; ++i) tasks[i] = tasks[count / 2 + (i - count / 2) * stride];
        tasks.resize(count);
        return tasks;
    }

    // Bytes more than before if `server` gets rows of the task.
    double bytes_of(const CaTask& task, int server, int64_t begin, int64_t end) const {
        const int home = segment_of(task).home;
        const double queries = server == home ? -1.0 : task.server == home ? 1.0 : 0.0;
        return queries * problem_.query_bytes * static_cast<double>(end - begin) +
               problem_.key_bytes * static_cast<double>(held_.missing(document_of(task), server, begin, end));
    }

    // Rows at an edge of the task with about `pairs` pairs, whole blocks, at most `most` pairs. Empty if none.
    std::pair<int64_t, int64_t> rows_at(const CaTask& task, Edge edge, int64_t pairs, int64_t most) const {
        const int64_t block = problem_.options.block;
        if (edge == Edge::kEnd) {
            int64_t begin = std::max(task.begin, problem_.pairs.begin_of(task.end, pairs) / block * block);
            if (pairs_in(begin, task.end) > most) begin = begin / block * block + block;
            return {std::min(begin, task.end), task.end};
        }
        int64_t end = std::min(task.end, (problem_.pairs.end_of(task.begin, pairs) + block - 1) / block * block);
        if (pairs_in(task.begin, end) > most) end = (end - 1) / block * block;
        return {task.begin, std::max(end, task.begin)};
    }

    bool move_cheapest(size_t from) {
        const int64_t excess = -room(from);
        const std::vector<int> servers = roomiest(kServers);
        const double block_bytes = problem_.query_bytes * static_cast<double>(problem_.options.block);
        Move best;
        const auto consider = [&](size_t task, int server) {
            const int64_t space = room(static_cast<size_t>(server));
            if (space <= 0) return;
            for (const Edge edge : {Edge::kEnd, Edge::kBegin}) {
                const auto [begin, end] = rows_at(tasks_[task], edge, std::min(excess, space), space);
                const int64_t pairs = pairs_in(begin, end);
                if (pairs == 0 || pairs > space) continue;
                // One more task costs about a block of queries; pairs beyond the excess are worth nothing.
                const double bytes = bytes_of(tasks_[task], server, begin, end) + block_bytes;
                const double value = bytes / static_cast<double>(std::min(pairs, excess));
                if (value < best.score) best = {task, server, begin, end, value};
            }
        };
        for (const size_t task : some_tasks(from, kTasks)) {
            for (const int server : servers) consider(task, server);
            const int home = segment_of(tasks_[task]).home;
            if (home != tasks_[task].server) consider(task, home);
        }
        if (best.score == kNever) return false;
        apply(best);
        return true;
    }

    // A block at an edge of a task.
    struct Block {
        size_t task;
        int64_t begin, end, pairs;
    };
    std::vector<Block> edge_blocks(size_t rank, size_t count) const {
        const int64_t size = problem_.options.block;
        std::vector<Block> blocks;
        for (const size_t i : some_tasks(rank, count)) {
            const CaTask& task = tasks_[i];
            const int64_t last = std::max(task.begin, (task.end - 1) / size * size);
            blocks.push_back({i, last, task.end, pairs_in(last, task.end)});
            if (last == task.begin) continue;
            const int64_t first = task.begin / size * size + size;
            blocks.push_back({i, task.begin, first, pairs_in(task.begin, first)});
        }
        return blocks;
    }

    // A block of `from` for a smaller one of another rank.
    bool swap_cheapest(size_t from) {
        const int64_t excess = -room(from);
        Move away, back;
        const std::vector<Block> ours = edge_blocks(from, kTasks);
        for (const int server : roomiest(kSwapServers)) {
            const int64_t space = room(static_cast<size_t>(server));
            for (const Block& theirs : edge_blocks(static_cast<size_t>(server), kSwapTasks)) {
                double their_bytes = -1;
                for (const Block& block : ours) {
                    const int64_t gain = block.pairs - theirs.pairs;
                    if (gain <= 0 || gain > space) continue;
                    if (their_bytes < 0)
                        their_bytes = bytes_of(tasks_[theirs.task], static_cast<int>(from), theirs.begin, theirs.end);
                    const double bytes = bytes_of(tasks_[block.task], server, block.begin, block.end) + their_bytes;
                    const double value = bytes / static_cast<double>(std::min(gain, excess));
                    if (value >= away.score) continue;
                    away = {block.task, server, block.begin, block.end, value};
                    back = {theirs.task, static_cast<int>(from), theirs.begin, theirs.end, value};
                }
            }
        }
        if (away.score == kNever) return false;
        apply(away);
        apply(back);
        return true;
    }

    // One block, or a run of them, of a rank that is more than a block above its share, to the rank that is furthest
    // below its own: that one exists, and stays within a block of its share.
    bool move_any() {
        const size_t from = most_overloaded();
        if (room(from) >= 0) return false;
        size_t to = from;
        int64_t below = 0;
        for (size_t r = 0; r < loads_.size(); ++r) {
            const int64_t rest = problem_.share(static_cast<int>(r), 1.0) - loads_[r];
            if (rest > below) below = rest, to = r;
        }
        const int64_t allowed = problem_.share(static_cast<int>(from), 1.0) + problem_.largest_block;
        if (to == from || loads_[from] <= std::max(allowed, limits_[from])) return false;
        const size_t task = tasks_of_[from].back();
        const int64_t wanted = std::min(-room(from), below);
        const auto [begin, end] = rows_at(tasks_[task], Edge::kEnd, wanted, below + problem_.largest_block);
        apply({task, static_cast<int>(to), begin, end, 0});
        return true;
    }

    void apply(const Move& move) {
        CaTask& task = tasks_[move.task];
        const int64_t pairs = pairs_in(move.begin, move.end);
        const auto from = static_cast<size_t>(task.server), to = static_cast<size_t>(move.server);
        loads_[from] -= pairs, loads_[to] += pairs;
        const CaTask moved{task.segment, move.server, move.begin, move.end};
        hold(moved);
        if (move.begin == task.begin && move.end == task.end) {
            task = moved;
            std::erase(tasks_of_[from], move.task);
            tasks_of_[to].push_back(move.task);
            return;
        }
        if (move.end == task.end)
            task.end = move.begin;
        else
            task.begin = move.end;
        tasks_of_[to].push_back(tasks_.size());
        tasks_.push_back(moved);
    }

    const CaProblem& problem_;
    std::vector<int64_t> limits_;
    std::vector<CaTask>& tasks_;
    std::vector<int64_t> loads_;
    std::vector<std::vector<size_t>> tasks_of_;  // by rank
    HeldKeys held_;
};

}  // namespace

void repair(const CaProblem& problem, std::span<const int64_t> limits, std::vector<CaTask>& tasks) {
    Repair(problem, limits, tasks).run();
}

}  // namespace plimsoll
