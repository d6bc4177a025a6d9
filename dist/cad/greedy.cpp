#include "dist/cad/greedy.h"

#include <cmath>
#include <limits>
#include <tuple>

#include "dist/cad/stack.h"

namespace plimsoll {
namespace {

constexpr size_t kCandidates = 3;  // segments of a donor that are compared: its longest ones that are left
constexpr int64_t kCrumb = 500;    // room below 1/500 of a target is not worth another transfer

// A rank that owns more than its target, with its segments by descending end: long documents have the most pairs per
// byte.
struct Donor {
    int rank;
    int64_t surplus;
    std::vector<int64_t> segments;
    size_t first = 0;  // those before it are used up
    size_t fresh = 0;  // of those before it the worthwhile part is used up
};

class Greedy {
  public:
    Greedy(const CaProblem& problem, const HeldKeys& held, std::span<const int64_t> targets, DonorOrder order)
        : problem_(problem),
          held_(held),
          order_(order),
          left_(problem.segments.size()),
          stacks_(problem.segments.size()),
          room_(problem.loads.size(), 0) {
        for (size_t r = 0; r < room_.size(); ++r) {
            room_[r] = std::max<int64_t>(0, targets[r] - problem.loads[r]);
            crumbs_.push_back(targets[r] / kCrumb);
            if (problem.loads[r] > targets[r])
                donors_.push_back({static_cast<int>(r), problem.loads[r] - targets[r], {}});
        }
        list_segments();
        // Bytes per pair of the last u L rows of a document, c_q u + c_k over u (2 - u) L^2 / 2, are least at this u:
        // beyond these rows the next document is the cheaper one.
        const double q = problem.query_bytes, k = problem.key_bytes;
        worthwhile_ = q == 0 || problem.options.window > 0 ? 1.0 : (std::sqrt(k * k + 2.0 * q * k) - k) / q;
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
    struct Choice {
        Donor* donor = nullptr;
        size_t place = 0;  // in its segments
        double score = std::numeric_limits<double>::infinity();
    };
    // What a segment gives so far, and its bytes.
    struct Given {
        PieceStack stack;
        double bytes = 0;
    };

    void list_segments() {
        std::vector<Donor*> donor_of(room_.size(), nullptr);
        for (Donor& donor : donors_) donor_of[static_cast<size_t>(donor.rank)] = &donor;
        for (int64_t i = 0; i < static_cast<int64_t>(left_.size()); ++i) {
            const CaSegment& s = problem_.segment(i);
            Donor* donor = donor_of[static_cast<size_t>(s.home)];
            if (donor == nullptr || s.begin == s.end) continue;
            left(i) = problem_.pairs.between(s.begin, s.end);
            donor->segments.push_back(i);
        }
        for (Donor& donor : donors_)
            std::ranges::sort(donor.segments, {}, [&](int64_t i) { return std::tuple(-problem_.segment(i).end, i); });
    }

    int64_t& left(int64_t segment) { return left_[static_cast<size_t>(segment)]; }
    Given& given(int64_t segment) { return stacks_[static_cast<size_t>(segment)]; }
    static int64_t wanted(int64_t room, const Donor& donor) { return std::min(room, donor.surplus); }

    // Where what is left of a small segment ends: it gives from its end.
    int64_t end_of_left(int64_t segment) {
        return problem_.pairs.end_of(problem_.segment(segment).begin, left(segment));
    }

    double bytes_of(const PieceStack& stack, int64_t segment) const {
        const CaSegment& s = problem_.segment(segment);
        const int64_t precision = std::max(problem_.options.block, (s.end - s.begin) / 8);
        return stack.bytes_at(problem_, held_, segment, stack.best_end(problem_, held_, segment, precision));
    }

    // Bytes that `pairs` more of a segment cost.
    double bytes_of_more(int64_t segment, int server, int64_t pairs) {
        const CaSegment& s = problem_.segment(segment);
        if (!is_small(s, problem_.options)) {
            more_ = given(segment).stack;
            more_.add(server, pairs);
            return bytes_of(more_, segment) - given(segment).bytes;
        }
        const int64_t end = end_of_left(segment);
        const int64_t begin = std::max(s.begin, problem_.pairs.begin_of(end, pairs));
        const int64_t keys = held_.missing(problem_.documents.of(segment), server, begin, end);
        return problem_.query_bytes * static_cast<double>(end - begin) + problem_.key_bytes * static_cast<double>(keys);
    }

    Choice choose(int server) {
        Choice best;
        for (Donor& donor : donors_) {
            if (donor.surplus == 0) continue;
            if (order_ == DonorOrder::kLargestFirst && best.donor != nullptr && best.donor->surplus >= donor.surplus)
                continue;
            Choice own;
            const int64_t most = wanted(room_[static_cast<size_t>(server)], donor);
            const auto compare = [&](size_t from, size_t count) {
                for (size_t place = from; place < donor.segments.size() && count > 0; ++place) {
                    const int64_t segment = donor.segments[place];
                    if (left(segment) == 0) continue;
                    --count;
                    const int64_t pairs = std::min(most, left(segment));
                    const double score = bytes_of_more(segment, server, pairs) / static_cast<double>(pairs);
                    if (score < own.score) own = {&donor, place, score};
                }
            };
            compare(donor.first, kCandidates);
            compare(std::max(donor.first, donor.fresh), 1);
            if (own.donor == nullptr) donor.surplus = 0;
            if (own.donor != nullptr && (order_ == DonorOrder::kLargestFirst || own.score < best.score)) best = own;
        }
        return best;
    }

    // Walks the donor's segments from `place` on: at first the worthwhile part of each, then what is left of them.
    void take(int server, Donor& donor, size_t place) {
        int64_t& room = room_[static_cast<size_t>(server)];
        const size_t before = transfers_.size();
        const auto visit = [&](size_t i, bool all) {
            const int64_t segment = donor.segments[i];
            if (left(segment) == 0) return;
            const int64_t most = all ? left(segment) : worthwhile(donor, i);
            const int64_t pairs = divisible(segment, std::min(most, wanted(room, donor)), room);
            if (pairs > 0) give(server, donor, segment, pairs);
        };
        visit(place, false);
        for (size_t i = std::max(place + 1, donor.fresh); i < donor.segments.size() && wanted(room, donor) > 0; ++i) {
            visit(i, false);
            donor.fresh = i;
        }
        for (size_t i = donor.first; i < donor.segments.size() && wanted(room, donor) > 0; ++i) {
            visit(i, true);
            if (i == donor.first && left(donor.segments[i]) == 0) ++donor.first;
        }
        // Nothing fits: whoever wanted less than a block gets, or keeps, it.
        if (transfers_.size() == before) (room <= donor.surplus ? room : donor.surplus) = 0;
        if (room < crumbs_[static_cast<size_t>(server)]) room = 0;
    }

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
        const int64_t end = end_of_left(segment);
        const int64_t exact = problem_.pairs.begin_of(end, pairs);
        const int64_t low = std::max(s.begin, exact / block * block);
        const int64_t high = std::min(end, (low / block + 1) * block);
        const int64_t more = problem_.pairs.between(low, end), less = problem_.pairs.between(high, end);
        return more <= room && more - pairs <= pairs - less ? more : less;
    }

