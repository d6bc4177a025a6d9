// What an all-to-all of core attention moves, and how long it takes.
#pragma once

#include <span>
#include <vector>

#include "dist/cad/key_pieces.h"
#include "dist/cad/plan.h"
#include "dist/simulator/costs.h"

namespace plimsoll {

// Bytes per rank of one all-to-all; what stays on a rank counts nothing.
struct Exchange {
    std::vector<int64_t> sent_inside, received_inside;    // to and from ranks of the same node
    std::vector<int64_t> sent_outside, received_outside;  // of other nodes

    explicit Exchange(int ranks = 0);
    void add(int from, int to, int64_t bytes, int64_t ranks_per_node);
    bool empty() const;
};

// The four all-to-alls of a plan in one direction of the network: to the servers and back home, each in two hops.
// Second hops are empty without relays.
struct PlanTraffic {
    Exchange out, out_again, back, back_again;

    // By rank, all four.
    std::vector<int64_t> sent() const;
    std::vector<int64_t> received() const;
};
PlanTraffic traffic_of(const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options,
                       int64_t ranks_per_node);

// The slowest rank's bytes, sent or received, by its slower links, and a latency per peer; 0 if nothing moves.
double all_to_all_seconds(const Exchange& exchange, const NetworkCosts& network);
double out_seconds(const PlanTraffic& traffic, const NetworkCosts& network);
double back_seconds(const PlanTraffic& traffic, const NetworkCosts& network);

}  // namespace plimsoll
