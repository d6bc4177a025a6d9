#include "data/bigram_counts.h"

#include <array>

#include "kernels/error.h"

namespace plimsoll {

BigramCounts count_bigrams(std::string_view text, std::string_view name) {
    if (text.size() < 2) fail_input("{}: {} characters, wanted at least 2 to count pairs", name, text.size());
    std::array<int64_t, 256> id_of{};
    for (const char c : text) id_of[static_cast<unsigned char>(c)] = 1;
    BigramCounts counts;
    for (size_t byte = 0; byte < id_of.size(); ++byte) {
        if (id_of[byte] == 0) continue;
        id_of[byte] = counts.n();
        counts.characters.push_back(static_cast<char>(byte));
    }
    const int64_t n = counts.n();
    counts.unigrams.assign(static_cast<size_t>(n), 0);
    counts.bigrams.assign(static_cast<size_t>(n * n), 0);
    int64_t previous = -1;
    for (const char c : text) {
        const int64_t id = id_of[static_cast<unsigned char>(c)];
        ++counts.unigrams[static_cast<size_t>(id)];
        if (previous >= 0) ++counts.bigrams[static_cast<size_t>(previous * n + id)];
        previous = id;
    }
    return counts;
}

BigramCounts tiny_shakespeare_bigrams() {
    const BigramTable& table = kTinyShakespeareBigrams;
    BigramCounts counts{.characters = std::string(table.characters),
                        .unigrams = {table.unigrams.begin(), table.unigrams.end()},
                        .bigrams = std::vector<int64_t>(table.characters.size() * table.characters.size())};
    for (const BigramTable::Pair& pair : table.pairs) {
        counts.bigrams[static_cast<size_t>(pair.first * counts.n() + pair.second)] = pair.count;
    }
    return counts;
}

std::string bigram_table_source(const BigramCounts& counts) {
    constexpr int64_t kNumbersPerLine = 16, kPairsPerLine = 7;
    std::string source =
        "// Written by `plimsoll data bigrams input.txt data/tinyshakespeare_bigrams.cpp`; do not edit.\n"
        "// Text: karpathy/char-rnn, data/tinyshakespeare/input.txt. Ids count the distinct characters in ascending "
        "order.\n"
        "// clang-format off\n"
        "#include \"data/bigram_counts.h\"\n\nnamespace plimsoll {\nnamespace {\n\n"
        "constexpr char kCharacters[] = {";
    for (int64_t id = 0; id < counts.n(); ++id) {
        source += fmt::format("{}{},", id % kNumbersPerLine == 0 ? "\n    " : " ",
                              static_cast<int>(static_cast<signed char>(counts.characters[static_cast<size_t>(id)])));
    }
    source += "\n};\n\nconstexpr int32_t kUnigrams[] = {";
    for (int64_t id = 0; id < counts.n(); ++id) {
        source +=
            fmt::format("{}{},", id % kNumbersPerLine == 0 ? "\n    " : " ", counts.unigrams[static_cast<size_t>(id)]);
    }
    source += "\n};\n\n// {first, second, count}\nconstexpr BigramTable::Pair kPairs[] = {";
    int64_t written = 0;
    for (int64_t first = 0; first < counts.n(); ++first) {
        for (int64_t second = 0; second < counts.n(); ++second) {
            if (counts.pair(first, second) == 0) continue;
            source += fmt::format("{}{{{}, {}, {}}},", written++ % kPairsPerLine == 0 ? "\n    " : " ", first, second,
                                  counts.pair(first, second));
        }
    }
    return source +
           "\n};\n\n}  // namespace\n\n"
           "const BigramTable kTinyShakespeareBigrams{\n"
           "    .characters = {kCharacters, sizeof kCharacters}, .unigrams = kUnigrams, .pairs = kPairs};\n\n"
           "}  // namespace plimsoll\n";
}

}  // namespace plimsoll
