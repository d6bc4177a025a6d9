#include "simt/hopper_bugs.h"

#include "kernels/cuda/sm90/warpgroup.cuh"
#include "kernels/cuda/tensor_map.h"

namespace plimsoll {
namespace {

using namespace cuda;

constexpr int kStages = 2, kTile = 64;

struct Maps {
    device::TensorMap q, k, v, out;
};

struct Barriers {
    device::Mbarrier queries_full, queries_empty, keys_full[kStages], keys_empty[kStages], values_full[kStages],
        values_empty[kStages];
};

// Where a stage is used for the n-th time: its parity.
PLIMSOLL_DEVICE unsigned parity(int n) {
    return static_cast<unsigned>(n / kStages) & 1;
}

template <HopperBug kBug, int kColumns>
struct Chain {
    using Tile = SwizzledTile<kTile, kColumns>;
    static constexpr int kSharedBytes = (1 + 2 * kStages) * Tile::kBytes + static_cast<int>(sizeof(Barriers));

    const Maps& maps;
    int items, tiles;
    uint8_t* shared;
    Barriers* b;

    PLIMSOLL_DEVICE Tile queries() const { return {shared}; }
    PLIMSOLL_DEVICE Tile keys(int n) const { return {shared + (1 + n % kStages) * Tile::kBytes}; }
    PLIMSOLL_DEVICE Tile values(int n) const { return {shared + (1 + kStages + n % kStages) * Tile::kBytes}; }

    PLIMSOLL_DEVICE void init() const {
        device::mbarrier_init(&b->queries_full, 1);
        device::mbarrier_init(&b->queries_empty, 1);
        for (int s = 0; s < kStages; ++s) {
            device::mbarrier_init(&b->keys_full[s], 1);
            device::mbarrier_init(&b->values_full[s], 1);
            device::mbarrier_init(&b->keys_empty[s], 4);
            device::mbarrier_init(&b->values_empty[s], 4);
        }
        if constexpr (kBug != HopperBug::kNoInitFence) device::mbarrier_init_fence();
    }

    PLIMSOLL_DEVICE void load(Tile to, const device::TensorMap& map, device::Mbarrier* full, int row) const {
        device::mbarrier_arrive_expect(full, Tile::kBytes - (kBug == HopperBug::kExpectsTooFewBytes ? 16 : 0));
        device::tma_load(to.data, &map, full, 0, row, 0, 0);
    }
    PLIMSOLL_DEVICE void produce() const {
        const unsigned fresh = kBug == HopperBug::kWrongProducerParity ? 0 : 1;  // passes on a new mbarrier
        int n = 0;
        for (int item = 0; item < items; ++item) {
            device::mbarrier_wait(&b->queries_empty, (item & 1) ^ 1);
            load(queries(), maps.q, &b->queries_full, item * kTile);
            for (int t = 0; t < tiles; ++t, ++n) {
                const int row = (item * tiles + t) * kTile, s = n % kStages;
                device::mbarrier_wait(&b->keys_empty[s], parity(n) ^ fresh);
                load(keys(n), maps.k, &b->keys_full[s], row);
                device::mbarrier_wait(&b->values_empty[s], parity(n) ^ fresh);
                load(values(n), maps.v, &b->values_full[s], row);
            }
        }
    }

    PLIMSOLL_DEVICE void release(device::Mbarrier* empty) const {
        if (threadIdx.x % 32 == 0) device::mbarrier_arrive(empty);
    }
    // Ordinary loads of what a copy wrote, as backward reads rows; nothing is done with them.
    PLIMSOLL_DEVICE void look_at_values(int n) const {
        const int row = static_cast<int>(threadIdx.x) % 32;
        static_cast<void>(*reinterpret_cast<const volatile uint16_t*>(values(n).at(row, 0)));
        if constexpr (kBug != HopperBug::kReleasesWhatLanesRead) __syncwarp();
    }
    PLIMSOLL_DEVICE void start_scores(float (&scores)[kTile / 2], int n) const {
        const int waits_for = n + (kBug == HopperBug::kWaitsForOtherStage && n > 0 ? -1 : 0);
        device::mbarrier_wait(&b->keys_full[waits_for % kStages],
                              parity(waits_for) ^ (kBug == HopperBug::kWrongConsumerParity ? 1 : 0));
        device::wgmma_fence();
        if constexpr (kBug == HopperBug::kWrongSwizzle) {
            for (int k = 0; k < kColumns; k += 16)  // mode 2 for 1
                device::wgmma_shared<false, false>(scores, queries().k_major(0, k),
                                                   keys(n).k_major(0, k) ^ uint64_t{3} << 62, k > 0);
            device::wgmma_commit();
        } else {
            start_transposed_product(scores, queries(), 0, keys(n));
        }
    }
    PLIMSOLL_DEVICE void start_output(float (&out)[kColumns / 2], const RoundedRows<kTile>& weights, int n) const {
        device::mbarrier_wait(&b->values_full[n % kStages], parity(n));
        if constexpr (kBug != HopperBug::kNoWgmmaFence) device::wgmma_fence();
        if constexpr (kBug == HopperBug::kWrongLeadingOffset) {
            for (int k = 0; k < kTile / 16; ++k)
                device::wgmma_registers<true>(out, weights.step[k], values(n).mn_major(16 * k) ^ 64 << 16, true);
            device::wgmma_commit();
        } else {
            start_product(out, weights, values(n));
        }
    }

