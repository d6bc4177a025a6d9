// The instructions of hopper.cuh (sm_90a); see conformance.cu.
#include "kernels/cuda/sm90/warpgroup.cuh"
#include "kernels/cuda/tensor_map.h"
#include "simt/conformance.h"

namespace plimsoll {
namespace {

using namespace cuda;

// 16-bit element `index` of words in memory.
PLIMSOLL_DEVICE uint16_t element(const uint32_t* words, int index) {
    return static_cast<uint16_t>(words[index / 2] >> 16 * (index % 2));
}

template <class Tile>
PLIMSOLL_DEVICE uint16_t* place(Tile tile, int row, int column) {
    return reinterpret_cast<uint16_t*>(tile.at(row, column / 8 * 8)) + column % 8;
}

// out (64, N) = a (64, K) b (N, K)^T by wgmma, from 64 K and N K words' halves. An operand that is kTransposed lies in
// shared memory with its rows as the reduction, one in registers (kFromRegisters) is a.
template <int N, int K, bool kTransposedA, bool kTransposedB, bool kFromRegisters>
__global__ void __launch_bounds__(kGroupThreads, 1) product_kernel(const uint32_t* input, uint32_t* output) {
#if PLIMSOLL_HAS_SM90A
    PLIMSOLL_DYNAMIC_SHARED(shared);
    using TileA = SwizzledTile<kTransposedA ? K : 64, kTransposedA ? 64 : K>;
    using TileB = SwizzledTile<kTransposedB ? K : N, kTransposedB ? N : K>;
    const TileA a{shared};
    const TileB b{shared + 64 * K * 2};
    const int thread = threadIdx.x, lane = thread % 32, row0 = thread / 32 * 16 + lane / 4;
    for (int i = thread; i < 64 * K; i += kGroupThreads)
        *(kTransposedA ? place(a, i % K, i / K) : place(a, i / K, i % K)) = element(input, i);
    for (int i = thread; i < N * K; i += kGroupThreads)
        *(kTransposedB ? place(b, i % K, i / K) : place(b, i / K, i % K)) = element(input, 64 * K + i);
    device::fence_proxy_async();
    __syncthreads();
    const auto operand_b = [&](int k) { return kTransposedB ? b.mn_major(k) : b.k_major(0, k); };
    float sums[N / 2];
    uint32_t fragment[K / 16][4];
    for (int k = 0; k < K / 16; ++k)
        for (int i = 0; i < 4; ++i)
            fragment[k][i] = input[((row0 + 8 * (i % 2)) * K + 16 * k + 2 * (lane % 4) + 8 * (i / 2)) / 2];
    device::wgmma_fence();
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        if constexpr (kFromRegisters)
            device::wgmma_registers<kTransposedB>(sums, fragment[k / 16], operand_b(k), k > 0);
        else
            device::wgmma_shared<kTransposedA, kTransposedB>(sums, kTransposedA ? a.mn_major(k) : a.k_major(0, k),
                                                             operand_b(k), k > 0);
    }
    device::wgmma_commit();
    device::wgmma_wait<0>();
    device::hold_registers(sums);
    for (int i = 0; i < N / 2; ++i)
        output[(row0 + 8 * (i / 2 % 2)) * N + i / 4 * 8 + 2 * (lane % 4) + i % 2] = __float_as_uint(sums[i]);
#endif
}

template <int N, int K, bool kTransposedA, bool kTransposedB, bool kFromRegisters>
ConformanceCase product_case(const char* name, const char* what) {
    constexpr auto kKernel = product_kernel<N, K, kTransposedA, kTransposedB, kFromRegisters>;
    constexpr int kBytes = (64 + N) * K * 2;
    return {.name = name,
            .input_words = kBytes / 4,
            .output_words = 64 * N,
            .launch =
                [](const uint32_t* input, uint32_t* output) {
                    cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
                    PLIMSOLL_LAUNCH(kKernel, dim3(1), dim3(kGroupThreads), kBytes, nullptr, input, output);
                },
            .architecture = 90,
            .shape = {N, K},
            .what = what};
}

constexpr int kLoadRows = 32, kTensorRows = 20, kFirstRow = -8, kHeads = 3, kBulkBytes = 256;

// A tile of head 1 that begins before the tensor and ends behind it, then bytes; each in a phase of one mbarrier that
// also counts an arrival of each warp.
template <int HS>
__global__ void __launch_bounds__(kGroupThreads, 1)
    load_kernel(const __grid_constant__ device::TensorMap map, const uint32_t* input, uint32_t* output) {
#if PLIMSOLL_HAS_SM90A
    PLIMSOLL_DYNAMIC_SHARED(shared);
    using Tile = SwizzledTile<kLoadRows, HS>;
    const Tile tile{shared};
    auto* barrier = reinterpret_cast<device::Mbarrier*>(shared + Tile::kBytes);
    if (threadIdx.x == 0) {
        device::tma_prefetch(&map);
        device::mbarrier_init(barrier, 5);
        device::mbarrier_init_fence();
    }
    __syncthreads();
    for (int phase = 0; phase < 2; ++phase) {
        if (threadIdx.x == 0) {
            device::mbarrier_arrive_expect(barrier, phase ? kBulkBytes : Tile::kBytes);
            if (phase)
                device::bulk_load(shared, input, kBulkBytes, barrier);
            else
                device::tma_load(shared, &map, barrier, 0, kFirstRow, 0, 1);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) device::mbarrier_arrive(barrier);
        device::mbarrier_wait(barrier, phase);
        const int words = phase ? kBulkBytes / 4 : kLoadRows * HS / 2;
        for (int i = threadIdx.x; i < words; i += kGroupThreads) {
            const int row = 2 * i / HS, column = 2 * i % HS;
            output[i] =
                phase ? reinterpret_cast<uint32_t*>(shared)[i] : *reinterpret_cast<uint32_t*>(place(tile, row, column));
        }
        output += words;
        __syncthreads();
    }
#endif
}

template <int HS>
ConformanceCase load_case(const char* name, const char* what) {
    constexpr int kBytes = SwizzledTile<kLoadRows, HS>::kBytes + static_cast<int>(sizeof(device::Mbarrier));
    return {.name = name,
            .input_words = kTensorRows * kHeads * HS / 2,
            .output_words = kLoadRows * HS / 2 + kBulkBytes / 4,
            .launch =
                [](const uint32_t* input, uint32_t* output) {
                    const auto map =
                        make_tensor_map(head_tiles(input, kTensorRows, kHeads, HS, kHeads * HS, kLoadRows));
                    PLIMSOLL_LAUNCH(load_kernel<HS>, dim3(1), dim3(kGroupThreads), kBytes, nullptr, map, input, output);
                },
            .architecture = 90,
            .shape = {HS},
            .what = what};
}

constexpr int kStoredRows = 64, kTargetRows = 40, kTargetRow = 10, kTargetHeads = 2;

// 64 rows of sums, rounded, through shared memory into head 1 of a tensor that ends before they do.
template <int HS>
__global__ void __launch_bounds__(kGroupThreads, 1)
    store_kernel(const __grid_constant__ device::TensorMap map, const uint32_t* input) {
#if PLIMSOLL_HAS_SM90A
    PLIMSOLL_DYNAMIC_SHARED(shared);
    const SwizzledTile<kStoredRows, HS> tile{shared};
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sums[HS / 2];
    for (int i = 0; i < HS / 2; ++i) {
        const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + 2 * (lane % 4) + i % 2;
        sums[i] = __uint_as_float(static_cast<uint32_t>(element(input, row * HS + column)) << 16);
    }
    write_rows(tile, 16 * warp, sums, lane);
    device::fence_proxy_async();
    __syncthreads();
    if (warp == 2 && device::elect_one()) {
        device::tma_store(&map, shared, 0, kTargetRow, 0, 1);
        device::bulk_commit();
        device::bulk_wait_read<0>();
        device::bulk_wait<0>();
    }
#endif
}

template <int HS>
ConformanceCase store_case(const char* name, const char* what) {
    return {.name = name,
            .input_words = kStoredRows * HS / 2,
            .output_words = kTargetRows * kTargetHeads * HS / 2,
            .launch =
                [](const uint32_t* input, uint32_t* output) {
                    const auto map = make_tensor_map(
                        head_tiles(output, kTargetRows, kTargetHeads, HS, kTargetHeads * HS, kStoredRows));
                    PLIMSOLL_LAUNCH(store_kernel<HS>, dim3(1), dim3(kGroupThreads), kStoredRows * HS * 2, nullptr, map,
                                    input);
                },
            .architecture = 90,
            .shape = {HS},
            .what = what};
}

// Registers go from one warpgroup to two others; each warp counts the lanes that are elected.
__global__ void __launch_bounds__(3 * kGroupThreads, 1) registers_kernel(const uint32_t* input, uint32_t* output) {
#if PLIMSOLL_HAS_SM90A
    if (threadIdx.x < kGroupThreads)
        device::decrease_registers<24>();
    else
        device::increase_registers<240>();
    const int warp = threadIdx.x / 32, elected = device::elect_one();
    const unsigned lanes = __ballot_sync(~0u, elected);
    if (threadIdx.x % 32 == 0) output[warp] = input[warp] + __popc(lanes);
#endif
}

}  // namespace

