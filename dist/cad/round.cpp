#include "dist/cad/round.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "kernels/error.h"

namespace plimsoll {
namespace {

size_t at(int64_t index) {
    return static_cast<size_t>(index);
}

// What is known of a document by its segments.
struct Document {
    int64_t segments = 0;
    int64_t first_segment = 0;
    bool moves = false;  // another rank than its home reads its keys
};

bool holds(const KeyRange& range, int64_t position) {
    return position < range.prefix || (range.begin <= position && position < range.end);
}

class RoundBuilder {
  public:
    RoundBuilder(CaRound& round, const CaKeys& keys, std::span<const CaSegment> segments, int rank,
                 std::span<const int> groups)
        : round_(round), segments_(segments), groups_(groups), me_(rank), keys_(keys) {
        round.rank = rank;
        const int group_count = groups.empty() ? 1 : *std::ranges::max_element(groups) + 1;
        round.served.resize(at(group_count));
        round.sink_of.assign(at(group_count), -1);
        batch_row_.resize(segments.size());
        int64_t row = 0;
        for (size_t s = 0; s < segments.size(); ++s) {
            Document& document = documents_[segments[s].document];
            if (document.segments++ == 0) document.first_segment = static_cast<int64_t>(s);
            if (segments[s].home != me_) continue;
            batch_row_[s] = row;
            row += segments[s].end - segments[s].begin;
        }
        for (const CaKeyRange& range : keys_.ranges) {
            Document& document = documents_[range.document];
            document.moves |= document.segments > 1 || segments_[at(document.first_segment)].home != range.server;
        }
    }

    void build() {
        place_ranges();
        route_queries();
        copy_own_keys();
        route_keys();
        for (size_t s = 0; s < segments_.size(); ++s)
            if (segments_[s].home == me_ && documents_[segments_[s].document].moves)
                round_.summed.push_back({batch_row_[s], segments_[s].end - segments_[s].begin});
    }

  private:
    bool in_place(const Document& document, int server) const {
        return document.segments == 1 && segments_[at(document.first_segment)].home == server;
    }
    int group_of(int rank) const { return groups_.empty() ? 0 : groups_[at(rank)]; }

    // Tasks of this server: on the batch, or on copies, whose rows are numbered here.
    void place_ranges() {
        query_row_.assign(round_.plan.tasks.size(), -1);
        for (const CaKeyRange& range : keys_.ranges) {
            if (range.server != me_) continue;
            const Document& document = documents_[range.document];
            const int home = segments_[at(document.first_segment)].home;
            const bool here = in_place(document, me_);
            CaTasks& tasks = here ? (document.moves ? round_.shared : round_.alone) : round_.served[at(group_of(home))];
            if (here)
                add_in_place(tasks, range, batch_row_[at(document.first_segment)]);
            else {
                tasks.keys.push_back({round_.key_rows, range.prefix, range.begin, range.end});
                placed_[range.document].push_back(tasks.keys.back());
                round_.key_rows += tasks.keys.back().rows();
            }
            for (int64_t i = range.first_task; i < range.last_task; ++i) {
                const int64_t index = keys_.tasks[at(i)];
                const CaTask& task = round_.plan.tasks[at(index)];
                const int64_t count = task.end - task.begin;
                const int64_t row = here ? batch_row_[at(task.segment)] + task.begin : round_.query_rows;
                tasks.tasks.push_back({row, count, task.begin, static_cast<int64_t>(tasks.keys.size()) - 1});
                if (here) continue;
                round_.sink_of[at(group_of(home))] = segments_[at(task.segment)].home;
                query_row_[at(index)] = row;
                round_.query_rows += count;
            }
        }
    }

    // In place all keys are there: ranges of one document are one.
    static void add_in_place(CaTasks& tasks, const CaKeyRange& range, int64_t row) {
        if (tasks.keys.empty() || tasks.keys.back().row != row) tasks.keys.push_back({row, 0, 0, range.end});
        tasks.keys.back().end = std::max(tasks.keys.back().end, range.end);
    }

