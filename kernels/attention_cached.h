// Core attention of single queries on keys in a cache: what a token costs when text is generated.
#pragma once

#include <array>

#include "kernels/attention.h"

namespace plimsoll {

// Rows row .. row + count - 1 of k and v hold the keys at positions position .. position + count - 1.
struct KeyRun {
    int64_t row = 0;
    int64_t position = 0;
    int64_t count = 0;
};

// One query's position, and the keys that it may see: a ring buffer behind some pinned rows is three runs. Runs without
// keys are passed over; the others ascend in position, up to the query's own.
struct CachedQuery {
    int64_t position = 0;
    std::array<KeyRun, 3> runs = {};
};

// attention_forward (formulas, gate and lse included) of query i of q (N, NH, HS) on the keys of queries[i], under the
// spec's mask at these positions. k (M, NKV, HS), v (M, NKV, VS): M may differ from N. Positions need not begin at 0,
// and may have gaps: with a bias per row, n_i is what the mask counts at the query's position.
// frequencies (HS / 2): q and k are not rotated yet; they are read rotated (RoPE) by position * frequency, and stay as
// they are. Empty: they are read as they are.
// Reads each visible key and value once per query head, so that time is that of memory. Sums over keys run in
// lanes, not in attention_forward's order: equal to it but for rounding. Bits do not depend on the number of threads
// or on other queries of the call. On the CPU only. Throws Error for shapes, runs and dtypes that disagree.
void attention_cached_forward(const AttentionTensors& t, std::span<const CachedQuery> queries,
                              std::span<const double> frequencies, const AttentionSpec& spec, const Exec& exec);

}  // namespace plimsoll
