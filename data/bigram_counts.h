// How often each character follows each other one in a text: all that the Bigram-Backcopy task takes from it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

struct BigramCounts {
    std::string characters;         // the n distinct bytes of the text, ascending: id -> byte
    std::vector<int64_t> unigrams;  // (n) occurrences
    std::vector<int64_t> bigrams;   // (n, n) [first][second]; rows sum to unigrams, less one for the last character

    int64_t n() const { return static_cast<int64_t>(characters.size()); }
    int64_t pair(int64_t first, int64_t second) const { return bigrams[static_cast<size_t>(first * n() + second)]; }
};

// Throws Error (78) if the text has fewer than two characters. `name` stands in the message.
BigramCounts count_bigrams(std::string_view text, std::string_view name);

// The counts of tiny Shakespeare (karpathy/char-rnn, input.txt, 1,115,394 characters, 65 distinct), compiled in, so
// that the task needs no download and no path.
BigramCounts tiny_shakespeare_bigrams();

// C++ source that holds `counts` for tiny_shakespeare_bigrams(): data/tinyshakespeare_bigrams.cpp was made by
//   plimsoll data bigrams input.txt data/tinyshakespeare_bigrams.cpp
std::string bigram_table_source(const BigramCounts& counts);

// The table in that source: only the pairs that occur.
struct BigramTable {
    struct Pair {
        uint8_t first, second;
        int32_t count;
    };
    std::string_view characters;
    std::span<const int32_t> unigrams;
    std::span<const Pair> pairs;
};
extern const BigramTable kTinyShakespeareBigrams;

}  // namespace plimsoll
