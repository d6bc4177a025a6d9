// How long documents are: models of published corpora, a list, or what a corpus holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/config.h"
#include "kernels/random.h"

namespace plimsoll {

// What long-context training makes of a corpus' lengths, in this order. DistCA, arXiv:2510.18121, and its released
// scripts: documents of `long_from` tokens and more twice as often and nine tenths of the others; a share of the long
// ones replaced by whole contexts; lengths times context / 64 Ki.
struct LengthRules {
    int64_t context = 131072;     // longer documents end there
    double long_weight = 1;       // documents of `long_from` and more, relative to the corpus
    double short_weight = 1;      // the others
    int64_t long_from = 65536;    // tokens, before lengthening
    double replaced = 0;          // share of long documents that become as long as the context
    int64_t lengthened_from = 0;  // lengths times max(1, context / lengthened_from); 0 = as they are
};

// Lengths by index: a pure function of (seed, source, rules, index).
class DocumentLengths {
  public:
    // "pretrain": mean 3,962, median 3,227, p99 26,070, at most 124,913 tokens; documents of 32 Ki and more are 0.9 %
    // of the documents, 17 % of the tokens and 78 % of the squared lengths. 0.83 % are drawn uniformly from [32768,
    // 124913), 0.44 % from [8192, 32768), the others are normal (3040, 1880); below 64 all is drawn again. A lognormal
    // body cannot fit: one as narrow as this mean and tail ask for has its median at 2,745. "prolong": mean 3,052,
    // median 1,914, p99 16,273, at most 340,149; 0.2 %, 4.9 % and 53 %. 0.2 % Pareto (1.3) cut to [32768, 340149], the
    // others lognormal with median 1914 and sigma 0.9, in [32, 32768). Throws Error (78) for another name, or rules
    // outside of their ranges.
    DocumentLengths(const std::string& model, const LengthRules& rules, uint64_t seed);
    // Draws from a list, with repetition. `what` names it in messages. Throws Error (78) if it is empty or holds a
    // length below 1.
    DocumentLengths(std::vector<int64_t> lengths, const std::string& what, const LengthRules& rules, uint64_t seed);

    int64_t operator()(int64_t index) const;

  private:
    int64_t raw(const RandomStream& draws, uint64_t index) const;

    std::string model_;
    std::vector<int64_t> list_;
    LengthRules rules_;
    uint64_t seed_;
};

// One length per line; empty lines and lines that begin with # are passed over. Throws Error (78) naming file and line.
std::vector<int64_t> read_lengths(const std::string& path);
// Lengths of the documents in the first `rows` training rows of `context` tokens, as the loader cuts them: documents
// end at row edges. Needs data.document_mask. Throws Error (78).
std::vector<int64_t> lengths_of_corpus(const DataConfig& config, int64_t context, int64_t rows, uint64_t seed);
// Lengths of whole documents, by the index files beside the shards that match `pattern`. Throws Error (78).
std::vector<int64_t> lengths_of_shards(const std::string& pattern);

}  // namespace plimsoll