    PLIMSOLL_DEVICE void consume() const {
        float scores[kTile / 2];
        RoundedRows<kTile> weights;
        int n = 0;
        for (int item = 0; item < items; ++item) {
            float out[kColumns / 2] = {};
            device::mbarrier_wait(&b->queries_full, item & 1);
            start_scores(scores, n);
            if constexpr (kBug == HopperBug::kReleasesFirstKeysEarly) release(&b->keys_empty[n % kStages]);
            if constexpr (kBug == HopperBug::kReadsScoresEarly) weights.assign(scores);
            device::wgmma_wait<0>();
            device::hold_registers(scores);
            if constexpr (kBug != HopperBug::kReleasesFirstKeysEarly) release(&b->keys_empty[n % kStages]);
            if constexpr (kBug != HopperBug::kReadsScoresEarly) weights.assign(scores);
            for (int t = 1; t < tiles; ++t) {
                ++n;
                device::Mbarrier *keys_empty = &b->keys_empty[n % kStages],
                                 *values_empty = &b->values_empty[(n - 1) % kStages];
                start_scores(scores, n);
                start_output(out, weights, n - 1);
                if constexpr (kBug == HopperBug::kReleasesKeysEarly) release(keys_empty);
                device::wgmma_wait<1>();
                device::hold_registers(scores);
                if constexpr (kBug != HopperBug::kReleasesKeysEarly) release(keys_empty);
                if constexpr (kBug == HopperBug::kScalesSumsInFlight)
                    for (float& x : out) x *= 0.5f;
                if constexpr (kBug == HopperBug::kRewritesOperandInFlight) weights.assign(scores);
                if constexpr (kBug == HopperBug::kReleasesValuesEarly) release(values_empty);
                device::wgmma_wait<0>();
                device::hold_registers(out);
                if constexpr (kBug != HopperBug::kReleasesValuesEarly) {
                    look_at_values(n - 1);
                    release(values_empty);
                }
                if constexpr (kBug != HopperBug::kScalesSumsInFlight)
                    for (float& x : out) x *= 0.5f;
                weights.assign(scores);
            }
            start_output(out, weights, n);
            if constexpr (kBug != HopperBug::kExitsWithWgmma) device::wgmma_wait<0>();
            device::hold_registers(out);
            release(&b->values_empty[n++ % kStages]);
            store(out, item);
        }
    }

    PLIMSOLL_DEVICE void store(const float (&out)[kColumns / 2], int item) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        device::named_barrier_sync(1, kGroupThreads);  // all warps have read the queries
        write_rows(queries(), 16 * warp, out, lane);
        if constexpr (kBug != HopperBug::kNoProxyFence && kBug != HopperBug::kFenceAfterBarrier)
            device::fence_proxy_async();
        if constexpr (kBug != HopperBug::kNoBarrierBeforeStore) device::named_barrier_sync(1, kGroupThreads);
        if constexpr (kBug == HopperBug::kFenceAfterBarrier) device::fence_proxy_async();
        if (warp == 0 && device::elect_one()) {
            device::tma_store(&maps.out, queries().data, 0, item * kTile, 0, 0);
            device::bulk_commit();
            if constexpr (kBug == HopperBug::kReusesSourceOfStore) {
                device::mbarrier_arrive(&b->queries_empty);
                device::bulk_wait_read<0>();
            } else {
                device::bulk_wait_read<0>();
                device::mbarrier_arrive(&b->queries_empty);
            }
        }
    }
};

template <HopperBug kBug, int kColumns>
__global__ void __launch_bounds__(2 * kGroupThreads, 1)
    chain_kernel(const __grid_constant__ Maps maps, int items, int tiles) {
    PLIMSOLL_DYNAMIC_SHARED(shared);
    using Chain = Chain<kBug, kColumns>;
    const Chain chain{maps, items, tiles, shared,
                      reinterpret_cast<Barriers*>(shared + Chain::kSharedBytes - static_cast<int>(sizeof(Barriers)))};
    if (threadIdx.x == 0) chain.init();
    __syncthreads();
    if (threadIdx.x < kGroupThreads) {
        if constexpr (kBug != HopperBug::kTooManyRegisters) device::decrease_registers<40>();
        if (threadIdx.x < 32 && device::elect_one()) chain.produce();
    } else {
        // 256 threads begin with 248 registers each: 40 and 256 leave some, and taking none away leaves none.
        device::increase_registers<256>();
        chain.consume();
    }
}

template <HopperBug kBug, int kColumns>
void launch(const Maps& maps, int items, int tiles) {
    constexpr int kBytes = Chain<kBug, kColumns>::kSharedBytes;
    cudaFuncSetAttribute(chain_kernel<kBug, kColumns>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    PLIMSOLL_LAUNCH((chain_kernel<kBug, kColumns>), dim3(1), dim3(2 * kGroupThreads), kBytes, nullptr, maps, items,
                    tiles);
}

template <int kColumns, int... kBugs>
void dispatch(HopperBug bug, const Maps& maps, int items, int tiles, std::integer_sequence<int, kBugs...>) {
    ((static_cast<int>(bug) == kBugs ? launch<static_cast<HopperBug>(kBugs), kColumns>(maps, items, tiles) : void()),
     ...);
}

}  // namespace

void launch_chain(HopperBug bug, int columns, const uint16_t* q, const uint16_t* k, const uint16_t* v, uint16_t* out,
                  int items, int tiles) {
    const auto map = [&](const uint16_t* data, int rows) {
        return make_tensor_map(head_tiles(data, rows, 1, columns, columns, kTile));
    };
    const Maps maps{map(q, items * kTile), map(k, items * tiles * kTile), map(v, items * tiles * kTile),
                    map(out, items * kTile)};
    constexpr auto kAll = std::make_integer_sequence<int, static_cast<int>(HopperBug::kTooManyRegisters) + 1>();
    columns == 64 ? dispatch<64>(bug, maps, items, tiles, kAll) : dispatch<128>(bug, maps, items, tiles, kAll);
}

}  // namespace plimsoll
