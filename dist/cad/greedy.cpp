#include "dist/cad/greedy.h"

#include <cmath>
#include <limits>
#include <tuple>

namespace plimsoll {
namespace {

constexpr size_t kCandidates = 3;  // segments of a donor that are compared: its longest ones that are left

// A rank that owns more than its target, with its segments by descending end: long documents have the most pairs per
// byte.
struct Donor {
    int rank;
    int64_t surplus;
    std::vector<int64_t> segments;
    size_t first = 0;  // those before it are used up
};

class Greedy {
  public:
    Greedy(const CaProblem& problem, std::span<const int64_t> targets)
        : problem_(problem), left_(problem.segments.size()), room_(problem.loads.size(), 0), held_(problem) {
        for (size_t r = 0; r < room_.size(); ++r) {
            room_[r] = std::max<int64_t>(0, targets[r] - problem.loads[r]);
            if (problem.loads[r] > targets[r])
                donors_.push_back({static_cast<int>(r), problem.loads[r] - targets[r], {}});
            smallest_.push_back(targets[r] / kCrumb);
        }
        set_ratios();
        list_segments();
    }

    std::vector<CaTransfer> run() {
        for (;;) {
            const auto most = std::ranges::max_element(room_);
            if (*most == 0) break;
            const int server = static_cast<int>(most - room_.begin());
            const Choice choice = choose(server);
            if (choice.donor == nullptr) break;
            take(server, *choice.donor, choice.place);
        }
        return std::move(transfers_);
    }

  private:
    static constexpr int64_t kCrumb = 500;  // room below 1/500 of a target is not worth another transfer

    struct Choice {
        Donor* donor = nullptr;
        size_t place = 0;  // in its segments
        double score = std::numeric_limits<double>::infinity();
    };

    // For a document much longer than needed, the cheapest interval [a, b) of A pairs minimises
    // c_q (b - a) + c_k b with b^2 - a^2 = 2 A: a / b = c_q / (c_q + c_k), so b = sqrt(A) best_end_.
    // For a document given as a whole from its end on, bytes per pair are least for its last worthwhile_ L rows:
    // d/du (c_q u + c_k) / (u (2 - u)) = 0. Beyond these the next document is the cheaper one.
    void set_ratios() {
        const double q = problem_.query_bytes, k = problem_.key_bytes, kept = q / (q + k);
        best_end_ = std::sqrt(2.0 / (1.0 - kept * kept));
        worthwhile_ = q == 0 || problem_.options.window > 0 ? 1.0 : (std::sqrt(k * k + 2.0 * q * k) - k) / q;
    }

    void list_segments() {
        std::vector<Donor*> donor_of(room_.size(), nullptr);
        for (Donor& donor : donors_) donor_of[static_cast<size_t>(donor.rank)] = &donor;
        for (int64_t i = 0; i < static_cast<int64_t>(left_.size()); ++i) {
            const CaSegment& s = problem_.segment(i);
            if (Donor* donor = donor_of[static_cast<size_t>(s.home)]) {
                left_[static_cast<size_t>(i)] = problem_.pairs.between(s.begin, s.end);
                if (left_[static_cast<size_t>(i)] > 0) donor->segments.push_back(i);
            } else if (problem_.documents.segments_of(problem_.documents.of(i)).size() > 1) {
                held_.add(problem_.documents.of(i), s.home, s.end);  // it computes its rows, with all keys before them
            }
        }
        for (Donor& donor : donors_)
            std::ranges::sort(donor.segments, {}, [&](int64_t i) { return std::tuple(-problem_.segment(i).end, i); });
    }

    int64_t& left(int64_t segment) { return left_[static_cast<size_t>(segment)]; }

    // Bytes for `pairs` of a segment, at its best place.
    double bytes_of(int64_t segment, int server, int64_t pairs) const {
        const CaSegment& s = problem_.segment(segment);
        const double best = best_end_ * std::sqrt(static_cast<double>(pairs));
        int64_t end = s.end;
        if (problem_.options.window == 0 && best < static_cast<double>(s.end))
            end = std::max(static_cast<int64_t>(best), problem_.pairs.end_of(s.begin, pairs));
        const int64_t begin = std::max(s.begin, problem_.pairs.begin_of(end, pairs));
        return problem_.query_bytes * static_cast<double>(end - begin) +
               problem_.key_bytes *
                   static_cast<double>(held_.missing(problem_.documents.of(segment), server, begin, end));
    }

    // Bytes for `pairs` of a document at its best, for pairs that are left over.
    double bytes_alone(int64_t pairs) const {
        const double q = problem_.query_bytes, k = problem_.key_bytes, n = static_cast<double>(pairs);
        if (problem_.options.window == 0) return std::sqrt(2.0 * n * k * (2.0 * q + k));
        const double window = static_cast<double>(problem_.options.window);
        return (q + k) * (n / window) + k * window;
    }

    // Bytes per pair. A transfer that leaves the donor a rest, or the server room, makes another one necessary.
    double score(const Donor& donor, int64_t segment, int server) {
        const int64_t room = room_[static_cast<size_t>(server)];
        const int64_t pairs = std::min({room, donor.surplus, left(segment)});
        double bytes = bytes_of(segment, server, pairs);
        const int64_t rest = donor.surplus - pairs;
        if (rest > 0 && rest < pairs / 4) bytes += 0.5 * bytes_alone(rest);
        const double filled = static_cast<double>(pairs) / static_cast<double>(room);
        return bytes / static_cast<double>(pairs) * (1.0 + 0.15 * (1.0 - filled));
    }

