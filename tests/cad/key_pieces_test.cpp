#include "dist/cad/key_pieces.h"

#include <gtest/gtest.h>

#include "kernels/error.h"

#include "support/cad_oracles.h"

namespace plimsoll {
namespace {

// Blocks of 16 rows, and a different cost for everything that travels.
CaOptions small_options(int servers) {
    return {.servers = servers,
            .min_gain = 0,
            .block = 16,
            .costs = {.query_out = 1000, .query_back = 300, .key_out = 70, .key_back = 11, .pair_out = 5}};
}

void expect_delivered(const CaPlan& plan, const CaCase& c, const CaOptions& options) {
    const CaKeys keys = keys_of(plan, c.segments, options);
    KeyDelivery delivery(plan, keys, c, options);
    ASSERT_EQ(delivery.run(), "");
    const CaBytes bytes = bytes_of(plan, keys, c.segments, options);
    ASSERT_EQ(bytes.sent, delivery.bytes.sent);
    ASSERT_EQ(bytes.received, delivery.bytes.received);
}

TEST(CadKeyPieces, EveryTaskGetsItsKeysAndNobodyMore) {
    CaRandom random(11);
    int relayed = 0;
    for (int round = 0; round < 400; ++round) {
        const auto servers = static_cast<int>(random.within(1, 9));
        const auto draw = [&] { return random.chance(0.2) ? random.within(200, 900) : random.within(1, 90); };
        const int64_t tokens = random.within(50, 300);
        const CaCase c = round % 3 == 0   ? whole_documents(servers, tokens, draw)
                         : round % 3 == 1 ? spanning_documents(servers, tokens, draw)
                                          : zigzag_documents(servers, tokens, draw);
        CaOptions options = small_options(servers);
        options.two_hop = round % 5 != 0;
        if (round % 7 == 1) options.window = 50;
        if (round % 7 == 2) options.window = 50, options.pinned = 20;
        const CaPlan plan = plan_core_attention(c.segments, options);
        ASSERT_EQ(problem_with(plan, c.segments, options), "");
        ASSERT_NO_FATAL_FAILURE(expect_delivered(plan, c, options)) << round;
        ASSERT_NO_FATAL_FAILURE(expect_delivered(plan_nothing(c.segments), c, options)) << round;
        for (const CaKeyPiece& piece : keys_of(plan, c.segments, options).pieces) relayed += piece.relay >= 0;
        // Any assignment of blocks, such as no planner makes.
        CaPlan scattered{.moves = true};
        for (const CaTask& task : plan_nothing(c.segments).tasks)
            for (int64_t begin = task.begin; begin < task.end;) {
                const int64_t end = std::min(task.end, (begin / options.block + 1) * options.block);
                scattered.tasks.push_back({task.segment, static_cast<int>(random.within(0, servers - 1)), begin, end});
                begin = end;
            }
        ASSERT_NO_FATAL_FAILURE(expect_delivered(scattered, c, options)) << round;
    }
    EXPECT_GT(relayed, 300);
}

TEST(CadKeyPieces, BytesByHand) {
    // Rank 0 owns [0, 48) of a document; ranks 1 and 2 compute its second and third block.
    const CaCase c = documents_of("by hand", {{48}, {}, {}, {}});
    const CaOptions options = small_options(4);
    CaPlan plan{.tasks = {{0, 0, 0, 16}, {0, 1, 16, 32}, {0, 2, 32, 48}}, .moves = true};
    CaBytes bytes = bytes_of(plan, keys_of(plan, c.segments, options), c.segments, options);
    const int64_t queries = 16 * 1000, results = 16 * 300;
    EXPECT_EQ(bytes.sent,
              (std::vector<int64_t>{2 * queries + (32 + 48) * 70 + 2 * 5, results + 32 * 11, results + 48 * 11, 0}));
    EXPECT_EQ(bytes.received,
              (std::vector<int64_t>{2 * results + (32 + 48) * 11, queries + 32 * 70 + 5, queries + 48 * 70 + 5, 0}));
    EXPECT_EQ(bytes.total(), 2 * (queries + results) + 80 * 81 + 10);
    EXPECT_EQ(bytes.most(), bytes.sent[0]);

    // A fourth rank: three need the first block, so it leaves once, to rank 1, which sends it on to 2 and 3.
    plan.tasks = {{0, 1, 0, 16}, {0, 2, 16, 32}, {0, 3, 32, 48}};
    const CaKeys keys = keys_of(plan, c.segments, options);
    ASSERT_EQ(keys.pieces.size(), 3u);
    EXPECT_EQ(keys.pieces[0].relay, 1);
    EXPECT_EQ(keys.pieces[1].relay, -1);
    bytes = bytes_of(plan, keys, c.segments, options);
    EXPECT_EQ(bytes.sent[0], 3 * (queries + 5) + (16 + 2 * 16 + 16) * 70);
    EXPECT_EQ(bytes.sent[1], results + 16 * 11 + 2 * 16 * 70);
    EXPECT_EQ(bytes.received[1], queries + 5 + 16 * 70 + 2 * 16 * 11);
    int64_t sent_on = 0, sums_home = 0;
    for_each_transfer(plan, keys, c.segments, options, [&](CaHop hop, int from, int to, int64_t count) {
        if (hop == CaHop::kOutAgain) {
            EXPECT_EQ(from, 1);
            sent_on += count;
        }
        if (hop == CaHop::kBackAgain) {
            EXPECT_EQ(std::pair(from, to), std::pair(1, 0));
            sums_home += count;
        }
    });
    EXPECT_EQ(sent_on, 2 * 16 * 70);
    EXPECT_EQ(sums_home, 16 * 11);
}

// The pieces with each server in turn as relay.
CaKeys in_turn(CaKeys keys, int64_t block) {
    std::vector<CaKeyPiece> pieces;
    for (CaKeyPiece piece : keys.pieces)
        for (const int64_t end = piece.end; piece.begin < end; piece.begin = piece.end) {
            piece.end = piece.relay < 0 ? end : std::min(end, (piece.begin / block + 1) * block);
            const int64_t turn = piece.begin / block % (piece.last_server - piece.first_server);
            if (piece.relay >= 0) piece.relay = keys.servers[static_cast<size_t>(piece.first_server + turn)];
            pieces.push_back(piece);
        }
    keys.pieces = pieces;
    return keys;
}

TEST(CadKeyPieces, RelaysAreThoseWithTheLeastToDo) {
    double most = 0, most_in_turn = 0;
    for (uint64_t seed = 0; seed < 6; ++seed) {
        CaRandom random(seed);
        const CaCase c =
            spanning_documents(64, 131072, [&] { return draw_length(LengthModel::kPretrain, 524288, random); });
        const CaOptions options = llama_8b(64);
        const CaPlan plan = plan_core_attention(c.segments, options);
        const CaKeys keys = keys_of(plan, c.segments, options), turns = in_turn(keys, options.block);
        const CaBytes bytes = bytes_of(plan, keys, c.segments, options);
        const CaBytes turn_bytes = bytes_of(plan, turns, c.segments, options);
        EXPECT_EQ(bytes.total(), turn_bytes.total());
        EXPECT_LE(bytes.most(), turn_bytes.most());
        most += static_cast<double>(*std::ranges::max_element(bytes.sent)) / (1 << 20) / 6;
        most_in_turn += static_cast<double>(*std::ranges::max_element(turn_bytes.sent)) / (1 << 20) / 6;
    }
    fmt::print("the worst sender of 64: {:.0f} MiB, with relays in turn {:.0f} MiB\n", most, most_in_turn);
    EXPECT_LE(most, 0.9 * most_in_turn);
}

TEST(CadKeyPieces, OneRangePerServerAndDocumentWithoutAWindow) {
    const CaCase c = documents_of("two", {{4096, 2048}, {}});
    const CaOptions options = llama_8b(2);
    const CaPlan plan{
        .tasks = {{0, 1, 0, 128}, {0, 0, 128, 1024}, {0, 1, 1024, 2048}, {0, 0, 2048, 4096}, {1, 0, 0, 2048}},
        .moves = true};
    const CaKeys keys = keys_of(plan, c.segments, options);
    ASSERT_EQ(keys.ranges.size(), 3u);
    EXPECT_EQ(keys.ranges[2].server, 1);
    EXPECT_EQ(keys.ranges[2].end, 2048);
    EXPECT_EQ(keys.ranges[2].last_task - keys.ranges[2].first_task, 2);
    ASSERT_EQ(keys.pieces.size(), 1u);
    EXPECT_EQ(keys.pieces[0].end, 2048);
}

}  // namespace
}  // namespace plimsoll
