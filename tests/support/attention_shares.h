// A case's queries dealt out to servers at random: tasks on copies of the keys they see, as a plan may make them.
#pragma once

#include <limits>
#include <random>

#include "kernels/attention/mask.h"
#include "kernels/attention_tasks.h"
#include "support/attention_run.h"

namespace plimsoll {

// What one server gets: which token lies in each of its rows, -1 for rows that belong to no task or range.
struct AttentionShare {
    std::vector<KeyRange> keys;
    std::vector<AttentionTask> tasks;
    std::vector<int64_t> query_tokens, key_tokens;

    AttentionTasks work() const { return {keys, tasks}; }
    int64_t N() const { return static_cast<int64_t>(query_tokens.size()); }
    int64_t M() const { return static_cast<int64_t>(key_tokens.size()); }
};

class Dealer {
  public:
    Dealer(const AttentionCase& c, int servers, uint32_t seed) : c_(c), random_(seed), shares_(shape(servers)) {}

    // Documents are cut anywhere, at edges of tiles and between them; what a server gets of a document is one range or
    // two, each with room behind the last key that is seen.
    std::vector<AttentionShare> deal() {
        for (size_t d = 0; d + 1 < c_.cu_seqlens.size(); ++d) {
            const int64_t first = c_.cu_seqlens[d], n = c_.cu_seqlens[d + 1] - first;
            std::vector<std::vector<std::pair<int64_t, int64_t>>> parts(shares_.size());
            for (int64_t begin = 0; begin < n;) {
                int64_t end = begin + below(200) + 1;
                if (below(2)) end = (end + 63) / 64 * 64;
                end = std::min(end, n);
                parts[static_cast<size_t>(below(static_cast<int64_t>(shares_.size())))].emplace_back(begin, end);
                begin = end;
            }
            for (size_t s = 0; s < shares_.size(); ++s) {
                const size_t split = static_cast<size_t>(below(static_cast<int64_t>(parts[s].size()) + 1));
                give(shares_[s], first, n, std::span(parts[s]).first(split));
                give(shares_[s], first, n, std::span(parts[s]).subspan(split));
            }
        }
        return shares_;
    }
    // Every document whole, as one task on one range: what the local path does, on rows with gaps.
    AttentionShare whole() {
        AttentionShare share;
        for (size_t d = 0; d + 1 < c_.cu_seqlens.size(); ++d) {
            const int64_t first = c_.cu_seqlens[d], n = c_.cu_seqlens[d + 1] - first;
            std::vector<std::pair<int64_t, int64_t>> parts;
            for (int64_t begin = 0; begin < n; begin = parts.back().second)
                parts.emplace_back(begin, std::min(n, begin + below(200) + 1));
            keep_prefix_ = false;
            give(share, first, n, parts);
        }
        return share;
    }

  private:
    static std::vector<AttentionShare> shape(int servers) {
        return std::vector<AttentionShare>(static_cast<size_t>(servers));
    }
    int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }

    // Tasks on one new range with the keys they see.
    void give(AttentionShare& share, int64_t first, int64_t n, std::span<const std::pair<int64_t, int64_t>> parts) {
        if (parts.empty()) return;
        KeyRange range{.end = std::min(n, parts.back().second + below(100))};
        if (parts.front().first < c_.prefix) range.end = std::max(range.end, std::min(n, c_.prefix));
        if (keep_prefix_) {
            // The first query may see further back than it does: a later one, at another place of a step, will.
            const int64_t lowest = Mask(c_.spec()).keys_of(parts.front().first, n).sparse;
            range.begin = lowest / kKeyBlock * kKeyBlock;
            range.prefix = std::min(range.begin, (c_.pinned + kKeyBlock - 1) / kKeyBlock * kKeyBlock);
        }
        share.key_tokens.insert(share.key_tokens.end(), static_cast<size_t>(below(3)), -1);
        range.row = share.M();
        for (int64_t j = 0; j < range.prefix; ++j) share.key_tokens.push_back(first + j);
        for (int64_t j = range.begin; j < range.end; ++j) share.key_tokens.push_back(first + j);
        for (const auto& [begin, end] : parts) {
            share.query_tokens.insert(share.query_tokens.end(), static_cast<size_t>(below(3)), -1);
            share.tasks.push_back({.row = share.N(),
                                   .count = end - begin,
                                   .position = begin,
                                   .keys = static_cast<int64_t>(share.keys.size())});
            for (int64_t i = begin; i < end; ++i) share.query_tokens.push_back(first + i);
        }
        share.keys.push_back(range);
    }

    const AttentionCase& c_;
    std::mt19937 random_;
    std::vector<AttentionShare> shares_;
    bool keep_prefix_ = true;
};