    void give(int server, Donor& donor, int64_t segment, int64_t pairs) {
        transfers_.push_back({segment, server, pairs});
        if (!is_small(problem_.segment(segment), problem_.options)) {
            given(segment).stack.add(server, pairs);
            given(segment).bytes = bytes_of(given(segment).stack, segment);
        }
        left(segment) -= pairs;
        donor.surplus = std::max<int64_t>(0, donor.surplus - pairs);
        room_[static_cast<size_t>(server)] -= pairs;
    }

    const CaProblem& problem_;
    const HeldKeys& held_;
    DonorOrder order_;
    std::vector<int64_t> left_;  // by segment of a donor: pairs that it still has
    std::vector<Given> stacks_;  // by segment
    std::vector<int64_t> room_;  // by rank: pairs below its target
    std::vector<int64_t> crumbs_;
    std::vector<Donor> donors_;
    std::vector<CaTransfer> transfers_;
    PieceStack more_;
    double worthwhile_ = 0;
};

}  // namespace

std::vector<CaTransfer> choose_transfers(const CaProblem& problem, const HeldKeys& held,
                                         std::span<const int64_t> targets, DonorOrder order) {
    return Greedy(problem, held, targets, order).run();
}

HeldKeys keys_held_by_receivers(const CaProblem& problem, std::span<const int64_t> targets) {
    HeldKeys held(problem);
    for (int64_t i = 0; i < static_cast<int64_t>(problem.segments.size()); ++i) {
        const CaSegment& s = problem.segment(i);
        const auto home = static_cast<size_t>(s.home);
        const int64_t document = problem.documents.of(i);
        if (problem.documents.segments_of(document).size() > 1 && problem.loads[home] <= targets[home])
            held.add(document, s.home, s.end);
    }
    return held;
}

}  // namespace plimsoll
