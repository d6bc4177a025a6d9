#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

template <class R>
void forward(R* out, const int32_t* tokens, const int32_t* positions, const R* token_table, const R* position_table,
             int64_t N, int64_t C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * C))
    for (int64_t n = 0; n < N; ++n) {
        const R* token = token_table + tokens[n] * C;
        R* to = out + n * C;
        if (!position_table) {
            std::copy_n(token, C, to);
            continue;
        }
        const R* position = position_table + positions[n] * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) to[c] = token[c] + position[c];
    }
}

// The rows of a gradient that go to one row of a table: order[begin] .. order[end - 1], ascending.
struct Group {
    int64_t row, begin, end;
};

// The groups of rows 0 .. N - 1, whose ids are below table_rows, in the order in which ids occur first. Returns their
// number.
int64_t group_rows(Group* groups, int32_t* order, const int32_t* ids, int64_t N, int64_t table_rows) {
    int64_t count = 0;
    int32_t* const group_of = workspace<struct GroupOfId, int32_t>(table_rows);
    std::fill_n(group_of, table_rows, -1);
    for (int64_t n = 0; n < N; ++n) {
        int32_t& group = group_of[ids[n]];
        if (group < 0) group = static_cast<int32_t>(count), groups[count++] = {ids[n], 0, 0};
        ++groups[group].end;
    }
    for (int64_t g = 0, total = 0; g < count; ++g) {
        total += groups[g].end;
        groups[g].begin = groups[g].end = total - groups[g].end;
    }
    for (int64_t n = 0; n < N; ++n) order[groups[group_of[ids[n]]].end++] = static_cast<int32_t>(n);
    return count;
}

// Adds row n of dout to row ids[n] of the table. A row of the table belongs to one thread, which adds to it in
// ascending n: no atomics, and the same bits for any number of threads. (Threads that each owned a range of channels
// would take lines from each other, as hardware fetches neighbours of what is written: two were slower than one.)
template <class R>
void add_rows(R* table, const R* dout, const int32_t* ids, int64_t N, int64_t C, int64_t table_rows, int threads) {
    Group* const groups = workspace<struct Groups, Group>(N);
    int32_t* const order = workspace<struct Order, int32_t>(N);
    const int64_t count = group_rows(groups, order, ids, N, table_rows);
    const bool shared = worth_threads(N * C);
    const int64_t parts = shared ? threads : 1;
#pragma omp parallel for num_threads(threads) schedule(static) if (shared)
    for (int64_t part = 0; part < parts; ++part) {
        const auto first = [&](int64_t p) {  // of the groups that begin in the part's share of the rows
            return std::partition_point(groups, groups + count,
                                        [&](const Group& g) { return g.begin < N * p / parts; });
        };
        const Group* const end = first(part + 1);
        for (const Group* group = first(part); group != end; ++group) {
            R* const to = table + group->row * C;
            for (int64_t i = group->begin; i < group->end; ++i) {
                const R* const grad = dout + order[i] * C;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) to[c] += grad[c];
            }
        }
    }
}

}  // namespace

void embedding_forward(Tensor out, std::span<const int32_t> tokens, std::span<const int32_t> positions,
                       Tensor token_table, Tensor position_table, const Exec& exec) {
    const auto run = [&]<class R>() {
        forward<R>(out.ptr<R>(), tokens.data(), positions.data(), token_table.ptr<R>(),
                   position_table ? position_table.ptr<R>() : nullptr, out.shape[0], out.shape[1], exec.threads);
    };
    out.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

void embedding_backward(Tensor dtoken_table, Tensor dposition_table, Tensor dout, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions, const Exec& exec) {
    const auto run = [&]<class R>() {
        const auto add = [&](Tensor& table, std::span<const int32_t> ids) {
            add_rows<R>(table.ptr<R>(), dout.ptr<R>(), ids.data(), dout.shape[0], dout.shape[1], table.shape[0],
                        exec.threads);
        };
        add(dtoken_table, tokens);
        if (dposition_table) add(dposition_table, positions);
    };
    dout.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

}  // namespace plimsoll::cpu
