#include "dist/cad/key_pieces.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "dist/cad/pairs.h"
#include "dist/cad/planning.h"

namespace plimsoll {
namespace {

// Servers from which on keys take two hops: with two, a relay would only delay one of them.
constexpr int64_t kRelayed = 3;

// Keys [begin, end) of a document that a server reads.
struct Need {
    int server;
    int64_t begin, end;
};

void add_ranges(CaKeys& keys, const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options) {
    const auto task_at = [&](int64_t i) -> const CaTask& { return plan.tasks[static_cast<size_t>(i)]; };
    std::vector<std::vector<int64_t>> tasks_of(static_cast<size_t>(options.servers));
    for (int64_t i = 0; i < static_cast<int64_t>(plan.tasks.size()); ++i)
        tasks_of[static_cast<size_t>(task_at(i).server)].push_back(i);
    const auto key = [&](int64_t i) {
        return std::pair(segments[static_cast<size_t>(task_at(i).segment)].document, task_at(i).begin);
    };
    for (std::vector<int64_t>& tasks : tasks_of) {
        if (!std::ranges::is_sorted(tasks, {}, key)) std::ranges::sort(tasks, {}, key);
        keys.tasks.insert(keys.tasks.end(), tasks.begin(), tasks.end());
    }
    for (int64_t i = 0; i < static_cast<int64_t>(keys.tasks.size()); ++i) {
        const CaTask& task = task_at(keys.tasks[static_cast<size_t>(i)]);
        const int64_t document = segments[static_cast<size_t>(task.segment)].document;
        const KeySpan seen = keys_seen(task.begin, task.end, options);
        CaKeyRange* last = keys.ranges.empty() ? nullptr : &keys.ranges.back();
        // With a pinned prefix a server has one range of a document, with the keys between its tasks': two would hold
        // the prefix twice.
        if (last != nullptr && last->server == task.server && last->document == document &&
            (seen.begin <= last->end || seen.prefix > 0)) {
            last->end = seen.end;
            last->last_task = i + 1;
        } else {
            keys.ranges.push_back({task.server, document, seen.prefix, seen.begin, seen.end, i, i + 1});
        }
    }
}

// Pieces of one segment, from what its document's readers need: intervals that the same servers need.
void add_pieces(CaKeys& keys, int64_t index, const CaSegment& segment, std::span<const Need> needs) {
    const auto is_home = [&](const Need& need) { return need.server == segment.home; };
    if (std::ranges::all_of(needs, is_home)) return;
    std::vector<Need> inside;
    std::vector<int64_t> edges;
    for (const Need& need : needs) {
        const Need part{need.server, std::max(need.begin, segment.begin), std::min(need.end, segment.end)};
        if (is_home(need) || part.begin >= part.end) continue;
        inside.push_back(part);
        edges.push_back(part.begin), edges.push_back(part.end);
    }
    std::ranges::sort(edges);
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    for (size_t i = 0; i + 1 < edges.size(); ++i) {
        const auto first = static_cast<int64_t>(keys.servers.size());
        for (const Need& need : inside)
            if (need.begin <= edges[i] && edges[i + 1] <= need.end) keys.servers.push_back(need.server);
        const auto last = static_cast<int64_t>(keys.servers.size());
        if (first < last) keys.pieces.push_back({index, edges[i], edges[i + 1], -1, first, last});
    }
}

// Divides pieces that many servers need among relays, block by block.
class Relays {
  public:
    Relays(const CaKeys& keys, CaBytes bytes, const CaOptions& options)
        : keys_(keys), bytes_(std::move(bytes)), options_(options) {}