const std::vector<ConformanceCase>& hopper_conformance_cases() {
    static const std::vector<ConformanceCase> cases{
        product_case<128, 128, false, false, false>("wgmma_shared shared_address", "k_k_n128"),
        product_case<80, 64, false, false, false>("wgmma_shared", "k_k_n80"),
        product_case<96, 96, false, false, false>("wgmma_shared", "k_k_n96"),
        product_case<64, 48, false, false, false>("wgmma_shared", "k_k_n64"),
        product_case<32, 256, false, false, false>("wgmma_shared", "k_k_n32"),
        product_case<128, 64, false, true, false>("wgmma_shared", "k_mn_n128"),
        product_case<64, 64, true, false, false>("wgmma_shared", "mn_k_n64"),
        product_case<256, 64, true, true, false>("wgmma_shared", "mn_mn_n256"),
        product_case<64, 64, false, true, true>("wgmma_registers wgmma_fence wgmma_commit wgmma_wait", "mn_n64"),
        product_case<80, 64, false, false, true>("wgmma_registers", "k_n80"),
        product_case<96, 128, false, true, true>("wgmma_registers", "mn_n96"),
        product_case<128, 128, false, true, true>("wgmma_registers", "mn_n128"),
        product_case<256, 80, false, true, true>("wgmma_registers", "mn_n256"),
        load_case<128>("tma_load tma_prefetch bulk_load mbarrier_init mbarrier_init_fence mbarrier_arrive "
                       "mbarrier_arrive_expect mbarrier_wait",
                       "head128"),
        load_case<96>("tma_load", "head96"),
        load_case<16>("tma_load", "head16"),
        store_case<128>("tma_store stmatrix_x4 fence_proxy_async bulk_commit bulk_wait_read bulk_wait", "head128"),
        store_case<96>("tma_store", "head96"),
        store_case<16>("tma_store", "head16"),
        {.name = "increase_registers decrease_registers elect_one",
         .input_words = 12,
         .output_words = 12,
         .launch =
             [](const uint32_t* input, uint32_t* output) {
                 PLIMSOLL_LAUNCH(registers_kernel, dim3(1), dim3(3 * kGroupThreads), 0, nullptr, input, output);
             },
         .architecture = 90},
    };
    return cases;
}

}  // namespace plimsoll
