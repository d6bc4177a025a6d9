// Lower bounds on the bytes of any plan that keeps every rank within a tolerance, for the causal mask: what a planner
// cannot beat.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "support/cad_cases.h"

namespace plimsoll {

class CaBounds {
  public:
    CaBounds(const CaCase& c, const CaOptions& options)
        : case_(c),
          query_(static_cast<double>(options.costs.query())),
          key_(static_cast<double>(options.costs.key())),
          loads_(static_cast<size_t>(c.servers), 0) {
        for (const CaSegment& s : c.segments) {
            loads_[static_cast<size_t>(s.home)] += pairs(s.begin, s.end);
            lengths_[s.document] = std::max(lengths_[s.document], s.end);
            ++parts_[s.document];
        }
        total_ = std::accumulate(loads_.begin(), loads_.end(), 0.0);
        limit_ = (1 + options.tolerance) * total_ / c.servers;
        for (const CaSegment& s : c.segments)
            if (loads_[static_cast<size_t>(s.home)] > limit_) donated_.push_back(s);
        std::ranges::sort(donated_, std::ranges::greater(), &CaSegment::end);
        fill_rooms();
    }

    // The largest of the bounds for documents that are whole.
    double whole() const { return std::max({by_room(), by_document(), by_scarcity(), by_donor()}); }

    // For documents that span ranks: their homes read keys of others even if nothing moves, and have these for more.
    double spanning() const {
        double owned = 0;
        for (const CaSegment& s : case_.segments)
            if (parts_.at(s.document) > 1 && loads_[static_cast<size_t>(s.home)] <= limit_)
                owned += key_ * static_cast<double>(s.end - s.begin);
        return std::max({by_scarcity() - owned, by_price(), by_donor_spanning()});
    }

    // The fewest bytes for x pairs of a document as long as one likes: an interval [a, b) with a / b = c_q/(c_q + c_k).
    double bytes_alone(double x) const { return std::sqrt(2 * x * key_ * (2 * query_ + key_)); }

    // L1. A server that gets x pairs gets at least bytes_alone(x), which is concave: with a given sum the fewest
    // bytes are those of a few servers filled to the brim.
    double by_room() const {
        double bytes = 0;
        for (const double x : filled_) bytes += bytes_alone(x);
        return bytes;
    }

    // L2. No part of a document of length L costs less per pair than its last `best` L rows. Each donor gives at least
    // its excess, of its longest documents at best.
    double by_document() const {
        const double best = (std::sqrt(key_ * key_ + 2 * query_ * key_) - key_) / query_;
        double bytes = 0;
        std::vector<double> excess(loads_.size());
        for (size_t r = 0; r < loads_.size(); ++r) excess[r] = std::max(0.0, loads_[r] - limit_);
        for (const CaSegment& s : donated_) {
            double& rest = excess[static_cast<size_t>(s.home)];
            const double given = std::min(rest, pairs(s.begin, s.end));
            const double per_pair = 2 * (query_ + key_ / best) / ((2 - best) * static_cast<double>(s.end));
            bytes += per_pair * given;
            rest -= given;
        }
        return bytes;
    }

    // L3. The rows that leave are at least those with the most pairs; and the k servers with the shortest prefixes find
    // all their pairs below the k-th.
    double by_scarcity() const {
        double bytes = 0;
        for (size_t r = 0; r < loads_.size(); ++r)
            if (loads_[r] > limit_) bytes += query_ * fewest_rows(static_cast<int>(r));
        std::vector<double> ascending = filled_;
        std::ranges::sort(ascending);
        double sum = 0;
        for (const double x : ascending) {
            sum += x;
            double low = 0, high = donated_.empty() ? 0 : static_cast<double>(donated_.front().end);
            for (int i = 0; i < 50; ++i) {
                const double middle = (low + high) / 2;
                (pairs_below(middle) < sum ? low : high) = middle;
            }
            bytes += key_ * low;
        }
        return bytes;
    }

    // L4. What a donor gives costs at least bytes_alone(its excess): bytes_alone is concave, so dividing it among
    // servers and documents only adds. The mirror of L1, and above it where donors are many and servers with room few.
    double by_donor() const {
        double bytes = 0;
        for (const double load : loads_) bytes += bytes_alone(std::max(0.0, load - limit_));
        return bytes;
    }

