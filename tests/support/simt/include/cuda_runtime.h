// What the CUDA toolkit's header of this name provides, as far as plimsoll's kernels use it, on the emulated device:
// qualifiers, vector types, built-in variables, warp functions, atomics, intrinsics. The host's side is in
// simt/host_runtime.h. Written for this emulator; no part of the toolkit is needed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simt/host_runtime.h"
#include "simt/machine.h"

// __shared__ has no meaning for a host compiler: kernels write PLIMSOLL_SHARED (device.cuh).
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

#define threadIdx (::simt::running->thread)
#define blockIdx (::simt::running->block)
#define blockDim (::simt::running->block_dim)
#define gridDim (::simt::running->grid_dim)

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

#define __syncthreads() ::simt::barrier(0, 0, __COUNTER__ + 1)
inline void __syncwarp(unsigned mask = ~0u) {
    ::simt::warp_collective(mask, nullptr, nullptr, "__syncwarp", ::simt::Order::kMemory);
}
inline void __threadfence() {}

namespace simt {

template <class T>
struct ShuffleLane {
    T value;
    int from;
    T result;
};

template <class T>
T shuffle(unsigned mask, T value, int from, const char* what) {
    ShuffleLane<T> lane{value, from, T{}};
    warp_collective(
        mask,
        [](void** lanes, unsigned members) {
            for (int l = 0; l < 32; ++l) {
                if (!(members >> l & 1)) continue;
                auto& me = *static_cast<ShuffleLane<T>*>(lanes[l]);
                if (!(members >> me.from & 1))
                    throw EmulationError("shuffle reads lane " + std::to_string(me.from) + ", which takes no part");
                me.result = static_cast<ShuffleLane<T>*>(lanes[me.from])->value;
            }
        },
        &lane, what, Order::kNone);
    return lane.result;
}

inline int lane_index() {
    const ThreadView& v = *running;
    return static_cast<int>((v.thread.x + v.block_dim.x * (v.thread.y + v.block_dim.y * v.thread.z)) % 32);
}

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int lane = ::simt::lane_index();
    return ::simt::shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)), "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
    const int lane = ::simt::lane_index(), from = lane ^ flip;
    return ::simt::shuffle(mask, value, from <= (lane | (width - 1)) ? from : lane, "__shfl_xor_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int distance, int width = 32) {
    const int lane = ::simt::lane_index(), from = lane + distance;
    return ::simt::shuffle(mask, value, from <= (lane | (width - 1)) ? from : lane, "__shfl_down_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance, int width = 32) {
    const int lane = ::simt::lane_index(), from = lane - distance;
    return ::simt::shuffle(mask, value, from >= (lane & ~(width - 1)) ? from : lane, "__shfl_up_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    struct Lane {
        int predicate;
        unsigned result;
    } lane{predicate, 0};
    ::simt::warp_collective(
        mask,
        [](void** lanes, unsigned members) {
            unsigned votes = 0;
            for (int l = 0; l < 32; ++l)
                if (members >> l & 1 && static_cast<Lane*>(lanes[l])->predicate) votes |= 1u << l;
            for (int l = 0; l < 32; ++l)
                if (members >> l & 1) static_cast<Lane*>(lanes[l])->result = votes;
        },
        &lane, "__ballot_sync", ::simt::Order::kNone);
    return lane.result;
}
inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}

// Blocks run one after the other and threads change only at the emulator's calls, so a plain sum is atomic.
template <class T>
__attribute__((no_sanitize("thread"))) T atomicAdd(T* address, T value) {
    ::simt::note_atomic(address, sizeof(T));
    const T before = *address;
    *address = before + value;
    return before;
}
template <class T>
__attribute__((no_sanitize("thread"))) T atomicMax(T* address, T value) {
    ::simt::note_atomic(address, sizeof(T));
    const T before = *address;
    *address = before < value ? value : before;
    return before;
}

template <class T>
T __ldg(const T* address) {
    return *address;
}
inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
// sin and cos of pi x.
inline float sinpif(float x) {
    return static_cast<float>(std::sin(3.141592653589793 * x));
}
inline float cospif(float x) {
    return static_cast<float>(std::cos(3.141592653589793 * x));
}
inline float rsqrtf(float x) {
    return 1.0f / std::sqrt(x);
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline int __float_as_int(float x) {
    return static_cast<int>(__float_as_uint(x));
}
