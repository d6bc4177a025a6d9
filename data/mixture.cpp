#include "data/mixture.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int kShareBits = 32;

int64_t taken(int64_t samples, uint64_t share) {
    return static_cast<int64_t>((static_cast<unsigned __int128>(samples) * share) >> kShareBits);
}

}  // namespace

Mixture::Mixture(std::span<const double> weights) {
    check(!weights.empty(), "a mixture needs at least one source");
    double left = 0.0;
    for (const double weight : weights) {
        check(weight > 0.0 && std::isfinite(weight), "mixture weight {} is not positive", weight);
        left += weight;
    }
    for (const double weight : weights) {
        const long long share = std::llround(std::ldexp(weight / left, kShareBits));
        shares_.push_back(static_cast<uint64_t>(std::clamp(share, 1ll, (1ll << kShareBits) - 1)));  // nobody starves
        left -= weight;
    }
    shares_.back() = uint64_t{1} << kShareBits;  // the last source takes all that is left
}

Mixture::Place Mixture::place(int64_t sample) const {
    int64_t source = 0;
    while (true) {
        const uint64_t share = shares_[static_cast<size_t>(source)];
        const int64_t before = taken(sample, share);
        if (taken(sample + 1, share) > before) return {.source = source, .index = before};
        sample -= before;
        ++source;
    }
}

int64_t Mixture::count(int64_t source, int64_t samples) const {
    for (int64_t earlier = 0; earlier < source; ++earlier)
        samples -= taken(samples, shares_[static_cast<size_t>(earlier)]);
    return taken(samples, shares_[static_cast<size_t>(source)]);
}

}  // namespace plimsoll