    // L4 where documents span ranks. Keys are charged to their owners' ranks, and those before a rank's first row of a
    // document to that rank, which needs them unless it gives all these rows away. Whoever has rows further back in a
    // document has the keys before them, so only a document's last segment costs others keys.
    double by_donor_spanning() const {
        std::vector<Supply> supplies(loads_.size());
        for (const CaSegment& s : case_.segments) {
            Supply& supply = supplies[static_cast<size_t>(s.home)];
            const bool last = lengths_.at(s.document) == s.end;
            if (s.begin == 0 && last) continue;
            (s.begin > 0 ? supply.tail : supply.head) = s;
        }
        double bytes = 0;
        for (size_t r = 0; r < loads_.size(); ++r) {
            const double excess = std::max(0.0, loads_[r] - limit_);
            Supply supply = supplies[r];
            const CaSegment tail = supply.tail;
            double least = key_ * static_cast<double>(tail.begin) + exported(excess, supply);
            if (tail.end > tail.begin) {
                const auto rows = static_cast<double>(tail.end - tail.begin);
                supply.tail = {};
                least = std::min(least, (query_ + (is_last(tail) ? key_ : 0)) * rows +
                                            exported(excess - pairs(tail.begin, tail.end), supply));
            }
            bytes += least;
        }
        return bytes;
    }

  private:
    static double pairs(int64_t begin, int64_t end) {
        return static_cast<double>(end * (end + 1) / 2 - begin * (begin + 1) / 2);
    }

    void fill_rooms() {
        std::vector<double> rooms;
        double excess = 0;
        for (const double load : loads_)
            if (load > limit_)
                excess += load - limit_;
            else
                rooms.push_back(limit_ - load);
        std::ranges::sort(rooms, std::ranges::greater());
        for (size_t i = 0; i < rooms.size() && excess > 0; ++i) {
            filled_.push_back(std::min(rooms[i], excess));
            excess -= filled_.back();
        }
    }

    // Of a donor, for its excess: all rows from some position on.
    double fewest_rows(int rank) const {
        const double excess = loads_[static_cast<size_t>(rank)] - limit_;
        double low = 0, high = static_cast<double>(donated_.front().end), rows = 0;
        const auto sum_above = [&](double position, auto value) {
            double sum = 0;
            for (const CaSegment& s : donated_)
                if (const auto end = static_cast<double>(s.end); s.home == rank && end > position)
                    sum += value(std::max(static_cast<double>(s.begin), position), end);
            return sum;
        };
        for (int i = 0; i < 50; ++i) {
            const double middle = (low + high) / 2;
            const double above = sum_above(middle, [](double a, double b) { return (b * b - a * a) / 2; });
            (above > excess ? low : high) = middle;
        }
        rows = sum_above(high, [](double a, double b) { return b - a; });
        return rows;
    }

    double pairs_below(double position) const {
        double sum = 0;
        for (const CaSegment& s : donated_) {
            const auto begin = static_cast<double>(s.begin), end = std::min(position, static_cast<double>(s.end));
            if (end > begin) sum += (end * end - begin * begin) / 2;
        }
        return sum;
    }

    // A rank's segments of documents that span ranks, empty without: the one that does not begin its document, and the
    // one that begins it.
    struct Supply {
        CaSegment tail, head;
    };

    bool is_last(const CaSegment& s) const { return lengths_.at(s.document) == s.end; }

    // The fewest bytes for x pairs that leave a rank, divided between its two segments and its other documents. On a
    // grid: of each cell the corner with the fewest.
    double exported(double x, const Supply& supply) const {
        if (x <= 0) return 0;
        constexpr int kParts = 40;
        const double of_tail = pairs(supply.tail.begin, supply.tail.end), of_head = pairs(0, supply.head.end);
        double best = INFINITY;
        for (int i = 0; i <= kParts && x * i / kParts <= of_tail; ++i)
            for (int j = 0; i + j <= kParts && x * j / kParts <= of_head; ++j) {
                const double rest = x * std::max(0, kParts - i - (of_tail > 0) - j - (of_head > 0)) / kParts;
                best = std::min(best, from_segment(x * i / kParts, supply.tail) +
                                          from_segment(x * j / kParts, supply.head) + bytes_alone(rest));
            }
        return best;
    }

    // x pairs [a, b) of a segment: its rows, and of a document's last segment the keys from its begin to b.
    double from_segment(double x, const CaSegment& s) const {
        if (x <= 0) return 0;
        const auto begin = static_cast<double>(s.begin), end = static_cast<double>(s.end);
        const auto rows = [&](double b) { return b - std::sqrt(std::max(0.0, b * b - 2 * x)); };
        if (!is_last(s)) return query_ * rows(end);
        double best = INFINITY;
        const double lowest = std::min(end, std::sqrt(begin * begin + 2 * x));
        for (int i = 0; i < 40; ++i) {  // queries of the upper end of a step, keys of its lower one
            const double low = lowest + (end - lowest) * i / 40, high = lowest + (end - lowest) * (i + 1) / 40;
            best = std::min(best, query_ * rows(high) + key_ * (low - begin));
        }
        return best;
    }

