// Core-attention disaggregation: which rank computes which queries' attention.
//
// Ranks own equal numbers of tokens, and unequal numbers of query-key pairs: long documents have many. A plan moves
// core attention, and nothing else, between ranks: a task is an interval of queries of one document, with the keys it
// sees. Keys are never split between servers, so what a server returns is final. DistCA, arXiv:2510.18121.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace plimsoll {

// Consecutive positions [begin, end) of one document, whose tokens `home` owns. A document may have several segments,
// on one rank or on several; together they are [0, its length).
struct CaSegment {
    int64_t document = 0;
    int home = 0;
    int64_t begin = 0, end = 0;
};

// Queries at positions [begin, end) of a segment's document, computed by rank `server`.
struct CaTask {
    int64_t segment = 0;
    int server = 0;
    int64_t begin = 0, end = 0;
    bool operator==(const CaTask&) const = default;
};

// Bytes that travel for one layer in one direction of the network (forward or backward).
struct CaCosts {
    int64_t query_out = 0, query_back = 0;  // per query row: home to server, server to home
    int64_t key_out = 0, key_back = 0;      // per key row and server: owner to server, server to owner
    int64_t pair_out = 0;                   // per home and server that computes for it
    int64_t query() const { return query_out + query_back; }
    int64_t key() const { return key_out + key_back; }
};

struct CaOptions {
    int servers = 1;          // ranks, each of them home and server
    double tolerance = 0.02;  // no rank's load may exceed (1 + tolerance) times its share of all pairs
    double min_gain = 0.02;   // a plan that lowers the largest load by less than this share moves nothing instead, so
                              // that a load may stay up to (1 + tolerance) / (1 - min_gain) times its share
    int64_t block = 128;      // rows: tasks begin and end at multiples of it, or where a segment does
    int64_t window = 0;       // of the mask: see AttentionSpec
    int64_t pinned = 0;
    CaCosts costs;
    std::vector<double> speeds = {};  // of the ranks, in any unit; empty: equal
    int64_t byte_cap = 0;             // bytes a rank may send, and receive; 0 = any number
    bool two_hop = true;              // keys that three or more servers need leave their owner once
};

struct CaPlan {
    std::vector<CaTask> tasks;  // by segment, then position: every row of every segment once
    double tolerance = 0;       // of the plan: larger than asked for where the byte cap made it so
    bool moves = false;         // false: every rank computes what it owns
    bool granular = false;      // one block of rows is more than the tolerance of some rank's share; where the limit
                                // cannot be kept then, the largest load is within a block of the share
    bool over_cap = false;      // no tolerance brought it under the byte cap (what has to move anyway may be above it)
};

// A pure function: equal arguments give equal plans on every rank and machine. Loads are numbers of query-key pairs
// that the mask lets through, in 64-bit integers. The largest load relative to the rank's speed is never above that of
// moving nothing. Throws Error (70) for segments that overlap, leave gaps, or belong to no rank, and for options out of
// range. 5,000 documents take 0.6 ms for 8 ranks and 1.2 ms for 64, 50,000 some 15 ms (one core of a 2-core x86-64
// machine).
CaPlan plan_core_attention(std::span<const CaSegment> segments, const CaOptions& options);
// Every rank computes what it owns.
CaPlan plan_nothing(std::span<const CaSegment> segments);

// Pairs of queries [begin, end) with the keys they see.
int64_t pairs_of(int64_t begin, int64_t end, const CaOptions& options);
// Pairs that each rank computes.
std::vector<int64_t> loads_of(const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options);
// The largest load divided by the rank's share of the sum, by speed; 1 without any load.
double imbalance_of(std::span<const int64_t> loads, std::span<const double> speeds);
// Of the plan and the segments: ranks that have other ones find out.
uint64_t hash_of(const CaPlan& plan, std::span<const CaSegment> segments);
// What is wrong with a plan, empty if nothing: rows missing or twice, unaligned edges, servers that do not exist.
std::string problem_with(const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options);

}  // namespace plimsoll