    void route_queries() {
        for (size_t i = 0; i < round_.plan.tasks.size(); ++i) {
            const CaTask& task = round_.plan.tasks[i];
            const CaSegment& segment = segments_[at(task.segment)];
            if (in_place(documents_[segment.document], task.server)) continue;
            const int64_t count = task.end - task.begin;
            if (segment.home == me_) {
                if (round_.queries.out.rows(task.server) == 0 && task.server != me_)
                    round_.pairs.out.add(task.server, {0, 1});
                round_.queries.out.add(task.server, {batch_row_[at(task.segment)] + task.begin - segment.begin, count});
            }
            if (task.server == me_) {
                if (round_.queries.in.rows(segment.home) == 0 && segment.home != me_)
                    round_.pairs.in.add(segment.home, {segment.home, 1});
                round_.queries.in.add(segment.home, {query_row_[i], count});
            }
        }
    }

    // Keys of spanning documents that this rank owns and copies.
    void copy_own_keys() {
        for (size_t s = 0; s < segments_.size(); ++s) {
            const CaSegment& segment = segments_[s];
            const auto found = placed_.find(segment.document);
            if (segment.home != me_ || found == placed_.end()) continue;
            for (const KeyRange& placed : found->second) {
                const auto copy = [&](int64_t begin, int64_t end) {
                    begin = std::max(begin, segment.begin), end = std::min(end, segment.end);
                    if (begin >= end) return;
                    round_.keys.out.add(me_, {batch_row_[s] + begin - segment.begin, end - begin});
                    round_.keys.in.add(me_, {placed.row_of(begin), end - begin});
                };
                copy(0, placed.prefix);
                copy(placed.begin, placed.end);
            }
        }
    }

    // Rows of this server's copy.
    RowRun copied(int64_t document, int64_t begin, int64_t end) const {
        for (const KeyRange& placed : placed_.at(document))
            if (holds(placed, begin)) return {placed.row_of(begin), end - begin};
        check(false, "positions {} to {} of document {} are not among the keys of rank {}", begin, end, document, me_);
        return {};
    }

    void route_keys() {
        for (const CaKeyPiece& piece : keys_.pieces) {
            round_.two_hops |= piece.relay >= 0;
            const CaSegment& segment = segments_[at(piece.segment)];
            const int owner = segment.home;
            const int64_t count = piece.end - piece.begin;
            const RowRun owned{batch_row_[at(piece.segment)] + piece.begin - segment.begin, count};
            const auto servers =
                std::span(keys_.servers).subspan(at(piece.first_server), at(piece.last_server - piece.first_server));
            const bool served_here = std::ranges::find(servers, me_) != servers.end();
            const RowRun copy = served_here ? copied(segment.document, piece.begin, piece.end) : RowRun{};
            if (piece.relay < 0)
                route_direct(servers, owner, owned, copy);
            else
                route_relayed(servers, owner, piece.relay, owned, copy);
        }
    }

    void route_direct(std::span<const int> servers, int owner, RowRun owned, RowRun copy) {
        const auto first = static_cast<int64_t>(round_.parts.size());
        for (const int server : servers) {
            if (owner == me_) {
                round_.parts.push_back({server, round_.keys.out.rows(server)});
                round_.keys.out.add(server, owned);
            }
            if (server == me_) round_.keys.in.add(owner, copy);
        }
        if (owner == me_)
            round_.owner_sums.push_back(
                {owned.row, owned.count, me_, false, first, static_cast<int64_t>(round_.parts.size())});
    }

    void route_relayed(std::span<const int> servers, int owner, int relay, RowRun owned, RowRun copy) {
        const auto first = static_cast<int64_t>(round_.parts.size());
        if (owner == me_) {
            round_.parts.push_back({relay, round_.relayed.out.rows(relay)});
            round_.relayed.out.add(relay, owned);
            round_.owner_sums.push_back({owned.row, owned.count, me_, true, first, first + 1});
        } else if (relay == me_) {
            const int64_t row = round_.relayed.in.rows(owner);
            round_.relayed.in.add(owner, copy);
            for (const int server : servers) {
                round_.parts.push_back({server, server == me_ ? copy.row : round_.forwarded.out.rows(server)});
                if (server != me_) round_.forwarded.out.add(server, copy);
            }
            round_.relay_sums.push_back(
                {row, copy.count, owner, true, first, static_cast<int64_t>(round_.parts.size())});
        } else if (copy.count) {
            round_.forwarded.in.add(relay, copy);
        }
    }

