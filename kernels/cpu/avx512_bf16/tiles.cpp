// Compiled for AMX and AVX-512 whatever the rest is compiled for: includes nothing of ours with inline functions that
// others could share.
#include "kernels/cpu/avx512_bf16/tiles.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

bool cpu_has_vectors() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16");
}

bool cpu_has_tiles() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // of edx
    return (d & (kAmxBf16 | kAmxTile)) == (kAmxBf16 | kAmxTile);
}

bool system_allows() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of Linux 5.16 and later
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool is_off(const char* variable) {
    const char* wish = std::getenv(variable);
    return wish && std::strcmp(wish, "0") == 0;
}

// bf16 is not defined here.
uint16_t* bits(bf16* p) {
    return reinterpret_cast<uint16_t*>(p);
}
const uint16_t* bits(const bf16* p) {
    return reinterpret_cast<const uint16_t*>(p);
}
const float* bits(const float* p) {
    return p;
}

// Rows of 16 dwords become columns.
void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    constexpr int kEven = 0x88, kOdd = 0xdd;  // of the 128-bit quarters of two registers
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], kEven);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], kOdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], kEven);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], kOdd);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], kEven);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], kOdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], kEven);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], kOdd);
    }
}

// 32 elements of a row, rounded to bf16 if they are fp32.
__m512i load_row(const uint16_t* data, __mmask32 mask) {
    return _mm512_maskz_loadu_epi16(mask, data);
}
__m512i load_row(const float* data, __mmask32 mask) {
    const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
    return in_order(load(data, 0, low), load(data, kLanes, high));
}

// A pair of rows of K as rows of two right tiles, of columns 0-15 and 16-31: a dword has an element of each.
struct Interleaved {
    __m512i low, high;
};
Interleaved interleave(__m512i a, __m512i b) {
    // Quarters of the even and odd interleavings: 0-3 and 4-7 of each 8 columns.
    const __m512i low_order = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
    const __m512i high_order = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    const __m512i even = _mm512_unpacklo_epi16(a, b), odd = _mm512_unpackhi_epi16(a, b);
    return {_mm512_permutex2var_epi64(even, low_order, odd), _mm512_permutex2var_epi64(even, high_order, odd)};
}

// Calls f(i, row) for 32 rows of 32 elements: straight-line code where the block is whole.
template <class Element, class F>
void for_rows(const Element* data, int64_t stride, int64_t rows, int64_t columns, F&& f) {
    if (rows >= kBlock && columns >= kBlock) {
#pragma GCC unroll 32
        for (int64_t i = 0; i < kBlock; ++i) f(i, load_row(data + i * stride, ~__mmask32{0}));
        return;
    }
    const __mmask32 mask = pair_lanes(columns);
#pragma GCC unroll 1
    for (int64_t i = 0; i < kBlock; ++i) f(i, i < rows ? load_row(data + i * stride, mask) : _mm512_setzero_si512());
}

// sums (16) += those of a right tile's columns.
void add_pairs(float* sums, const uint16_t* tile) {
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    __m512 halves[2] = {_mm512_loadu_ps(sums), _mm512_setzero_ps()};
    for (int64_t i = 0; i < 16; ++i)
        halves[i % 2] = _mm512_dpbf16_ps(halves[i % 2], as_pairs(_mm512_load_si512(tile + 32 * i)), as_pairs(ones));
    _mm512_storeu_ps(sums, _mm512_add_ps(halves[0], halves[1]));
}

// A packed tile, turned in place.
void turn_tile(uint16_t* tile) {
    __m512i rows[16];
    for (int64_t i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(tile + 32 * i);
    transpose(rows);
    for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(tile + 32 * i, rows[i]);
}

// Two tiles of 16 rows each, turned or not.
template <bool kTurned, class Element>
void pack_rows(bf16* to, int64_t apart, const Element* from, int64_t stride, int64_t rows, int64_t columns) {
    for_rows(bits(from), stride, rows, columns,
             [&](int64_t i, __m512i row) { _mm512_store_si512(bits(to) + i / 16 * apart + i % 16 * 32, row); });
    if (kTurned) turn_tile(bits(to)), turn_tile(bits(to) + apart);
}
// The tiles of columns 0-15 and 16-31 of 16 pairs of rows, turned or not; `sums`, if not null, get each column's sum.
template <bool kTurned, class Element>
void pack_pairs(bf16* to, int64_t apart, const Element* from, int64_t stride, int64_t rows, int64_t columns,
                float* sums = nullptr) {
    __m512i even = _mm512_setzero_si512();
    for_rows(bits(from), stride, rows, columns, [&](int64_t i, __m512i row) {
        if (i % 2 == 0) {
            even = row;
            return;
        }
        const Interleaved pair = interleave(even, row);
        _mm512_store_si512(bits(to) + i / 2 * 32, pair.low);
        _mm512_store_si512(bits(to) + apart + i / 2 * 32, pair.high);
    });
    if (sums) add_pairs(sums, bits(to)), add_pairs(sums + 16, bits(to) + apart);
    if (kTurned) turn_tile(bits(to)), turn_tile(bits(to) + apart);
}

}  // namespace

bool available() {
    static const bool answer = !is_off("PLIMSOLL_AVX512") && cpu_has_vectors();
    return answer;
}
bool has_tiles() {
    static const bool answer = available() && !is_off("PLIMSOLL_AMX") && cpu_has_tiles() && system_allows();
    return answer;
}
bool is_fast() {
    return has_tiles() || (available() && __builtin_cpu_is("amd"));
}

TileScope::TileScope() {
    if (!has_tiles()) return;
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    } config;
    static_assert(sizeof config == 64);
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    asm volatile("ldtilecfg %0" ::"m"(config));
}
TileScope::~TileScope() {
    _mm_sfence();  // for kStream
    if (has_tiles()) asm volatile("tilerelease");
}

void pack_right(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns) {
    pack_pairs<false>(to, apart, from, stride, rows, columns);
}
void pack_right_turned(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns) {
    pack_rows<true>(to, apart, from, stride, rows, columns);
}
void pack_left(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns) {
    pack_rows<false>(to, apart, from, stride, rows, columns);
}
void pack_left_turned(bf16* to, int64_t apart, const bf16* from, int64_t stride, int64_t rows, int64_t columns,
                      float* sums) {
    pack_pairs<true>(to, apart, from, stride, rows, columns, sums);
}
void pack_left(bf16* to, int64_t apart, const float* from, int64_t stride, int64_t rows, int64_t columns) {
    pack_rows<false>(to, apart, from, stride, rows, columns);
}
void pack_left_turned(bf16* to, int64_t apart, const float* from, int64_t stride, int64_t rows, int64_t columns) {
    pack_pairs<true>(to, apart, from, stride, rows, columns);
}

}  // namespace plimsoll::cpu::avx512_bf16
