// One rank's part in a plan: the rows it sends, receives and computes.
#pragma once

#include <span>
#include <vector>

#include "dist/cad/key_pieces.h"
#include "kernels/attention_tasks.h"

namespace plimsoll {

// Rows row .. row + count - 1 of a tensor.
struct RowRun {
    int64_t row = 0;
    int64_t count = 0;
};

// Rows by peer, in the order in which they travel.
class RowLists {
  public:
    explicit RowLists(int ranks) : runs_(static_cast<size_t>(ranks)), rows_(static_cast<size_t>(ranks), 0) {}
    void add(int peer, RowRun run);
    std::span<const RowRun> of(int peer) const { return runs_[static_cast<size_t>(peer)]; }
    int64_t rows(int peer) const { return rows_[static_cast<size_t>(peer)]; }
    bool empty() const;

  private:
    std::vector<std::vector<RowRun>> runs_;
    std::vector<int64_t> rows_;
};

// The two ends of a message: rows of the sender's tensor, rows of the receiver's.
struct RowRoute {
    RowLists out, in;
    explicit RowRoute(int ranks) : out(ranks), in(ranks) {}
    RowRoute reversed() const;
};

// Key rows whose gradient several ranks have a part of.
struct KeySum {
    int64_t row = 0;  // at the owner: of its batch; at a relay: of its message to the owner
    int64_t count = 0;
    int owner = 0;
    bool relayed = false;                   // at the owner: its only part is the relay's sum
    int64_t first_part = 0, last_part = 0;  // of CaRound::parts, in ascending order of rank
};
struct KeySumPart {
    int peer = 0;
    int64_t row = 0;  // of the message from `peer`; of the server's own key rows if that is this rank
};

// Tasks that read keys at one place.
struct CaTasks {
    std::vector<KeyRange> keys;
    std::vector<AttentionTask> tasks;
    operator AttentionTasks() const { return {keys, tasks}; }
};

// "Batch" rows are tokens this rank owns; "server" rows are those of buffers for what it computes from copies, queries
// and keys each by themselves. A document in one segment is computed in place at home, whatever else is copied; one in
// several segments (a document that spans ranks) is copied, its home's part too: routes to the rank itself.
struct CaRound {
    CaPlan plan;
    int ranks = 1, rank = 0;
    bool two_hops = false;                       // some keys take two hops, on some rank
    RowRoute queries, keys, relayed, forwarded;  // forwarded: server rows on both ends
    RowRoute pairs;                              // one row for every server that computes for this rank
    int64_t query_rows = 0, key_rows = 0;        // of the server
    CaTasks alone;                               // in place; nobody else reads these documents
    CaTasks shared;                              // in place; others compute a part of these documents
    std::vector<CaTasks> served;                 // from copies, by group of their home
    std::vector<int> sink_of;                    // [group]: a home of these tasks, -1 without any
    std::vector<RowRun> summed;                  // batch rows of keys whose gradients are added up, all of a document
    std::vector<KeySum> relay_sums, owner_sums;
    std::vector<KeySumPart> parts;

    explicit CaRound(int ranks)
        : ranks(ranks), queries(ranks), keys(ranks), relayed(ranks), forwarded(ranks), pairs(ranks) {}
};

// Rank `rank`'s part. Its batch holds its segments one after the other, in their order. `groups`: by rank, what its
// tasks have in common besides the mask (a pipeline's stage: its layer's sink logits); empty: all the same.
CaRound round_of(CaPlan plan, std::span<const CaSegment> segments, const CaOptions& options, int rank,
                 std::span<const int> groups = {});
// The same with the plan's keys_of, which the caller has; `ranks` is CaOptions::servers.
CaRound round_of(CaPlan plan, const CaKeys& keys, std::span<const CaSegment> segments, int ranks, int rank,
                 std::span<const int> groups = {});

// What one rank's documents need from every server, for computing all of it in one process (ServersInTurn).
struct CaHomeRound {
    CaPlan plan;
    CaTasks alone;  // documents that stay at home
    struct Server {
        int rank;
        CaTasks tasks;                    // in place, of documents that other ranks compute a part of
        std::vector<RowRun> first, more;  // key rows it is the first, and a later, part of; empty for the home
    };
    std::vector<Server> servers;  // ascending; with the home itself
    std::vector<RowRun> summed;
    explicit CaHomeRound(CaPlan p) : plan(std::move(p)) {}
};
// Throws Error (78) if a document of this home spans ranks.
CaHomeRound home_round_of(CaPlan plan, std::span<const CaSegment> segments, const CaOptions& options, int home);
// The same with the plan's keys_of.
CaHomeRound home_round_of(CaPlan plan, const CaKeys& keys, std::span<const CaSegment> segments, int home);

}  // namespace plimsoll