// Rows of `width` values for the tokens of a share; NaN in the others, which nobody may read.
template <class T>
std::vector<T> gather_rows(const std::vector<T>& all, const std::vector<int64_t>& tokens, int64_t width) {
    std::vector<T> rows;
    for (const int64_t token : tokens)
        for (int64_t i = 0; i < width; ++i)
            rows.push_back(token < 0 ? T(std::numeric_limits<float>::quiet_NaN())
                                     : all[static_cast<size_t>(token * width + i)]);
    return rows;
}
// The same for (heads, tokens).
template <class T>
std::vector<T> gather_columns(const std::vector<T>& all, const std::vector<int64_t>& tokens, int64_t heads) {
    std::vector<T> columns;
    const size_t N = all.size() / static_cast<size_t>(heads);
    for (size_t h = 0; h < static_cast<size_t>(heads); ++h)
        for (const int64_t token : tokens)
            columns.push_back(token < 0 ? std::numeric_limits<T>::quiet_NaN()
                                        : all[h * N + static_cast<size_t>(token)]);
    return columns;
}
// Calls put(element of the whole, value) for a share's rows; rows of no token must still be `untouched`.
template <class T, class Put>
void scatter_rows(const std::vector<T>& rows, const std::vector<int64_t>& tokens, int64_t width, T untouched,
                  Put&& put) {
    for (size_t n = 0; n < tokens.size(); ++n)
        for (int64_t i = 0; i < width; ++i) {
            const T value = rows[n * static_cast<size_t>(width) + static_cast<size_t>(i)];
            if (tokens[n] < 0)
                EXPECT_EQ(value, untouched) << "row " << n << " belongs to nobody";
            else
                put(static_cast<size_t>(tokens[n] * width + i), value);
        }
}
// The same for (heads, tokens), `N` tokens in the whole.
template <class T, class Put>
void scatter_columns(const std::vector<T>& columns, const std::vector<int64_t>& tokens, int64_t heads, int64_t N,
                     T untouched, Put&& put) {
    for (int64_t h = 0; h < heads; ++h)
        for (size_t n = 0; n < tokens.size(); ++n) {
            const T value = columns[static_cast<size_t>(h) * tokens.size() + n];
            if (tokens[n] < 0)
                EXPECT_EQ(value, untouched) << "row " << n << " belongs to nobody";
            else
                put(static_cast<size_t>(h * N + tokens[n]), value);
        }
}

// Memory of the device that a case runs on: on a GPU OnDevice of cuda_test.h.
template <class T>
class OnHost {
  public:
    explicit OnHost(std::vector<T> values) : values_(std::move(values)) {}
    Tensor tensor(Shape shape) const { return view(values_, shape); }
    std::span<const T> span() const { return values_; }
    std::vector<T> values() const { return values_; }

  private:
    mutable std::vector<T> values_;  // as device memory: the owner's constness is not that of the contents
};

// What the parts of all servers add up to.
template <class T>
struct Together {
    using R = Accumulator<T>;
    std::vector<T> out, dq, dgate;
    std::vector<R> lse, dsink, dbias;
    std::vector<double> dk, dv;
};

inline constexpr float kUntouched = 7;
template <class T>
std::vector<T> untouched(int64_t count) {
    return std::vector<T>(static_cast<size_t>(count), T(kUntouched));
}