    // What a rank has of documents that span ranks, if they lie one after another: at most the end of one in front and
    // the start of one at the back.
    struct Spans {
        double whole = 0;  // pairs of what starts on it
        double tail = 0;   // pairs of what does not
        double tail_begin = 0, tail_end = 0;
        double head_end = 0;
    };

    // A price per pair: every server takes as many as are worth it, wherever they come from. A lower bound for any
    // price (Lagrange), on a grid of numbers of pairs that errs on the low side.
    double by_price() const {
        std::vector<std::vector<double>> bytes;
        for (int r = 0; r < case_.servers; ++r) bytes.push_back(bytes_by_pairs(spans_of(r)));
        double best = 0;
        for (int step = -60; step < 60; ++step) {
            const double price = query_ / 131072 * std::pow(1.06, step);
            double value = price * total_;
            for (const std::vector<double>& list : bytes) {
                double least = INFINITY;
                for (int i = 0; i <= kSteps; ++i) {
                    const double most = limit_ * std::min(i + 1, kSteps) / kSteps;
                    least = std::min(least, list[static_cast<size_t>(i)] - price * most);
                }
                value += least;
            }
            best = std::max(best, value);
        }
        return best;
    }

    Spans spans_of(int rank) const {
        Spans spans;
        for (const CaSegment& s : case_.segments) {
            if (s.home != rank) continue;
            if (s.begin == 0) {
                spans.whole += pairs(s.begin, s.end);
                if (lengths_.at(s.document) > s.end) spans.head_end = static_cast<double>(s.end);
            } else {
                spans.tail += pairs(s.begin, s.end);
                spans.tail_begin = static_cast<double>(s.begin);
                spans.tail_end = static_cast<double>(s.end);
            }
        }
        return spans;
    }

    // The fewest bytes at which a server computes i / kSteps of the limit: it keeps its tail, and gets the keys before
    // it, or gives it away.
    std::vector<double> bytes_by_pairs(const Spans& spans) const {
        std::vector<double> bytes;
        for (int i = 0; i <= kSteps; ++i) {
            const double pairs = limit_ * i / kSteps;
            double least = bytes_with(pairs - spans.whole, spans.tail_end - spans.tail_begin, spans.head_end);
            if (spans.tail > 0)
                least = std::min(least, key_ * spans.tail_begin + bytes_with(pairs - spans.whole - spans.tail,
                                                                             spans.tail_end, spans.head_end));
            bytes.push_back(least);
        }
        return bytes;
    }

    // x pairs of other ranks, divided between two documents of which this one has keys, and others. 1%: the division is
    // on a grid.
    double bytes_with(double x, double held, double also_held) const {
        if (x <= 0) return 0;
        constexpr int kParts = 24;
        double best = INFINITY;
        std::vector<double> first, second, rest;
        for (int i = 0; i <= kParts; ++i) {
            first.push_back(bytes_held(x * i / kParts, held));
            second.push_back(bytes_held(x * i / kParts, also_held));
            rest.push_back(bytes_alone(x * i / kParts));
        }
        for (size_t i = 0; i <= kParts; ++i)
            for (size_t j = 0; i + j <= kParts; ++j) {
                if ((held == 0 && i > 0) || (also_held == 0 && j > 0)) continue;
                best = std::min(best, first[i] + second[j] + rest[kParts - i - j]);
            }
        return 0.99 * best;
    }

    // x pairs of one document whose first `held` keys are there. 1.5%: a grid of ends.
    double bytes_held(double x, double held) const {
        if (x <= 0) return 0;
        const double shortest = std::sqrt(2 * x), kept = query_ / (query_ + key_);
        double best = bytes_alone(x);
        const auto consider = [&](double end) {
            const double rows = end - std::sqrt(std::max(0.0, end * end - 2 * x));
            best = std::min(best, 0.985 * (query_ * rows + key_ * std::max(0.0, end - held)));
        };
        for (int i = 0; i <= 20; ++i) consider(std::max(shortest, held) * (1 + 0.08 * i));
        if (held < shortest)
            for (const double factor : {0.8, 1.0, 1.2, 1.5})
                consider(std::max(shortest, factor * std::sqrt(2 * x / (1 - kept * kept))));
        return best;
    }

    static constexpr int kSteps = 160;
    const CaCase& case_;
    double query_, key_;          // bytes per row
    std::vector<double> loads_;   // pairs by rank
    std::vector<double> filled_;  // rooms below the limit, largest first, as far as the excess of the others fills them
    std::vector<CaSegment> donated_;              // segments of ranks above the limit, the longest documents first
    std::map<int64_t, int64_t> lengths_, parts_;  // by document
    double total_ = 0, limit_ = 0;
};

}  // namespace plimsoll
