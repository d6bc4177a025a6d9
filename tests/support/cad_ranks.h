// Ranks (threads) that compute core attention of one set of documents together, beside the same documents in one place.
#pragma once

#include <algorithm>
#include <memory>

#include "dist/as_ranks.h"
#include "dist/cad/disaggregated_attention.h"
#include "dist/cad/servers_in_turn.h"
#include "support/attention_run.h"

namespace plimsoll {

// One plan for every call.
struct OneRound final : CaRounds {
    CaRound forward, backward;
    OneRound(CaRound f, CaRound b) : forward(std::move(f)), backward(std::move(b)) {}
    const CaRound& forward_round(const AttentionCall&) override { return forward; }
    const CaRound& backward_round(const AttentionCall&) override { return backward; }
};
struct OneHomeRound final : CaHomeRounds {
    CaHomeRound forward, backward;
    OneHomeRound(CaHomeRound f, CaHomeRound b) : forward(std::move(f)), backward(std::move(b)) {}
    const CaHomeRound& forward_round(const AttentionCall&) override { return forward; }
    const CaHomeRound& backward_round(const AttentionCall&) override { return backward; }
};

// Documents 0, 1, 2 ... as segments on ranks, and the variant of attention.
struct CadCase {
    std::string name;
    int ranks = 2;
    std::vector<CaSegment> segments;
    AttentionCase attention;  // cu_seqlens: of all documents, in their order

    // `lengths`: of the documents of each rank.
    static CadCase whole(std::string name, const std::vector<std::vector<int64_t>>& lengths, AttentionCase attention) {
        CadCase c{std::move(name), static_cast<int>(lengths.size()), {}, std::move(attention)};
        c.attention.cu_seqlens = {0};
        for (size_t r = 0; r < lengths.size(); ++r)
            for (const int64_t length : lengths[r]) {
                c.segments.push_back({static_cast<int64_t>(c.segments.size()), static_cast<int>(r), 0, length});
                c.attention.cu_seqlens.push_back(c.attention.cu_seqlens.back() + static_cast<int32_t>(length));
            }
        return c;
    }
    // Documents one after the other over ranks of `tokens` tokens each.
    static CadCase spanning(std::string name, int ranks, int64_t tokens, const std::vector<int64_t>& lengths,
                            AttentionCase attention) {
        CadCase c{std::move(name), ranks, {}, std::move(attention)};
        c.attention.cu_seqlens = {0};
        int64_t used = 0;
        for (size_t d = 0; d < lengths.size(); ++d) {
            for (int64_t begin = 0; begin < lengths[d];) {
                const int64_t end = std::min(lengths[d], begin + tokens - used % tokens);
                c.segments.push_back({static_cast<int64_t>(d), static_cast<int>(used / tokens), begin, end});
                used += end - begin, begin = end;
            }
            c.attention.cu_seqlens.push_back(c.attention.cu_seqlens.back() + static_cast<int32_t>(lengths[d]));
        }
        return c;
    }
    int64_t row_in_whole(const CaSegment& s) const {
        return attention.cu_seqlens[static_cast<size_t>(s.document)] + s.begin;
    }
    AttentionCase of_rank(int rank) const {
        AttentionCase c = attention;
        c.cu_seqlens = {0};
        for (const CaSegment& s : segments)
            if (s.home == rank) c.cu_seqlens.push_back(c.cu_seqlens.back() + static_cast<int32_t>(s.end - s.begin));
        return c;
    }
    CaOptions options(CaCosts costs) const {
        return {
            .servers = ranks, .min_gain = 0, .window = attention.window, .pinned = attention.pinned, .costs = costs};
    }
};

// Copies the rows that `rank` owns between a tensor of all documents and one of its batch.
template <class T>
void copy_rank_rows(const CadCase& c, int rank, std::vector<T>& whole, std::vector<T>& own, int64_t row, bool to_own) {
    int64_t at = 0;
    for (const CaSegment& s : c.segments) {
        if (s.home != rank) continue;
        const auto w = whole.begin() + c.row_in_whole(s) * row, o = own.begin() + at * row;
        const int64_t count = (s.end - s.begin) * row;
        to_own ? std::copy_n(w, count, o) : std::copy_n(o, count, w);
        at += s.end - s.begin;
    }
}

// What all ranks computed, laid out like the documents in one place.
template <class T>
struct CadResults {
    AttentionRun<T> run;
    std::vector<double> dsink;  // summed over ranks
    std::vector<CaBytes> sent;  // forward, backward: by rank, what the plan says and what was sent
    std::vector<int64_t> observed;
};

template <class T>
class CadRanks {
    using R = Accumulator<T>;

