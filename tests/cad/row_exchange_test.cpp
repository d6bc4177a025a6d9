// Rows on their way: every one arrives where the plan says, and comes back to where it was.
#include "dist/cad/row_exchange.h"

#include <gtest/gtest.h>

#include "support/cad_ranks.h"

namespace plimsoll {
namespace {

// What row `position` of a document holds.
float mark(int64_t document, int64_t position, int64_t element) {
    return static_cast<float>(document * 4096 + position) + static_cast<float>(element) / 8;
}

class RowExchanges : public testing::TestWithParam<std::tuple<uint64_t, bool>> {};

TEST_P(RowExchanges, BringRowsWhereThePlanSaysAndBack) {
    const auto& [seed, spanning] = GetParam();
    const AttentionCase attention{.NH = 2, .NKV = 1, .HS = 4};
    const CadCase c = spanning ? CadCase::spanning("", 4, 333, {900, 77, 355}, attention)
                               : CadCase::whole("", {{700, 3}, {}, {129, 128, 1}, {400}}, attention);
    const CaPlan plan = scattered_plan(c, seed);
    const CaOptions options = c.options({1, 1, 1, 1, 0});
    as_ranks(c.ranks, [&](Communicator& world) {
        const CaRound round = round_of(plan, c.segments, options, world.rank());
        // This rank's rows: as (N, 2) rows, and as (2, N) columns.
        std::vector<float> rows;
        for (const CaSegment& s : c.segments)
            for (int64_t p = s.begin; s.home == world.rank() && p < s.end; ++p)
                for (int64_t e = 0; e < 2; ++e) rows.push_back(mark(s.document, p, e));
        const auto N = static_cast<int64_t>(rows.size()) / 2;
        std::vector<float> columns(rows.size());
        for (int64_t n = 0; n < N; ++n)
            for (int64_t e = 0; e < 2; ++e)
                columns[static_cast<size_t>(e * N + n)] = rows[static_cast<size_t>(n * 2 + e)];
        const int64_t M = round.query_rows;
        std::vector<float> served(static_cast<size_t>(2 * M)), served_columns(served.size());
        const auto matrix = [](std::vector<float>& values, Shape shape) {
            static float nothing;
            return Tensor(values.empty() ? &nothing : values.data(), DType::kF32, shape);
        };
        RowExchange exchange(world);
        std::vector<RowPart> parts{
            RowPart::rows(round.queries, matrix(rows, {N, 2}), matrix(served, {M, 2})),
            RowPart::columns_of(round.queries, matrix(columns, {2, N}), matrix(served_columns, {2, M}))};
        exchange.pack(parts, {});
        exchange.begin();
        exchange.end({});
        for (const RowPart& part : parts) copy_own(part, world.rank(), {});
        for (const CaTasks& group : round.served)
            for (const AttentionTask& task : group.tasks) {
                const float first = served[static_cast<size_t>(2 * task.row)];
                const auto document = static_cast<int64_t>(first) / 4096;
                for (int64_t i = 0; i < task.count; ++i)
                    for (int64_t e = 0; e < 2; ++e) {
                        const float wanted = mark(document, task.position + i, e);
                        ASSERT_EQ(served[static_cast<size_t>(2 * (task.row + i) + e)], wanted);
                        ASSERT_EQ(served_columns[static_cast<size_t>(e * M + task.row + i)], wanted);
                    }
            }
        // And home again, changed: rows that were computed elsewhere are changed once, the others are not.
        for (float& value : served) value = -value;
        std::vector<float> home = rows;
        const RowRoute back = round.queries.reversed();
        const RowPart part = RowPart::rows(back, matrix(served, {M, 2}), matrix(home, {N, 2}));
        exchange.pack({part}, {});
        exchange.begin();
        exchange.end({});
        copy_own(part, world.rank(), {});
        int64_t changed = 0, moved = 0;
        for (size_t i = 0; i < rows.size(); ++i) {
            ASSERT_EQ(std::abs(home[i]), rows[i]);
            changed += home[i] != rows[i];
        }
        for (int peer = 0; peer < c.ranks; ++peer) moved += 2 * round.queries.out.rows(peer);
        EXPECT_NEAR(changed, moved, 1);  // the mark of the very first element is 0
    });
}

INSTANTIATE_TEST_SUITE_P(Of, RowExchanges, testing::Combine(testing::Range<uint64_t>(1, 9), testing::Bool()));

}  // namespace
}  // namespace plimsoll
