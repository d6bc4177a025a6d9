#include "dist/cad/pairs.h"

#include <cmath>

namespace plimsoll {

int64_t PairCount::position_of(int64_t pairs) const {
    // n (n + 1) / 2 = pairs, to within the rounding of a double, which the integers then correct.
    auto root = static_cast<int64_t>((std::sqrt(8.0 * static_cast<double>(pairs) + 1.0) - 1.0) / 2.0);
    while (triangle(root) > pairs) --root;
    while (triangle(root + 1) <= pairs) ++root;
    if (window_ == 0 || root < window_) return root;
    // Every query past the window sees at least `window` keys and at most `window + pinned`.
    int64_t low = window_, high = window_ + (pairs - before(window_)) / window_ + 1;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (before(middle) <= pairs ? low : high) = middle;
    }
    return low;
}

int64_t PairCount::begin_of(int64_t end, int64_t pairs) const {
    const int64_t rest = before(end) - pairs;
    return rest <= 0 ? 0 : position_of(rest);
}

int64_t PairCount::end_of(int64_t begin, int64_t pairs) const {
    const int64_t target = before(begin) + pairs;
    const int64_t position = position_of(target);
    return before(position) < target ? position + 1 : position;
}

KeySpan keys_seen(int64_t begin, int64_t end, const CaOptions& options) {
    if (options.window == 0) return {0, 0, end};
    const int64_t first = std::max<int64_t>(0, begin - options.window + 1) / options.block * options.block;
    const int64_t prefix = (options.pinned + options.block - 1) / options.block * options.block;
    return prefix >= first ? KeySpan{0, 0, end} : KeySpan{prefix, first, end};
}

}  // namespace plimsoll
