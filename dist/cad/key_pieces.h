// Which keys travel where for a plan.
#pragma once

#include "dist/cad/plan.h"

namespace plimsoll {

// Keys of one document that a server reads: positions [0, prefix) and [begin, end), for its tasks first_task ..
// last_task - 1 of `CaKeys::tasks`. prefix and begin are multiples of CaOptions::block, prefix <= begin; end is that of
// the last task, which sees nothing behind it.
struct CaKeyRange {
    int server = 0;
    int64_t document = 0;
    int64_t prefix = 0;
    int64_t begin = 0, end = 0;
    int64_t first_task = 0, last_task = 0;
};

// Keys [begin, end) of a segment that servers other than their owner read.
struct CaKeyPiece {
    int64_t segment = 0;
    int64_t begin = 0, end = 0;
    int relay = -1;  // the server that gets them from the owner and sends them on; -1: the owner
                     // sends to each
    int64_t first_server = 0, last_server = 0;  // of CaKeys::servers, ascending
};

struct CaKeys {
    std::vector<int64_t> tasks;      // indices of the plan's tasks by server, document, position
    std::vector<CaKeyRange> ranges;  // by server, document, position; they do not overlap
    std::vector<CaKeyPiece> pieces;  // by segment, then position
    std::vector<int> servers;        // of the pieces
};

// Two hops (options.two_hop) for keys that at least three servers need: block by block, the relay is the one of these
// servers with the fewest bytes so far, counting all that travels without a choice. (In turn, givers of queries relay
// as well: the worst of 64 ranks with documents of up to 512K sends 17% more, mean of 6 draws.) What key_back brings
// home goes the same ways in reverse: to the relay, whose sum goes to the owner.
CaKeys keys_of(const CaPlan& plan, std::span<const CaSegment> segments, const CaOptions& options);

// The all-to-alls of a plan, in the order in which they come: to the servers in two hops, and home in two.
enum class CaHop : uint8_t { kOut, kOutAgain, kBack, kBackAgain };

// Calls f(hop, from, to, bytes) for all that travels, some pairs of ranks several times in a hop. What stays on a rank
// is left out; with relays, their servers send gradients to them in kBack, and they the sums home in kBackAgain.
template <class F>
void for_each_transfer(const CaPlan& plan, const CaKeys& keys, std::span<const CaSegment> segments,
                       const CaOptions& options, F&& f) {
    const CaCosts& costs = options.costs;
    const auto ranks = static_cast<size_t>(options.servers);
    std::vector<bool> computes_for(ranks * ranks, false);  // by home, server
    for (const CaTask& task : plan.tasks) {
        const int home = segments[static_cast<size_t>(task.segment)].home;
        if (task.server == home) continue;
        f(CaHop::kOut, home, task.server, (task.end - task.begin) * costs.query_out);
        f(CaHop::kBack, task.server, home, (task.end - task.begin) * costs.query_back);
        const size_t pair = static_cast<size_t>(home) * ranks + static_cast<size_t>(task.server);
        if (!computes_for[pair]) f(CaHop::kOut, home, task.server, costs.pair_out);
        computes_for[pair] = true;
    }
    for (const CaKeyPiece& piece : keys.pieces) {
        const int owner = segments[static_cast<size_t>(piece.segment)].home;
        const int64_t rows = piece.end - piece.begin;
        for (int64_t i = piece.first_server; i < piece.last_server; ++i) {
            const int server = keys.servers[static_cast<size_t>(i)];
            const bool relayed = piece.relay >= 0 && server != piece.relay;
            const int source = relayed ? piece.relay : owner;
            f(relayed ? CaHop::kOutAgain : CaHop::kOut, source, server, rows * costs.key_out);
            f(piece.relay >= 0 && !relayed ? CaHop::kBackAgain : CaHop::kBack, server, source, rows * costs.key_back);
        }
    }
}

// Bytes per rank, both hops and both directions of CaCosts together; what stays on a rank counts nothing.
struct CaBytes {
    std::vector<int64_t> sent, received;
    int64_t total() const;
    int64_t most() const;  // that a rank sends or receives
};
CaBytes bytes_of(const CaPlan& plan, const CaKeys& keys, std::span<const CaSegment> segments, const CaOptions& options);

}  // namespace plimsoll