    void divide(CaKeyPiece piece, int owner) {
        if (piece.last_server - piece.first_server < kRelayed) {
            pieces_.push_back(piece);
            return;
        }
        // The owner sends each block once, and gets one sum back.
        const int64_t others = piece.last_server - piece.first_server - 1, rows = piece.end - piece.begin;
        bytes_.sent[static_cast<size_t>(owner)] -= others * rows * options_.costs.key_out;
        bytes_.received[static_cast<size_t>(owner)] -= others * rows * options_.costs.key_back;
        const size_t first = pieces_.size();
        for (int64_t begin = piece.begin; begin < piece.end;) {
            const int64_t end = std::min(piece.end, (begin / options_.block + 1) * options_.block);
            const int64_t out = others * (end - begin) * options_.costs.key_out;
            const int64_t back = others * (end - begin) * options_.costs.key_back;
            const int relay = least_busy(piece, out, back);
            bytes_.sent[static_cast<size_t>(relay)] += out;
            bytes_.received[static_cast<size_t>(relay)] += back;
            if (pieces_.size() > first && pieces_.back().relay == relay)
                pieces_.back().end = end;
            else
                pieces_.push_back({piece.segment, begin, end, relay, piece.first_server, piece.last_server});
            begin = end;
        }
    }

    std::vector<CaKeyPiece> finish() { return std::move(pieces_); }

  private:
    // Of the servers that need the piece, the one that sends and receives least with it.
    int least_busy(const CaKeyPiece& piece, int64_t out, int64_t back) const {
        int best = -1;
        int64_t fewest = 0;
        for (int64_t i = piece.first_server; i < piece.last_server; ++i) {
            const int server = keys_.servers[static_cast<size_t>(i)];
            const auto s = static_cast<size_t>(server);
            const int64_t bytes = std::max(bytes_.sent[s] + out, bytes_.received[s] + back);
            if (best < 0 || bytes < fewest) best = server, fewest = bytes;
        }
        return best;
    }

    const CaKeys& keys_;
    CaBytes bytes_;  // so far, all keys that are not divided yet sent by their owners
    const CaOptions& options_;
    std::vector<CaKeyPiece> pieces_;
};

}  // namespace

CaKeys keys_of(const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options) {
    CaKeys keys;
    add_ranges(keys, plan, segments, options);
    const CaDocuments documents(segments, options.servers);
    std::vector<std::vector<Need>> needs(static_cast<size_t>(documents.count()));
    for (const CaKeyRange& range : keys.ranges) {
        const CaTask& task = plan.tasks[static_cast<size_t>(keys.tasks[static_cast<size_t>(range.first_task)])];
        std::vector<Need>& list = needs[static_cast<size_t>(documents.of(task.segment))];
        if (range.prefix > 0) list.push_back({range.server, 0, range.prefix});
        list.push_back({range.server, range.begin, range.end});
    }
    for (int64_t i = 0; i < static_cast<int64_t>(segments.size()); ++i)
        add_pieces(keys, i, segments[static_cast<size_t>(i)], needs[static_cast<size_t>(documents.of(i))]);
    if (options.two_hop) {
        Relays relays(keys, bytes_of(plan, keys, segments, options), options);
        for (const CaKeyPiece& piece : keys.pieces)
            relays.divide(piece, segments[static_cast<size_t>(piece.segment)].home);
        keys.pieces = relays.finish();
    }
    return keys;
}

int64_t CaBytes::total() const {
    return std::accumulate(sent.begin(), sent.end(), int64_t{0});
}

int64_t CaBytes::most() const {
    int64_t most = 0;
    for (size_t r = 0; r < sent.size(); ++r) most = std::max({most, sent[r], received[r]});
    return most;
}

CaBytes bytes_of(const CaPlan& plan, const CaKeys& keys, std::span<const CaSegment> segments,
                 const CaOptions& options) {
    const auto ranks = static_cast<size_t>(options.servers);
    CaBytes bytes{std::vector<int64_t>(ranks, 0), std::vector<int64_t>(ranks, 0)};
    for_each_transfer(plan, keys, segments, options, [&](CaHop, int from, int to, int64_t count) {
        bytes.sent[static_cast<size_t>(from)] += count;
        bytes.received[static_cast<size_t>(to)] += count;
    });
    return bytes;
}

}  // namespace plimsoll
