// What a plan does, found by doing it row by row or by trying everything; and the rules that plans are compared with.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "dist/cad/key_pieces.h"
#include "kernels/attention/mask.h"
#include "support/cad_cases.h"

namespace plimsoll {

// Pairs that each rank computes, query by query; empty if a row has no task, or two.
inline std::vector<int64_t> loads_by_rows(const CaPlan& plan, const CaCase& c, const CaOptions& options) {
    const Mask mask(AttentionSpec{.window = options.window, .pinned = options.pinned});
    std::vector<int64_t> loads(static_cast<size_t>(options.servers), 0);
    std::set<std::pair<int64_t, int64_t>> rows;  // document, position
    for (const CaTask& task : plan.tasks) {
        if (task.segment < 0 || task.segment >= static_cast<int64_t>(c.segments.size()) || task.server < 0 ||
            task.server >= options.servers)
            return {};
        const CaSegment& s = c.segments[static_cast<size_t>(task.segment)];
        for (int64_t i = task.begin; i < task.end; ++i) {
            if (i < s.begin || i >= s.end || !rows.insert({s.document, i}).second) return {};
            loads[static_cast<size_t>(task.server)] += mask.visible_keys(i);
        }
    }
    int64_t all = 0;
    for (const CaSegment& s : c.segments) all += s.end - s.begin;
    return all == static_cast<int64_t>(rows.size()) ? loads : std::vector<int64_t>{};
}

// Sends keys as the pieces say, and counts bytes on the way.
class KeyDelivery {
  public:
    KeyDelivery(const CaPlan& plan, const CaKeys& keys, const CaCase& c, const CaOptions& options)
        : plan_(plan), keys_(keys), case_(c), options_(options) {
        const auto ranks = static_cast<size_t>(options.servers);
        bytes = {std::vector<int64_t>(ranks, 0), std::vector<int64_t>(ranks, 0)};
    }

    // What went wrong, empty if every task has the keys it sees, and nobody got what it does not read or has.
    std::string run() {
        std::set<std::pair<int, int>> pairs;
        for (const CaTask& task : plan_.tasks) {
            const int home = segment(task.segment).home;
            if (home == task.server) continue;
            send(home, task.server, (task.end - task.begin) * options_.costs.query_out);
            send(task.server, home, (task.end - task.begin) * options_.costs.query_back);
            if (pairs.insert({home, task.server}).second) send(home, task.server, options_.costs.pair_out);
        }
        std::string problem = read_ranges();
        for (const CaKeyPiece& piece : keys_.pieces)
            if (problem.empty()) problem = deliver(piece);
        if (problem.empty()) problem = compare();
        return problem;
    }

    CaBytes bytes;

  private:
    using Rows = std::map<std::pair<int, int64_t>, std::set<int64_t>>;  // by rank, document
    const CaSegment& segment(int64_t i) const { return case_.segments[static_cast<size_t>(i)]; }

    void send(int from, int to, int64_t count) {
        bytes.sent[static_cast<size_t>(from)] += count;
        bytes.received[static_cast<size_t>(to)] += count;
    }

    std::string read_ranges() {
        const Mask mask(AttentionSpec{.window = options_.window, .pinned = options_.pinned});
        size_t done = 0;
        for (const CaKeyRange& range : keys_.ranges) {
            std::set<int64_t>& rows = read_[{range.server, range.document}];
            for (const auto& [begin, end] : {std::pair(int64_t{0}, range.prefix), std::pair(range.begin, range.end)})
                for (int64_t j = begin; j < end; ++j)
                    if (!rows.insert(j).second) return "ranges overlap";
            if (range.prefix % options_.block != 0 || range.begin % options_.block != 0 || range.prefix > range.begin)
                return "a range does not begin at a block";
            for (int64_t t = range.first_task; t < range.last_task; ++t, ++done) {
                const CaTask& task = plan_.tasks[static_cast<size_t>(keys_.tasks[static_cast<size_t>(t)])];
                if (task.server != range.server || segment(task.segment).document != range.document)
                    return "a task in the range of another server or document";
                for (int64_t i = task.begin; i < task.end; ++i)
                    for (int64_t j = 0; j <= i; ++j)
                        if (mask.visible(i, j) && !(j < range.prefix || (j >= range.begin && j < range.end)))
                            return "a task sees a key outside of its range";
            }
        }
        return done == plan_.tasks.size() ? "" : "a task without a range";
    }

