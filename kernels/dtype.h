// Element types, bf16 rounding, and the one way to go from a run-time dtype to a template argument.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "kernels/error.h"
#include "kernels/host_device.h"

namespace plimsoll {

enum class DType : uint8_t { kF32, kBF16, kF64, kI32 };

// Brain float: the upper half of an IEEE float. Storage only on the CPU: arithmetic happens in float.
struct bf16 {
    uint16_t bits = 0;

    bf16() = default;
    // Rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
    PLIMSOLL_HD explicit bf16(float value) {
        const uint32_t u = std::bit_cast<uint32_t>(value);
        const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
        const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
        bits = static_cast<uint16_t>(is_nan ? (u >> 16) | 0x40u : rounded);
    }
    PLIMSOLL_HD operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

// Rounds up with the probability of the part that is cut off, by the low 16 bits of `random`: the mean over many draws
// is the value. Not finite values round as always.
PLIMSOLL_HD inline bf16 round_stochastically(float value, uint32_t random) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7f800000u) == 0x7f800000u) return bf16(value);
    bf16 rounded;
    rounded.bits = static_cast<uint16_t>((u + (random & 0xffffu)) >> 16);
    return rounded;
}

constexpr int64_t size_of(DType dtype) {
    switch (dtype) {
        case DType::kF32:
            return 4;
        case DType::kBF16:
            return 2;
        case DType::kF64:
            return 8;
        case DType::kI32:
            return 4;
    }
    return 0;
}

constexpr std::string_view name_of(DType dtype) {
    switch (dtype) {
        case DType::kF32:
            return "fp32";
        case DType::kBF16:
            return "bf16";
        case DType::kF64:
            return "fp64";
        case DType::kI32:
            return "int32";
    }
    return "?";
}

template <class T>
inline constexpr DType kDTypeOf = [] { static_assert(sizeof(T) == 0, "no DType for this type"); }();
template <>
inline constexpr DType kDTypeOf<float> = DType::kF32;
template <>
inline constexpr DType kDTypeOf<bf16> = DType::kBF16;
template <>
inline constexpr DType kDTypeOf<double> = DType::kF64;
template <>
inline constexpr DType kDTypeOf<int32_t> = DType::kI32;

// The type in which sums over T are kept: double for double, else float.
template <class T>
struct AccumulatorOf {
    using type = float;
};
template <>
struct AccumulatorOf<double> {
    using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;
constexpr DType accumulator_of(DType dtype) {
    return dtype == DType::kF64 ? DType::kF64 : DType::kF32;
}

// Calls `f.template operator()<T>()` with the C++ type of a floating dtype; throws for any other.
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f) {
    switch (dtype) {
        case DType::kF32:
            return f.template operator()<float>();
        case DType::kBF16:
            return f.template operator()<bf16>();
        case DType::kF64:
            return f.template operator()<double>();
        default:
            break;
    }
    throw Error(ExitCode::kInternal, fmt::format("no floating-point kernel for dtype {}", name_of(dtype)));
}

}  // namespace plimsoll
