#include "kernels/ceilings.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "kernels/cpu/avx512_bf16/blocks.h"
#include "kernels/dtype.h"
#include "kernels/memory.h"

namespace plimsoll {
namespace {

// So that what is computed is not left out.
volatile double g_sink = 0;

// Seconds of the fastest of `repeats` calls.
template <class Work>
double best_of(int repeats, const Work& work) {
    using Clock = std::chrono::steady_clock;
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < repeats; ++i) {
        const Clock::time_point start = Clock::now();
        work();
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}

// Units of work per second: so many units that they take 10 ms, the best of ten.
template <class Work>
double rate(const Work& work) {
    int64_t units = 1 << 10;
    while (best_of(1, [&] { work(units); }) < 0.01) units *= 2;
    return static_cast<double>(units) / best_of(10, [&] { work(units); });
}

// One is as many multiply-adds as hide each other's latency: two a cycle that take four or five.
constexpr int kChains = 12;

template <int kLanes>
struct Lanes;
#define PLIMSOLL_LANES(count)                                           \
    template <>                                                         \
    struct Lanes<count> {                                               \
        typedef float Vector __attribute__((vector_size(4 * (count)))); \
    }
PLIMSOLL_LANES(4);
PLIMSOLL_LANES(8);
PLIMSOLL_LANES(16);
#undef PLIMSOLL_LANES

// Compiled once for each width below: the compiler makes one instruction of an operator on a vector.
template <int kLanes>
[[gnu::always_inline]] inline float multiply_adds(int64_t repeats) {
    using Vector = typename Lanes<kLanes>::Vector;
    Vector sums[kChains] = {}, factor = {}, term = {};
    factor += 0.999f, term += 0.001f;
    for (int chain = 0; chain < kChains; ++chain) sums[chain] += static_cast<float>(chain);  // no two are the same
    for (int64_t i = 0; i < repeats; ++i) {
#pragma GCC unroll 12
        for (int chain = 0; chain < kChains; ++chain) sums[chain] = sums[chain] * factor + term;
    }
    float total = 0;
    for (int chain = 0; chain < kChains; ++chain)
        for (int lane = 0; lane < kLanes; ++lane) total += sums[chain][lane];
    return total;
}

struct VectorUnit {
    int lanes;
    float (*run)(int64_t repeats);
};
float multiply_adds_of_any_cpu(int64_t repeats) {
    return multiply_adds<4>(repeats);
}
#ifdef __x86_64__
[[gnu::target("avx512f")]] float multiply_adds_avx512(int64_t repeats) {
    return multiply_adds<16>(repeats);
}
[[gnu::target("avx2,fma")]] float multiply_adds_avx2(int64_t repeats) {
    return multiply_adds<8>(repeats);
}
#endif
VectorUnit widest_vectors() {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f")) return {16, multiply_adds_avx512};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {8, multiply_adds_avx2};
#endif
    return {4, multiply_adds_of_any_cpu};
}

double fp32_rate(int threads) {
    const VectorUnit unit = widest_vectors();
    return 2.0 * kChains * unit.lanes * threads * rate([&](int64_t repeats) {
#pragma omp parallel num_threads(threads)
               {
                   const float total = unit.run(repeats);
#pragma omp critical
                   g_sink = total;
               }
           });
}

// The same 32 rows and 32 columns again and again, from L1.
double bf16_rate(int threads) {
    if (!cpu::avx512_bf16::available()) return 0;
    constexpr int64_t kBlock = cpu::avx512_bf16::kBlock, kDepth = 1024;
    return 2.0 * kBlock * kBlock * cpu::avx512_bf16::kTileDepth * kDepth * threads * rate([&](int64_t repeats) {
#pragma omp parallel num_threads(threads)
               {
                   alignas(64) bf16 left[kBlock * cpu::avx512_bf16::kTileDepth],
                       right[2 * cpu::avx512_bf16::kTileElements];
                   alignas(64) float sums[kBlock * kBlock];
                   std::fill(std::begin(left), std::end(left), bf16(0.5f));
                   std::fill(std::begin(right), std::end(right), bf16(0.25f));
                   const cpu::avx512_bf16::Left a{left, cpu::avx512_bf16::kTileDepth, 16 * cpu::avx512_bf16::kTileDepth,
                                                  0};
                   const cpu::avx512_bf16::Right b{right, cpu::avx512_bf16::kTileElements, 0};
                   const cpu::avx512_bf16::TileScope scope;
                   for (int64_t i = 0; i < repeats / 64; ++i)
                       cpu::avx512_bf16::multiply(sums, kBlock, a, b, kDepth, false);
#pragma omp critical
                   g_sink = sums[0];
               }
           }) /
           64;
}

int64_t bytes_beyond_caches() {
    const auto last_cache = static_cast<int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE));
    const int64_t free = static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    return std::min(std::max<int64_t>(2 * last_cache, int64_t{256} << 20), free / 4);
}

struct MemoryRates {
    double read, triad;
};

// Three arrays, together so many bytes.
MemoryRates memory_rates(int threads, int64_t together) {
    const int64_t n = together / 3 / static_cast<int64_t>(sizeof(float));
    const Memory owner = allocate_memory(Device::kCpu, together, "ceilings");
    float* const a = static_cast<float*>(owner.get());
    const float *b = a + n, *c = a + 2 * n;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < 3 * n; ++i) a[i] = 1;
    const auto triad = [&] {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < n; ++i) a[i] = b[i] + 0.5f * c[i];
    };
    // Integers: their sums may be taken in any order, so that the compiler does it in vectors.
    const auto read = [&] {
        uint32_t sum = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
        for (int64_t i = 0; i < 3 * n; ++i) {
            uint32_t bits;
            std::memcpy(&bits, a + i, sizeof bits);
            sum += bits;
        }
        g_sink = sum;
    };
    const double bytes = 3.0 * static_cast<double>(n) * sizeof(float);
    return {bytes / best_of(4, read), bytes / best_of(4, triad)};
}

}  // namespace

Ceilings measure_ceilings(int threads, int64_t memory) {
    const MemoryRates rates = memory_rates(threads, memory ? memory : bytes_beyond_caches());
    return {.bf16_products = bf16_rate(threads), .fp32 = fp32_rate(threads), .read = rates.read, .triad = rates.triad};
}

}  // namespace plimsoll
