// Documents on ranks, for tests of plans: two published length distributions, hand-made worst cases, random jobs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "dist/cad/plan.h"

namespace plimsoll {

struct CaCase {
    std::string name;
    int servers = 1;
    std::vector<CaSegment> segments;
};

// The same numbers with every standard library: its distributions are not specified to the bit.
class CaRandom {
  public:
    explicit CaRandom(uint64_t seed) : bits_(seed) {}
    double uniform() { return static_cast<double>(bits_() >> 11) * 0x1p-53; }
    double normal() {
        const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
        return radius * std::cos(2.0 * std::numbers::pi * uniform());
    }
    int64_t within(int64_t low, int64_t high) { return low + static_cast<int64_t>(bits_() % uint64_t(high - low + 1)); }
    bool chance(double probability) { return uniform() < probability; }

  private:
    std::mt19937_64 bits_;
};

// Lengths like those of the two lists that DistCA (arXiv:2510.18121) is measured with, fitted to their means, medians,
// 99th percentiles and shares of long documents.
enum class LengthModel { kPretrain, kProLong };

inline int64_t draw_length(LengthModel model, CaRandom& random) {
    if (model == LengthModel::kPretrain) {
        const double u = random.uniform();
        if (u < 0.0088) return random.within(32768, 124912);
        if (u < 0.0135) return random.within(8192, 32767);
        for (;;)
            if (const double length = 3040 + 1880 * random.normal(); length >= 64) return static_cast<int64_t>(length);
    }
    if (random.chance(0.002)) {  // Pareto, exponent 1.3, on [32768, 340149]
        const double cut = std::pow(340149.0 / 32768.0, -1.3);
        return static_cast<int64_t>(32768 * std::pow(1 - random.uniform() * (1 - cut), -1 / 1.3));
    }
    for (;;) {
        const double length = 1914 * std::exp(0.9 * random.normal());
        if (length >= 32 && length < 32768) return static_cast<int64_t>(length);
    }
}

// As published experiments raise the context: documents from 64K on twice as often against 0.9 of the others, of
// ProLong 30% of these replaced by a full context, all lengths times context / 64K, cut at the context.
inline int64_t draw_length(LengthModel model, int64_t context, CaRandom& random) {
    for (;;) {
        const int64_t length = draw_length(model, random);
        const bool is_long = length >= 65536;
        if (!is_long && !random.chance(0.45)) continue;
        if (model == LengthModel::kProLong && is_long && random.chance(0.3)) return context;
        const int64_t factor = std::max<int64_t>(1, context / 65536);
        return std::min(context, length * factor + random.within(0, factor - 1));
    }
}

// Every rank has `tokens` tokens of documents of its own, the last one cut.
inline CaCase whole_documents(int servers, int64_t tokens, const std::function<int64_t()>& draw) {
    CaCase c{"whole", servers, {}};
    for (int r = 0; r < servers; ++r)
        for (int64_t used = 0; used < tokens;) {
            const int64_t length = std::min(draw(), tokens - used);
            c.segments.push_back({static_cast<int64_t>(c.segments.size()), r, 0, length});
            used += length;
        }
    return c;
}

// Documents one after another over ranks of `tokens` tokens.
inline CaCase spanning_documents(int servers, int64_t tokens, const std::function<int64_t()>& draw) {
    CaCase c{"spanning", servers, {}};
    int64_t used = 0, document = 0;
    for (const int64_t all = servers * tokens; used < all; ++document) {
        const int64_t length = std::min(draw(), all - used);
        for (int64_t begin = 0; begin < length;) {
            const int64_t rows = std::min(length - begin, tokens - used % tokens);
            c.segments.push_back({document, static_cast<int>(used / tokens), begin, begin + rows});
            begin += rows, used += rows;
        }
    }
    return c;
}

// The same with each rank's part of a spanning document halved: one piece from its front, one from its back.
inline CaCase zigzag_documents(int servers, int64_t tokens, const std::function<int64_t()>& draw) {
    const CaCase straight = spanning_documents(servers, tokens, draw);
    CaCase c{"zigzag", servers, {}};
    for (size_t first = 0, last = 0; first < straight.segments.size(); first = last) {
        while (last < straight.segments.size() && straight.segments[last].document == straight.segments[first].document)
            ++last;
        int64_t front = 0, back = straight.segments[last - 1].end;
        std::vector<CaSegment> backs;
        for (size_t i = first; i < last; ++i) {
            const CaSegment& s = straight.segments[i];
            const int64_t rows = s.end - s.begin;
            const int64_t head = i + 1 == last ? rows : std::min(rows, (rows / 2 + 127) / 128 * 128);
            c.segments.push_back({s.document, s.home, front, front + head});
            front += head;
            if (head == rows) continue;
            backs.push_back({s.document, s.home, back - (rows - head), back});
            back -= rows - head;
        }
        c.segments.insert(c.segments.end(), backs.rbegin(), backs.rend());
    }
    return c;
}

// Documents by rank.
inline CaCase documents_of(std::string name, const std::vector<std::vector<int64_t>>& lengths) {
    CaCase c{std::move(name), static_cast<int>(lengths.size()), {}};
    for (size_t r = 0; r < lengths.size(); ++r)
        for (const int64_t length : lengths[r])
            c.segments.push_back({static_cast<int64_t>(c.segments.size()), static_cast<int>(r), 0, length});
    return c;
}

// Cases in which published rules leave the load as it is, or blocks are coarse, or documents many and small.
inline std::vector<CaCase> adversarial_cases(int servers) {
    using Lengths = std::vector<int64_t>;
    const auto with_first = [&](std::string name, std::vector<Lengths> first, const Lengths& rest) {
        first.resize(static_cast<size_t>(servers), rest);
        return documents_of(std::move(name), first);
    };
    std::vector<CaCase> cases{
        with_first("131072 against 69632", {{131072}}, {69632}),
        with_first("98304 against 65536", {{98304}}, {65536}),
        with_first("65536 against 40000", {{65536}}, {40000}),
        with_first("a giant against many of 2048", {{131072}}, Lengths(64, 2048)),
        with_first("a giant, the other ranks empty", {{131072}}, {}),
        with_first("all equal", {}, Lengths(8, 16384)),
        with_first("two giants on a rank", {{65536, 65536}}, Lengths(64, 2048)),
        with_first("many tiny documents", {Lengths(128, 1024), Lengths(64, 2048)}, Lengths(256, 512)),
        with_first("odd lengths and an empty rank", {{65537}, {99991, 31}, {}}, Lengths(100, 1001)),
    };
    const auto packed = [&](std::string name, int64_t longs) {
        int64_t drawn = 0;
        CaCase c = spanning_documents(servers, 131072, [&] { return drawn++ < longs ? 524288 : 4096; });
        c.name = std::move(name);
        cases.push_back(std::move(c));
    };
    packed("one of 512K over four ranks, the others equal", 1);
    packed("all of 512K over four ranks", servers / 4);
    return cases;
}

enum class RandomKind { kTiny, kLogUniform, kPretrain, kProLong, kGiants, kCount };

// 2 to 64 ranks of up to `most_tokens` tokens: documents one after another, or whole on random ranks, 10% of them on
// the first.
inline CaCase random_case(RandomKind kind, int64_t most_tokens, CaRandom& random) {
    const auto servers = static_cast<int>(random.within(2, 64));
    const int64_t tokens = random.within(1000, most_tokens);
    const auto draw = [&]() -> int64_t {
        switch (kind) {
            case RandomKind::kTiny:
                return random.within(1, 300);
            case RandomKind::kLogUniform:
                return 1 + static_cast<int64_t>(std::exp(random.uniform() * 12.5));
            case RandomKind::kPretrain:
                return draw_length(LengthModel::kPretrain, random);
            case RandomKind::kProLong:
                return draw_length(LengthModel::kProLong, random);
            default:
                return random.chance(0.02) ? random.within(100000, 500000) : random.within(1, 5000);
        }
    };
    CaCase c{"random", servers, {}};
    if (random.chance(0.5)) {
        c = spanning_documents(servers, tokens, draw);
    } else {
        for (int64_t used = 0; used < servers * tokens; used += c.segments.back().end) {
            const int home = random.chance(0.1) ? 0 : static_cast<int>(random.within(0, servers - 1));
            c.segments.push_back({static_cast<int64_t>(c.segments.size()), home, 0, draw()});
        }
    }
    c.name = "random kind " + std::to_string(static_cast<int>(kind));
    return c;
}

// LLaMA-3-8B, bf16, forward: queries out, results back, keys and values out.
inline CaOptions llama_8b(int servers) {
    return {.servers = servers, .costs = {.query_out = 8192, .query_back = 8192, .key_out = 4096}};
}
// Backward: q, dout, lse and delta out, dq back; k, v out, dk, dv back in fp32.
inline CaOptions llama_8b_backward(int servers) {
    return {.servers = servers,
            .costs = {.query_out = 16384 + 256, .query_back = 8192, .key_out = 4096, .key_back = 8192}};
}

}  // namespace plimsoll