  public:
    CadRanks(const CadCase& c, CaPlan forward, CaPlan backward, bool two_hop = true)
        : case_(c),
          whole_(c.attention, 2),
          forward_(std::move(forward)),
          backward_(std::move(backward)),
          two_hop_(two_hop) {
        whole_.forward();
        dout_ = whole_.dout;
        whole_.backward();
    }

    // Other queries, keys, values and gradients of out for one document.
    void change_document(size_t document) {
        const AttentionCase& a = case_.attention;
        const auto scale = [&](std::vector<T>& values, int64_t row) {
            for (int64_t i = a.cu_seqlens[document] * row; i < a.cu_seqlens[document + 1] * row; ++i) {
                T& value = values[static_cast<size_t>(i)];
                value = static_cast<T>(static_cast<R>(value) * R(1.25));
            }
        };
        scale(whole_.qkv, a.columns());
        scale(dout_, a.out_columns());
    }
    // The documents in one place, by the local kernels.
    const AttentionRun<T>& whole() const { return whole_; }
    static CaShape shape_of(const AttentionCase& a) {
        return {.NH = a.NH, .NKV = a.NKV, .HS = a.HS, .VS = a.value_size(), .dtype = kDTypeOf<T>};
    }
    CaShape shape() const { return shape_of(case_.attention); }

    // By ranks; or, in one process, each rank's part with servers in turn.
    AttentionRun<T> compute(bool in_turn) {
        AttentionRun<T> result(case_.attention);
        std::ranges::fill(result.out, T{}), std::ranges::fill(result.dqkv, T{});
        learned_sum_.assign(result.dlearned().size(), 0);
        observed_.assign(static_cast<size_t>(case_.ranks), 0);
        if (in_turn) {
            for (int r = 0; r < case_.ranks; ++r) {
                AttentionRun<T> own = own_run(r);
                if (own.c.N() == 0) continue;
                OneHomeRound rounds(home_round_of(forward_, case_.segments, options(false), r),
                                    home_round_of(backward_, case_.segments, options(true), r));
                ServersInTurn core(rounds);
                run_rank(core, own);
                gather(result, own, r);
            }
            return result;
        }
        std::mutex mutex;
        as_ranks(case_.ranks, [&](Communicator& world) {
            AttentionRun<T> own = own_run(world.rank());
            OneRound rounds(round_of(forward_, case_.segments, options(false), world.rank()),
                            round_of(backward_, case_.segments, options(true), world.rank()));
            DisaggregatedAttention core(world, rounds, shape());
            run_rank(core, own);
            const std::lock_guard lock(mutex);
            observed_[static_cast<size_t>(world.rank())] = world.stats(CommKind::kAllToAll).bytes;
            planned_ = {planned_bytes(forward_, false), planned_bytes(backward_, true)};
            gather(result, own, world.rank());
        });
        return result;
    }
    // Of the last compute(): bytes each rank sent, and what the plans say it sends in both directions.
    const std::vector<int64_t>& observed() const { return observed_; }
    int64_t planned(int rank) const {
        return planned_[0].sent[static_cast<size_t>(rank)] + planned_[1].sent[static_cast<size_t>(rank)];
    }
    const std::vector<double>& learned_sum() const { return learned_sum_; }
    void clear_learned_sum() { learned_sum_.assign(learned_sum_.size(), 0); }
    CaOptions options(bool backward) const {
        const AttentionSpec spec = case_.attention.spec();
        CaOptions o = case_.options(backward ? shape().backward_costs(spec) : shape().forward_costs(spec));
        o.two_hop = two_hop_;
        return o;
    }

