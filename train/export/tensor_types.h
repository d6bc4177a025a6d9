// Element types of tensors in files of other programs, and rounding to them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace plimsoll {

// Values are ggml's (ggml_type), as GGUF files have them.
enum class TensorType : uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kF64 = 28, kBF16 = 30 };

// How a type is stored: blocks of some elements in some bytes. ggml's types beyond those above are known by size only.
struct TensorTypeInfo {
    uint32_t number;
    std::string_view name;  // "f32", "q8_0"
    int64_t block;          // elements
    int64_t bytes;          // of a block
};
// Null for a number that is no type.
const TensorTypeInfo* find_type(uint32_t number);
const TensorTypeInfo& info_of(TensorType type);
std::string_view name_of(TensorType type);
// Bytes of so many elements, a multiple of the type's block.
int64_t bytes_of(TensorType type, int64_t elements);

// Rounds to nearest, ties to even, overflow to infinity. NaN stays NaN.
uint16_t half_of(float value);
float from_half(uint16_t bits);

// Appends the values in `type`, little-endian. f16, bf16: round to nearest, ties to even. q8_0, per 32 values as ggml's
// reference: d = max |x| / 127 as f16, then round(x * 127 / max |x|), halves away from zero, as int8.
// Throws Error (78) naming `what` for a value that is not finite or, of f16 and of a q8_0 scale, too large.
void encode(std::string& out, std::span<const float> values, TensorType type, std::string_view what);
// The values of bytes_of(type, out.size()) bytes, in fp32. f64 is rounded.
void decode(std::span<float> out, std::span<const std::byte> bytes, TensorType type);

}  // namespace plimsoll