    Choice choose(int server) {
        Choice best;
        for (Donor& donor : donors_) {
            if (donor.surplus == 0) continue;
            size_t compared = 0;
            for (size_t place = donor.first; place < donor.segments.size() && compared < kCandidates; ++place) {
                const int64_t segment = donor.segments[place];
                if (left(segment) == 0) continue;
                ++compared;
                const double value = score(donor, segment, server);
                if (value < best.score) best = {&donor, place, value};
            }
            if (compared == 0) donor.surplus = 0;
        }
        return best;
    }

    // Walks the donor's segments from `place` on: at first the worthwhile part of each, then what is left of them.
    void take(int server, Donor& donor, size_t place) {
        int64_t& room = room_[static_cast<size_t>(server)];
        const size_t before = transfers_.size();
        for (bool all : {false, true}) {
            for (size_t i = all ? donor.first : place; i < donor.segments.size() && wanted(room, donor) > 0; ++i) {
                const int64_t segment = donor.segments[i];
                if (left(segment) == 0) {
                    if (i == donor.first) ++donor.first;
                    continue;
                }
                const int64_t most = all ? left(segment) : worthwhile(donor, i);
                const int64_t pairs = divisible(segment, std::min(most, wanted(room, donor)), room);
                if (pairs == 0) continue;
                give(server, donor, segment, pairs);
            }
        }
        // Nothing fits: whoever wanted less than a block gets, or keeps, it.
        if (transfers_.size() == before) (room <= donor.surplus ? room : donor.surplus) = 0;
        if (room < smallest_[static_cast<size_t>(server)]) room = 0;
    }

    static int64_t wanted(int64_t room, const Donor& donor) { return std::min(room, donor.surplus); }

    // Pairs of the rows of segment number `place` that cost less per pair than the donor's next segment does.
    int64_t worthwhile(const Donor& donor, size_t place) {
        const int64_t segment = donor.segments[place];
        const CaSegment& s = problem_.segment(segment);
        size_t next = place + 1;
        while (next < donor.segments.size() && left(donor.segments[next]) == 0) ++next;
        if (next == donor.segments.size()) return left(segment);
        const auto next_end = static_cast<double>(problem_.segment(donor.segments[next]).end);
        const int64_t down_to = std::max(s.begin, static_cast<int64_t>((1.0 - worthwhile_) * next_end));
        const int64_t gone = problem_.pairs.between(s.begin, s.end) - left(segment);
        const int64_t pairs = std::max<int64_t>(0, problem_.pairs.between(down_to, s.end) - gone);
        return pairs < left(segment) / 50 ? 0 : pairs;
    }

    // `pairs` of a segment as far as it can be divided: those of a small one are whole blocks from its end, nearest to
    // `pairs` but within the room.
    int64_t divisible(int64_t segment, int64_t pairs, int64_t room) {
        const CaSegment& s = problem_.segment(segment);
        const int64_t block = problem_.options.block;
        if (!is_small(s, problem_.options)) {
            const int64_t rest = left(segment) - pairs;
            return rest < block * block && left(segment) <= room ? left(segment) : pairs;
        }
        const int64_t base = problem_.pairs.before(s.begin);
        const int64_t end = problem_.pairs.end_of(0, base + left(segment));
        const int64_t exact = problem_.pairs.begin_of(end, pairs);
        const int64_t low = std::max(s.begin, exact / block * block), high = std::min(end, low + block);
        const int64_t more = problem_.pairs.between(low, end), less = problem_.pairs.between(high, end);
        return more <= room && more - pairs <= pairs - less ? more : less;
    }

    void give(int server, Donor& donor, int64_t segment, int64_t pairs) {
        transfers_.push_back({segment, server, pairs});
        const CaSegment& s = problem_.segment(segment);
        const double best = best_end_ * std::sqrt(static_cast<double>(pairs));
        const int64_t end = best < static_cast<double>(s.end) ? static_cast<int64_t>(best) : s.end;
        held_.add(problem_.documents.of(segment), server, std::max(end, s.begin));
        left(segment) -= pairs;
        donor.surplus = std::max<int64_t>(0, donor.surplus - pairs);
        room_[static_cast<size_t>(server)] -= pairs;
    }

    const CaProblem& problem_;
    std::vector<int64_t> left_;  // by segment of a donor: pairs that it still has
    std::vector<int64_t> room_;  // by rank: pairs below its target
    std::vector<int64_t> smallest_;
    std::vector<Donor> donors_;
    HeldKeys held_;
    std::vector<CaTransfer> transfers_;
    double best_end_ = 0, worthwhile_ = 0;
};

}  // namespace

bool is_small(const CaSegment& segment, const CaOptions& options) {
    return segment.end - segment.begin < kSmallBlocks * options.block;
}

std::vector<CaTransfer> choose_transfers(const CaProblem& problem, std::span<const int64_t> targets) {
    return Greedy(problem, targets).run();
}

}  // namespace plimsoll
