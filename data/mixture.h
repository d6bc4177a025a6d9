// Which of several weighted sources a sample comes from.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace plimsoll {

// Interleaves sources in proportion to their weights, evenly and in closed form: source 0 takes sample i where
// floor((i + 1) w) > floor(i w), w its share of the weight; the samples that remain are counted again and shared among
// the remaining sources in the same way. After any number of samples each source has its share to within one sample per
// earlier source. Shares are rounded to 2^-32. A pure function of the index: no scan, no state, no random number.
class Mixture {
  public:
    struct Place {
        int64_t source;  // which source
        int64_t index;   // how many earlier samples it gave
    };
    // Weights must be positive; they need not sum to one.
    explicit Mixture(std::span<const double> weights);
    Place place(int64_t sample) const;
    // How many of the first `samples` samples come from `source`.
    int64_t count(int64_t source, int64_t samples) const;

  private:
    std::vector<uint64_t> shares_;  // share of what the earlier sources left, in 2^-32
};

}  // namespace plimsoll
