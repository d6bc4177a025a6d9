#include "train/export/tensor_types.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/dtype.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr int64_t kQ8Block = 32;
constexpr float kLargestHalf = 65504.0f;

// ggml.h of ggml 0.25.
constexpr TensorTypeInfo kTypes[] = {
    {0, "f32", 1, 4},       {1, "f16", 1, 2},       {2, "q4_0", 32, 18},    {3, "q4_1", 32, 20},
    {6, "q5_0", 32, 22},    {7, "q5_1", 32, 24},    {8, "q8_0", 32, 34},    {9, "q8_1", 32, 36},
    {10, "q2_k", 256, 84},  {11, "q3_k", 256, 110}, {12, "q4_k", 256, 144}, {13, "q5_k", 256, 176},
    {14, "q6_k", 256, 210}, {15, "q8_k", 256, 292}, {24, "i8", 1, 1},       {25, "i16", 1, 2},
    {26, "i32", 1, 4},      {27, "i64", 1, 8},      {28, "f64", 1, 8},      {30, "bf16", 1, 2},
};

struct Q8Block {
    uint16_t scale;
    int8_t values[kQ8Block];
};
static_assert(sizeof(Q8Block) == 34);

template <class T>
void append(std::string& out, const T& value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

template <class T>
T read(std::span<const std::byte> bytes, size_t index) {
    T value;
    std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
    return value;
}

Q8Block q8_block(std::span<const float> x, std::string_view what) {
    float most = 0;
    for (const float value : x) most = std::max(most, std::abs(value));
    const float scale = most / 127.0f, inverse = scale != 0 ? 1.0f / scale : 0.0f;
    if (scale > kLargestHalf) fail_input("{}: value {} is too large for q8_0; choose bf16 or f32", what, most);
    Q8Block block{.scale = half_of(scale), .values = {}};
    for (size_t i = 0; i < x.size(); ++i) block.values[i] = static_cast<int8_t>(std::round(x[i] * inverse));
    return block;
}

}  // namespace

const TensorTypeInfo* find_type(uint32_t number) {
    const auto found = std::ranges::find(kTypes, number, &TensorTypeInfo::number);
    return found == std::end(kTypes) ? nullptr : found;
}

const TensorTypeInfo& info_of(TensorType type) {
    const TensorTypeInfo* info = find_type(static_cast<uint32_t>(type));
    check(info != nullptr, "tensor type {}", static_cast<uint32_t>(type));
    return *info;
}

std::string_view name_of(TensorType type) {
    return info_of(type).name;
}

int64_t bytes_of(TensorType type, int64_t elements) {
    const TensorTypeInfo& info = info_of(type);
    check(elements % info.block == 0, "{} elements in blocks of {}", elements, info.block);
    return elements / info.block * info.bytes;
}

uint16_t half_of(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    const auto with_sign = [&](uint32_t half) { return static_cast<uint16_t>(sign | half); };
    if (magnitude > 0x7f800000u) return with_sign(0x7e00u);   // NaN
    if (magnitude >= 0x477ff000u) return with_sign(0x7c00u);  // from 65520 on the nearest is infinity
    if (magnitude < 0x38800000u)                              // below 2^-14: a multiple of 2^-24
        return with_sign(static_cast<uint32_t>(std::lrint(std::bit_cast<float>(magnitude) * 0x1p24f)));
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return with_sign((rounded - 0x38000000u) >> 13);
}

float from_half(uint16_t bits) {
    const uint32_t sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
    if (exponent == 0) {
        const float value = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

void encode(std::string& out, std::span<const float> values, TensorType type, std::string_view what) {
    for (const float value : values)
        if (!std::isfinite(value)) fail_input("{}: a value is {}; this model cannot be used", what, value);
    switch (type) {
        case TensorType::kF32:
            out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
            return;
        case TensorType::kF16:
            for (const float value : values) {
                const uint16_t half = half_of(value);
                if ((half & 0x7c00u) == 0x7c00u)
                    fail_input("{}: value {} is beyond f16's {}; choose bf16 or f32", what, value, kLargestHalf);
                append(out, half);
            }
            return;
        case TensorType::kBF16:
            for (const float value : values) append(out, bf16(value).bits);
            return;
        case TensorType::kQ8_0:
            for (size_t i = 0; i < values.size(); i += kQ8Block)
                append(out, q8_block(values.subspan(i, kQ8Block), what));
            return;
        case TensorType::kF64:
            for (const float value : values) append(out, static_cast<double>(value));
            return;
    }
    throw Error(ExitCode::kInternal, fmt::format("no rounding to tensor type {}", static_cast<uint32_t>(type)));
}

void decode(std::span<float> out, std::span<const std::byte> bytes, TensorType type) {
    check(static_cast<int64_t>(bytes.size()) == bytes_of(type, static_cast<int64_t>(out.size())),
          "{} bytes for {} values of {}", bytes.size(), out.size(), name_of(type));
    const auto each = [&](auto&& value) {
        for (size_t i = 0; i < out.size(); ++i) out[i] = value(i);
    };
    switch (type) {
        case TensorType::kF32:
            std::memcpy(out.data(), bytes.data(), bytes.size());
            return;
        case TensorType::kF16:
            return each([&](size_t i) { return from_half(read<uint16_t>(bytes, i)); });
        case TensorType::kBF16:
            return each([&](size_t i) {
                bf16 value;
                value.bits = read<uint16_t>(bytes, i);
                return static_cast<float>(value);
            });
        case TensorType::kQ8_0:
            for (size_t b = 0; b < out.size() / kQ8Block; ++b) {
                const auto block = read<Q8Block>(bytes, b);
                for (size_t i = 0; i < kQ8Block; ++i)
                    out[b * kQ8Block + i] = from_half(block.scale) * static_cast<float>(block.values[i]);
            }
            return;
        case TensorType::kF64:
            return each([&](size_t i) { return static_cast<float>(read<double>(bytes, i)); });
    }
    throw Error(ExitCode::kInternal, fmt::format("no values of tensor type {}", static_cast<uint32_t>(type)));
}

}  // namespace plimsoll