    std::string deliver(const CaKeyPiece& piece) {
        const CaSegment& s = segment(piece.segment);
        bool relayed = piece.relay < 0;
        for (int64_t i = piece.first_server; i < piece.last_server; ++i)
            relayed = relayed || keys_.servers[static_cast<size_t>(i)] == piece.relay;
        if (!relayed) return "a relay that does not read the keys";
        if (piece.relay >= 0 && piece.last_server - piece.first_server < 3) return "a relay for two servers";
        for (int64_t i = piece.first_server; i < piece.last_server; ++i) {
            const int server = keys_.servers[static_cast<size_t>(i)];
            const int source = piece.relay < 0 || piece.relay == server ? s.home : piece.relay;
            send(source, server, (piece.end - piece.begin) * options_.costs.key_out);
            send(server, source, (piece.end - piece.begin) * options_.costs.key_back);
            if (server == s.home) return "keys sent to their owner";
            for (int64_t j = piece.begin; j < piece.end; ++j)
                if (j < s.begin || j >= s.end || !held_[{server, s.document}].insert(j).second)
                    return "keys sent twice, or not the owner's";
        }
        return "";
    }

    // Own and delivered keys are those of the ranges.
    std::string compare() {
        for (auto& [key, rows] : read_) {
            std::set<int64_t> missing = rows;
            for (const CaSegment& s : case_.segments)
                if (s.home == key.first && s.document == key.second)
                    for (int64_t j = s.begin; j < s.end; ++j) missing.erase(j);
            if (missing != held_[key]) return "a server got other keys than it reads and does not own";
            held_.erase(key);
        }
        return held_.empty() ? "" : "keys sent to a server that reads none of the document";
    }

