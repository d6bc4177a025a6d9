// What the steps of planning share: documents by position, what a move costs, which keys a server has anyway.
//
// The steps: greedy.h decides how many pairs of which segment go to whom, layout.h which blocks of rows these are,
// repair.h brings every rank under its limit to the pair. Decisions that are about feasibility use integers; doubles
// only rank alternatives, in a fixed order of evaluation (these files are compiled with -ffp-contract=off), so that
// every rank finds the same plan whatever its CPU.
#pragma once

#include "dist/cad/pairs.h"

namespace plimsoll {

// Segments grouped by document, in order of position. Documents are counted 0 .. count() - 1 whatever their numbers.
class CaDocuments {
  public:
    // Throws Error (70) for overlaps, gaps, negative positions and homes outside 0 .. servers - 1.
    CaDocuments(std::span<const CaSegment> segments, int servers);

    int64_t count() const { return static_cast<int64_t>(first_.size()) - 1; }
    int64_t of(int64_t segment) const { return of_[static_cast<size_t>(segment)]; }
    std::span<const int64_t> segments_of(int64_t document) const {
        const auto d = static_cast<size_t>(document);
        return std::span(order_).subspan(first_[d], first_[d + 1] - first_[d]);
    }
    // Keys [begin, end) of a document that `rank` owns.
    int64_t owned(int64_t document, int rank, int64_t begin, int64_t end) const;

  private:
    std::span<const CaSegment> segments_;
    std::vector<int64_t> order_;  // segments by document, position
    std::vector<int64_t> of_;     // by segment
    std::vector<size_t> first_;   // by document: of order_
};

// One set of segments, prepared once for all tolerances that are tried.
struct CaProblem {
    CaProblem(std::span<const CaSegment> segments, const CaOptions& options);
    const CaSegment& segment(int64_t i) const { return segments[static_cast<size_t>(i)]; }
    // Of rank r's share of all pairs, rounded down.
    int64_t share(int r, double factor) const;

    std::span<const CaSegment> segments;
    const CaOptions& options;
    CaDocuments documents;
    PairCount pairs;
    double query_bytes, key_bytes;         // per row; not both 0
    std::vector<int64_t> loads;            // by rank: pairs of what it owns
    int64_t total = 0, largest_block = 0;  // pairs: of all segments, of `block` rows at the end of the longest one
    double speed_sum = 0;
};

// Keys that a server has once it computes what it was given so far: more tasks of a document cost the rest only.
// Without a window these are prefixes; with one, tasks seldom share keys, and only what a rank owns counts.
class HeldKeys {
  public:
    explicit HeldKeys(const CaProblem& problem)
        : problem_(problem), prefixes_(static_cast<size_t>(problem.documents.count())) {}

    void add(int64_t document, int server, int64_t end);
    // Keys that have to come for queries [begin, end).
    int64_t missing(int64_t document, int server, int64_t begin, int64_t end) const;

  private:
    struct Prefix {
        int server;
        int64_t end;
    };
    const CaProblem& problem_;
    std::vector<std::vector<Prefix>> prefixes_;  // by document
};

// Bytes of all ranks together, but for CaCosts::pair_out; with a window, too many where a server's tasks share keys.
double bytes_of_tasks(const CaProblem& problem, std::span<const CaTask> tasks);

// How many pairs of a segment another rank computes.
struct CaTransfer {
    int64_t segment = 0;
    int server = 0;
    int64_t pairs = 0;
};

}  // namespace plimsoll