    // Inputs of one rank; its results, put where they belong among all.
    AttentionRun<T> own_run(int rank) {
        AttentionRun<T> own(case_.of_rank(rank), 1);
        const AttentionCase& a = case_.attention;
        copy_rank_rows(case_, rank, whole_.qkv, own.qkv, a.columns(), true);
        copy_rank_rows(case_, rank, dout_, own.dout, a.out_columns(), true);
        if (a.gate) copy_rank_rows(case_, rank, whole_.gate, own.gate, a.NH, true);
        return own;
    }
    void gather(AttentionRun<T>& result, AttentionRun<T>& own, int rank) {
        const AttentionCase& a = case_.attention;
        copy_rank_rows(case_, rank, result.out, own.out, a.out_columns(), false);
        copy_rank_rows(case_, rank, result.dqkv, own.dqkv, a.columns(), false);
        if (a.gate) copy_rank_rows(case_, rank, result.dgate, own.dgate, a.NH, false);
        int64_t row = 0;
        for (const CaSegment& s : case_.segments) {
            if (s.home != rank) continue;
            for (int64_t h = 0; h < a.NH; ++h)
                std::copy_n(own.lse.begin() + h * own.c.N() + row, s.end - s.begin,
                            result.lse.begin() + h * a.N() + case_.row_in_whole(s));
            row += s.end - s.begin;
        }
        for (size_t h = 0; h < learned_sum_.size() && own.c.N() > 0; ++h)
            learned_sum_[h] += static_cast<double>(own.dlearned()[h]);
    }

  private:
    CaBytes planned_bytes(const CaPlan& plan, bool backward) const {
        const CaOptions o = options(backward);
        return bytes_of(plan, keys_of(plan, case_.segments, o), case_.segments, o);
    }
    static void run_rank(CoreAttention& core, AttentionRun<T>& own) {
        const Exec exec{.threads = 1};
        AttentionCall call{.spec = own.c.spec()};
        if (own.c.N() > 0) call.t = own.tensors(), call.cu_seqlens = own.c.cu_seqlens;
        core.forward(call, exec);
        if (own.c.N() > 0) call.d = own.gradients();
        core.begin_backward(call, exec);
        core.compute_backward(call, exec);
        core.end_backward(call, exec);
    }
    CadCase case_;
    AttentionRun<T> whole_;
    std::vector<T> dout_;
    CaPlan forward_, backward_;
    bool two_hop_;
    std::vector<double> learned_sum_;
    std::vector<int64_t> observed_;
    std::vector<CaBytes> planned_;
};

// Blocks of 128 rows on any ranks: a plan that no planner would make.
inline CaPlan scattered_plan(const CadCase& c, uint64_t seed) {
    const RandomStream stream(seed, "scattered plan");
    CaPlan plan{.moves = true};
    uint64_t index = 0;
    for (size_t s = 0; s < c.segments.size(); ++s)
        for (int64_t begin = c.segments[s].begin; begin < c.segments[s].end;) {
            const auto blocks = static_cast<int64_t>(1 + stream.below(2 * index, 3));
            const int64_t end = std::min(c.segments[s].end, (begin / 128 + blocks) * 128);
            const int server = static_cast<int>(stream.below(2 * index + 1, static_cast<uint64_t>(c.ranks)));
            plan.tasks.push_back({static_cast<int64_t>(s), server, begin, end});
            begin = end, ++index;
        }
    return plan;
}

}  // namespace plimsoll