    const CaPlan& plan_;
    const CaKeys& keys_;
    const CaCase& case_;
    const CaOptions& options_;
    Rows read_, held_;
};

// The fewest bytes of any plan of whole blocks within the tolerance, by trying all of them; -1 if there is none. For
// the causal mask.
inline int64_t fewest_bytes(const CaCase& c, const CaOptions& options) {
    struct Block {
        size_t segment;
        int64_t begin, end;
    };
    std::vector<Block> blocks;
    double total = 0;
    for (size_t i = 0; i < c.segments.size(); ++i)
        for (int64_t p = c.segments[i].begin; p < c.segments[i].end;) {
            const int64_t end = std::min(c.segments[i].end, (p / options.block + 1) * options.block);
            blocks.push_back({i, p, end});
            total += static_cast<double>(pairs_of(p, end, options));
            p = end;
        }
    const auto limit = static_cast<int64_t>((1 + options.tolerance) * total / c.servers);
    const int64_t documents =
        c.segments.empty() ? 0 : std::ranges::max(c.segments, {}, &CaSegment::document).document + 1;
    std::vector<int64_t> loads(static_cast<size_t>(c.servers), 0);
    std::vector<std::vector<int64_t>> prefixes(static_cast<size_t>(c.servers),
                                               std::vector<int64_t>(static_cast<size_t>(documents), 0));
    int64_t fewest = std::numeric_limits<int64_t>::max();
    const auto key_bytes = [&] {
        int64_t rows = 0;
        for (const CaSegment& s : c.segments)
            for (int r = 0; r < c.servers; ++r)
                if (r != s.home) {
                    const int64_t prefix = prefixes[static_cast<size_t>(r)][static_cast<size_t>(s.document)];
                    rows += std::max<int64_t>(0, std::min(prefix, s.end) - s.begin);
                }
        return rows * options.costs.key();
    };
    const auto place = [&](auto& self, size_t i, int64_t bytes) -> void {
        if (bytes >= fewest) return;
        if (i == blocks.size()) {
            fewest = std::min(fewest, bytes + key_bytes());
            return;
        }
        const CaSegment& s = c.segments[blocks[i].segment];
        const int64_t pairs = pairs_of(blocks[i].begin, blocks[i].end, options);
        for (int r = 0; r < c.servers; ++r) {
            int64_t& prefix = prefixes[static_cast<size_t>(r)][static_cast<size_t>(s.document)];
            if (loads[static_cast<size_t>(r)] + pairs > limit) continue;
            const int64_t before = prefix;
            loads[static_cast<size_t>(r)] += pairs;
            prefix = std::max(prefix, blocks[i].end);
            self(self, i + 1, bytes + (r == s.home ? 0 : (blocks[i].end - blocks[i].begin) * options.costs.query()));
            loads[static_cast<size_t>(r)] -= pairs;
            prefix = before;
        }
    };
    place(place, 0, 0);
    return fewest == std::numeric_limits<int64_t>::max() ? -1 : fewest;
}

// All blocks on a line by rank, cut where a rank is full (McNaughton's wrap-around rule): within a block of the mean,
// whatever the bytes.
inline CaPlan wrap_around(const CaCase& c, const CaOptions& options) {
    std::vector<size_t> order(c.segments.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::stable_sort(order, {}, [&](size_t i) { return c.segments[i].home; });
    int64_t total = 0, before = 0;
    for (const CaSegment& s : c.segments) total += pairs_of(s.begin, s.end, options);
    CaPlan plan{.moves = true};
    for (const size_t i : order)
        for (int64_t p = c.segments[i].begin; p < c.segments[i].end;) {
            const int64_t end = std::min(c.segments[i].end, (p / options.block + 1) * options.block);
            const int64_t pairs = pairs_of(p, end, options);
            const auto server = static_cast<int>(static_cast<double>(before + pairs / 2) / static_cast<double>(total) *
                                                 options.servers);
            plan.tasks.push_back({static_cast<int64_t>(i), std::min(server, options.servers - 1), p, end});
            before += pairs, p = end;
        }
    return plan;
}

// DistCA's released rule (planner.plan_items), in its own accounting: receivers by deficit take pairs of the item with
// the fewest bytes per pair until their deficit is below tolerance x mean; a part is a pair of rows from the front and
// the back, of any size, and is charged all keys of its document once per receiver.
struct PairRule {
    double imbalance = 0, bytes = 0;
};
inline PairRule pair_rule(const CaCase& c, const CaOptions& options, double tolerance) {
    const auto query = static_cast<double>(options.costs.query()), key = static_cast<double>(options.costs.key());
    std::vector<double> loads(static_cast<size_t>(c.servers), 0), left;
    for (const CaSegment& s : c.segments) {
        left.push_back(static_cast<double>(pairs_of(s.begin, s.end, options)));
        loads[static_cast<size_t>(s.home)] += left.back();
    }
    double mean = 0, bytes = 0;
    for (const double load : loads) mean += load / c.servers;
    std::vector<size_t> receivers;
    for (size_t r = 0; r < loads.size(); ++r)
        if (loads[r] < mean) receivers.push_back(r);
    std::ranges::stable_sort(receivers, {}, [&](size_t r) { return loads[r]; });
    for (const size_t r : receivers) {
        std::set<size_t> served;
        while (mean - loads[r] > tolerance * mean) {
            double best = INFINITY, best_bytes = 0, best_pairs = 0;
            size_t item = 0;
            for (size_t i = 0; i < left.size(); ++i) {
                const CaSegment& s = c.segments[i];
                const double surplus = loads[static_cast<size_t>(s.home)] - mean;
                if (surplus <= 1 || left[i] <= 1) continue;
                const double pairs = std::min({mean - loads[r], left[i], surplus});
                const double cost =
                    2 * pairs / static_cast<double>(s.begin + s.end + 1) * query + key * static_cast<double>(s.end);
                if (cost / pairs < best) best = cost / pairs, best_bytes = cost, best_pairs = pairs, item = i;
            }
            if (best == INFINITY) break;
            if (!served.insert(item).second) best_bytes -= key * static_cast<double>(c.segments[item].end);
            left[item] -= best_pairs;
            loads[static_cast<size_t>(c.segments[item].home)] -= best_pairs;
            loads[r] += best_pairs;
            bytes += best_bytes;
        }
    }
    return {*std::ranges::max_element(loads) / mean, bytes};
}

}  // namespace plimsoll
