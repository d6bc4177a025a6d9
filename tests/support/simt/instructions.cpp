// Warp-wide instructions of sm_80, by the PTX ISA: which lane holds which element of a fragment.
// Sums run in fp32 in ascending order of k; tensor cores add in an order of their own, so results agree to a tolerance.
#include <bit>
#include <string>

#include "hopper.cuh"
#include "simt/block.h"
#include "simt/detector.h"

namespace plimsoll::device {
namespace {

float widen(uint32_t bits) {
    return std::bit_cast<float>(bits << 16);
}

// To nearest, ties to even; NaN stays NaN.
uint32_t round_to_bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

struct MatrixLane {
    uint32_t* result;
    const uint16_t* row;  // lane 8 m + i points at row i of matrix m
};

void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, const void* site) {
    const simt::EnterEmulator enter;
    if (reinterpret_cast<uintptr_t>(row) % 16)
        throw simt::EmulationError("ldmatrix: a row that is not 16-byte aligned");
    simt::note_access(row, 16, simt::Access::kRead, site);
    MatrixLane lane{r, static_cast<const uint16_t*>(row)};
    if (transposed) {
        simt::warp_collective(
            ~0u,
            [](void** lanes, unsigned) {
                for (int l = 0; l < 32; ++l)
                    for (int m = 0; m < 4; ++m) {
                        const auto element = [&](int i) {
                            return uint32_t{static_cast<MatrixLane*>(lanes[8 * m + 2 * (l % 4) + i])->row[l / 4]};
                        };
                        static_cast<MatrixLane*>(lanes[l])->result[m] = element(0) | element(1) << 16;
                    }
            },
            &lane, "ldmatrix.x4.trans", simt::Order::kNone);
    } else {
        simt::warp_collective(
            ~0u,
            [](void** lanes, unsigned) {
                for (int l = 0; l < 32; ++l)
                    for (int m = 0; m < 4; ++m) {
                        const uint16_t* from = static_cast<MatrixLane*>(lanes[8 * m + l / 4])->row + 2 * (l % 4);
                        static_cast<MatrixLane*>(lanes[l])->result[m] = from[0] | uint32_t{from[1]} << 16;
                    }
            },
            &lane, "ldmatrix.x4", simt::Order::kNone);
    }
}

struct MmaLane {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
};

void multiply(void** lanes, unsigned) {
    float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < 32; ++l) {
        const auto& lane = *static_cast<MmaLane*>(lanes[l]);
        const int g = l / 4, t = l % 4;
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i)
                a[g + 8 * (i % 2)][2 * t + half + 8 * (i / 2)] = widen(lane.a[i] >> 16 * half & 0xffffu);
            for (int i = 0; i < 2; ++i) b[2 * t + half + 8 * i][g] = widen(lane.b[i] >> 16 * half & 0xffffu);
        }
        for (int i = 0; i < 4; ++i) c[g + 8 * (i / 2)][2 * t + i % 2] = lane.c[i];
    }
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < 16; ++k)
            for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) static_cast<MmaLane*>(lanes[l])->c[i] = c[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
}

}  // namespace

uint32_t pack_bf16(float low, float high) {
    return round_to_bf16(low) | round_to_bf16(high) << 16;
}

void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    load_matrices(r, row, false, __builtin_return_address(0));
}

void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    load_matrices(r, row, true, __builtin_return_address(0));
}

void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
    const void* site = __builtin_return_address(0);
    const simt::EnterEmulator enter;
    if (reinterpret_cast<uintptr_t>(row) % 16)
        throw simt::EmulationError("stmatrix: a row that is not 16-byte aligned");
    simt::note_access(row, 16, simt::Access::kWrite, site);
    struct Lane {
        uint16_t* row;
        const uint32_t* from;
    } lane{static_cast<uint16_t*>(row), r};
    simt::warp_collective(
        ~0u,
        [](void** lanes, unsigned) {
            for (int l = 0; l < 32; ++l)
                for (int m = 0; m < 4; ++m) {
                    uint16_t* to = static_cast<Lane*>(lanes[8 * m + l / 4])->row + 2 * (l % 4);
                    const uint32_t pair = static_cast<Lane*>(lanes[l])->from[m];
                    to[0] = static_cast<uint16_t>(pair), to[1] = static_cast<uint16_t>(pair >> 16);
                }
        },
        &lane, "stmatrix.x4", simt::Order::kNone);
}

void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    MmaLane lane{c, a, {b0, b1}};
    simt::warp_collective(~0u, multiply, &lane, "mma.m16n8k16", simt::Order::kNone);
}

}  // namespace plimsoll::device
