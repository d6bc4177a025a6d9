#include "data/unicode_classes.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

namespace plimsoll {
namespace {

constexpr uint32_t kRanges[] = {
#include "data/unicode_classes.inc"
};

constexpr CharClass look_up(char32_t code) {
    const auto after = std::upper_bound(std::begin(kRanges), std::end(kRanges), static_cast<uint32_t>(code) << 2 | 3);
    return static_cast<CharClass>(*(after - 1) & 3);
}

constexpr std::array<CharClass, 128> kAscii = [] {
    std::array<CharClass, 128> classes{};
    for (size_t code = 0; code < classes.size(); ++code) classes[code] = look_up(static_cast<char32_t>(code));
    return classes;
}();

}  // namespace

CharClass char_class(char32_t code) {
    if (code < kAscii.size()) return kAscii[code];
    return code <= 0x10ffff ? look_up(code) : CharClass::kOther;
}

}  // namespace plimsoll