// A whole case, dealt out: attention of the shares, the gate, what backward needs of every row, gradients of the
// shares. Inputs and gates are those of `run`; gradients of keys are in G.
template <class T, class G, template <class> class Memory>
Together<T> run_shares(const AttentionRun<T>& run, const std::vector<AttentionShare>& shares, const Exec& exec) {
    using R = Accumulator<T>;
    const AttentionCase& c = run.c;
    const AttentionSpec spec = c.spec();
    const bool normalized = is_normalized(spec.weighting);
    const int64_t N = c.N(), of_query = c.query_columns(), of_key = c.key_columns(), of_value = c.value_columns(),
                  of_out = c.out_columns();
    const DenseQkv<T> dense(c, run.qkv);
    const Memory<R> sink(run.sink), dsink(run.dsink), bias(run.bias), dbias(run.dbias);
    const bool biased = !run.bias.empty();
    std::vector<R> dbias_rows = untouched<R>(biased ? N * c.NH : 0);
    const Memory<T> gate(run.gate), dgate(run.dgate);
    const Shape whole{N, c.NH, c.value_size()}, per_row{c.NH, N}, gates{N, c.NH};

    Together<T> all{.out = untouched<T>(N * of_out),
                    .dq = untouched<T>(N * of_query),
                    .dgate = {},
                    .lse = untouched<R>(N * c.NH),
                    .dsink = {},
                    .dbias = {},
                    .dk = std::vector<double>(static_cast<size_t>(N * of_key)),
                    .dv = std::vector<double>(static_cast<size_t>(N * of_value))};
    for (const AttentionShare& share : shares) {
        if (share.tasks.empty()) continue;
        const Memory<T> q(gather_rows(dense.q, share.query_tokens, of_query)),
            k(gather_rows(dense.k, share.key_tokens, of_key)), v(gather_rows(dense.v, share.key_tokens, of_value)),
            out(untouched<T>(share.N() * of_out));
        const Memory<R> lse(untouched<R>(share.N() * c.NH));
        const Shape rows{share.N(), c.NH, c.HS}, outs{share.N(), c.NH, c.value_size()};
        const Shape keys{share.M(), c.NKV, c.HS}, values{share.M(), c.NKV, c.value_size()};
        AttentionShare gone = share;  // when the call returns
        attention_tasks_forward({.out = out.tensor(outs),
                                 .lse = lse.tensor({c.NH, share.N()}),
                                 .q = q.tensor(rows),
                                 .k = k.tensor(keys),
                                 .v = v.tensor(values),
                                 .sink_logit = sink.tensor({c.NH}),
                                 .gate = {},
                                 .score_bias = bias.tensor({c.NH})},
                                gone.work(), spec, exec);
        gone.tasks.assign(gone.tasks.size(), {.row = -1}), gone.keys.assign(gone.keys.size(), {.row = -1});
        scatter_rows(out.values(), share.query_tokens, of_out, T(kUntouched), [&](size_t i, T x) { all.out[i] = x; });
        if (normalized)
            scatter_columns(lse.values(), share.query_tokens, c.NH, N, R(kUntouched),
                            [&](size_t i, R x) { all.lse[i] = x; });
    }
    const Memory<T> out(all.out), dout(run.dout);
    const Memory<R> lse(all.lse), delta(untouched<R>(N * c.NH));
    if (!run.gate.empty()) head_gate_forward(out.tensor(whole), gate.tensor(gates), exec);
    all.out = out.values();
    const Memory<int32_t> documents(c.cu_seqlens);
    attention_backward_rows({.out = dout.tensor(whole),
                             .lse = {},
                             .q = {},
                             .k = {},
                             .v = {},
                             .sink_logit = dsink.tensor({c.NH}),
                             .gate = dgate.tensor(gates)},
                            delta.tensor(per_row),
                            {.out = out.tensor(whole),
                             .lse = lse.tensor(per_row),
                             .q = {},
                             .k = {},
                             .v = {},
                             .sink_logit = sink.tensor({c.NH}),
                             .gate = gate.tensor(gates)},
                            documents.span(), spec, Write::kOverwrite, exec);
    all.dsink = dsink.values(), all.dgate = dgate.values();
    const std::vector<T> gated = dout.values();
    const std::vector<R> deltas = delta.values();
    for (const AttentionShare& share : shares) {
        if (share.keys.empty()) continue;
        const Memory<T> q(gather_rows(dense.q, share.query_tokens, of_query)),
            k(gather_rows(dense.k, share.key_tokens, of_key)), v(gather_rows(dense.v, share.key_tokens, of_value)),
            here(gather_rows(gated, share.query_tokens, of_out)), dq(untouched<T>(share.N() * of_query));
        const Memory<R> lse_here(gather_columns(all.lse, share.query_tokens, c.NH)),
            delta_here(gather_columns(deltas, share.query_tokens, c.NH));
        const Memory<G> dk(untouched<G>(share.M() * of_key)), dv(untouched<G>(share.M() * of_value));
        const Memory<R> dbias_here(untouched<R>(biased ? share.N() * c.NH : 0));
        const Shape rows{share.N(), c.NH, c.HS}, outs{share.N(), c.NH, c.value_size()};
        const Shape keys{share.M(), c.NKV, c.HS}, values{share.M(), c.NKV, c.value_size()};
        AttentionShare gone = share;
        attention_tasks_backward({.out = here.tensor(outs),
                                  .lse = {},
                                  .q = dq.tensor(rows),
                                  .k = dk.tensor(keys),
                                  .v = dv.tensor(values),
                                  .sink_logit = {},
                                  .gate = {},
                                  .score_bias = dbias_here.tensor({c.NH, share.N()})},
                                 {.out = {},
                                  .lse = lse_here.tensor({c.NH, share.N()}),
                                  .q = q.tensor(rows),
                                  .k = k.tensor(keys),
                                  .v = v.tensor(values),
                                  .sink_logit = {},
                                  .gate = {},
                                  .score_bias = bias.tensor({c.NH})},
                                 normalized ? delta_here.tensor({c.NH, share.N()}) : Tensor{}, gone.work(), spec, exec);
        gone.tasks.assign(gone.tasks.size(), {.row = -1}), gone.keys.assign(gone.keys.size(), {.row = -1});
        if (biased)
            scatter_columns(dbias_here.values(), share.query_tokens, c.NH, N, R(kUntouched),
                            [&](size_t i, R x) { dbias_rows[i] = x; });
        scatter_rows(dq.values(), share.query_tokens, of_query, T(kUntouched), [&](size_t i, T x) { all.dq[i] = x; });
        scatter_rows(dk.values(), share.key_tokens, of_key, G(kUntouched),
                     [&](size_t i, G x) { all.dk[i] += static_cast<double>(static_cast<Accumulator<G>>(x)); });
        scatter_rows(dv.values(), share.key_tokens, of_value, G(kUntouched),
                     [&](size_t i, G x) { all.dv[i] += static_cast<double>(static_cast<Accumulator<G>>(x)); });
    }
    if (biased) {
        const Memory<R> rows(dbias_rows);
        score_bias_backward(dbias.tensor({c.NH}), rows.tensor(per_row), Write::kOverwrite, exec);
        all.dbias = dbias.values();
    }
    return all;
}

}  // namespace plimsoll