    CaRound& round_;
    std::span<const CaSegment> segments_;
    std::span<const int> groups_;
    int me_;
    const CaKeys& keys_;
    std::unordered_map<int64_t, Document> documents_;
    std::unordered_map<int64_t, std::vector<KeyRange>> placed_;  // this server's copies, by document
    std::vector<int64_t> batch_row_;                             // [segment], of this rank's
    std::vector<int64_t> query_row_;                             // [task], of this server's copies
};

}  // namespace

void RowLists::add(int peer, RowRun run) {
    std::vector<RowRun>& runs = runs_[at(peer)];
    rows_[at(peer)] += run.count;
    if (!runs.empty() && runs.back().row + runs.back().count == run.row)
        runs.back().count += run.count;
    else
        runs.push_back(run);
}

bool RowLists::empty() const {
    return std::ranges::all_of(rows_, [](int64_t rows) { return rows == 0; });
}

RowRoute RowRoute::reversed() const {
    RowRoute back = *this;
    std::swap(back.in, back.out);
    return back;
}

CaRound round_of(CaPlan plan, std::span<const CaSegment> segments, const CaOptions& options, int rank,
                 std::span<const int> groups) {
    const CaKeys keys = keys_of(plan, segments, options);
    return round_of(std::move(plan), keys, segments, options.servers, rank, groups);
}

CaRound round_of(CaPlan plan, const CaKeys& keys, std::span<const CaSegment> segments, int ranks, int rank,
                 std::span<const int> groups) {
    CaRound round(ranks);
    round.plan = std::move(plan);
    RoundBuilder(round, keys, segments, rank, groups).build();
    return round;
}

CaHomeRound home_round_of(CaPlan plan, std::span<const CaSegment> segments, const CaOptions& options, int home) {
    const CaKeys keys = keys_of(plan, segments, options);
    return home_round_of(std::move(plan), keys, segments, home);
}

CaHomeRound home_round_of(CaPlan plan, const CaKeys& keys, std::span<const CaSegment> segments, int home) {
    CaHomeRound result(std::move(plan));
    std::unordered_map<int64_t, int64_t> row_of;  // this home's documents
    std::unordered_map<int64_t, bool> moves;
    int64_t row = 0;
    for (const CaSegment& segment : segments) {
        if (segment.home != home) continue;
        if (segment.begin > 0)
            fail_input("document {} lies on several ranks; one process computes whole documents only",
                       segment.document);
        row_of[segment.document] = row;
        row += segment.end;
    }
    for (const CaKeyRange& range : keys.ranges)
        if (row_of.contains(range.document)) moves[range.document] |= range.server != home;
    for (const CaSegment& segment : segments)
        if (segment.home == home && moves[segment.document])
            result.summed.push_back({row_of[segment.document], segment.end});
    result.servers.push_back({home, {}, {}, {}});
    const auto server_at = [&](int rank) -> CaHomeRound::Server& {
        for (CaHomeRound::Server& server : result.servers)
            if (server.rank == rank) return server;
        return result.servers.emplace_back(CaHomeRound::Server{rank, {}, {}, {}});
    };
    for (const CaKeyRange& range : keys.ranges) {
        if (!row_of.contains(range.document)) continue;
        const int64_t first = row_of[range.document];
        CaTasks& tasks = moves[range.document] ? server_at(range.server).tasks : result.alone;
        if (tasks.keys.empty() || tasks.keys.back().row != first) tasks.keys.push_back({first, 0, 0, range.end});
        tasks.keys.back().end = std::max(tasks.keys.back().end, range.end);
        for (int64_t i = range.first_task; i < range.last_task; ++i) {
            const CaTask& task = result.plan.tasks[at(keys.tasks[at(i)])];
            tasks.tasks.push_back(
                {first + task.begin, task.end - task.begin, task.begin, static_cast<int64_t>(tasks.keys.size()) - 1});
        }
    }
    for (const CaKeyPiece& piece : keys.pieces) {
        const CaSegment& segment = segments[at(piece.segment)];
        if (segment.home != home) continue;
        for (int64_t i = piece.first_server; i < piece.last_server; ++i) {
            CaHomeRound::Server& server = server_at(keys.servers[at(i)]);
            (i == piece.first_server ? server.first : server.more)
                .push_back({row_of[segment.document] + piece.begin, piece.end - piece.begin});
        }
    }
    std::ranges::sort(result.servers, {}, &CaHomeRound::Server::rank);
    return result;
}

}  // namespace plimsoll
