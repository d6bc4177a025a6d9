// wgmma: products by a warpgroup, asynchronous, with operands in shared memory. Part of hopper.cuh.
//
// m64nNk16: sums (64, N) += a (64, 16) b (16, N), bf16 operands, fp32 sums. With w the warp in its group, g = lane / 4
// and t = lane % 4: sums[4 c + e] is row 16 w + g + 8 (e / 2), column 8 c + 2 t + e % 2; a[i] in registers is row 16 w
// + g + 8 (i % 2), columns 2 t + 8 (i / 2), + 1. Operands in shared memory are described by descriptors
// (kernels/cuda/sm90/swizzled_tile.cuh); `transposed` is MN-major: rows are the reduction.
//
// Issue: wgmma_fence(); products; wgmma_commit(). Until wgmma_wait() the sums, and operands in registers, belong to the
// products; hold_registers() behind it keeps the compiler from moving uses before it. A wait is for the warp's own.
#pragma once

namespace plimsoll::device {

PLIMSOLL_DEVICE uint32_t shared_address(const void* pointer) {
    return shared_pointer(pointer);
}
// Before the first product, and after anything else touched the sums or operands in registers.
PLIMSOLL_DEVICE void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Closes a group of the products since the last one.
PLIMSOLL_DEVICE void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most this many of the warp's youngest groups are under way.
template <int kGroupsLeft>
PLIMSOLL_DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(kGroupsLeft) : "memory");
}
template <int kCount>
PLIMSOLL_DEVICE void hold_registers(float (&values)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// Operands of asm: N / 2 sums are %0 to %(N / 2 - 1).
#define PLIMSOLL_NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define PLIMSOLL_NAMES_1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define PLIMSOLL_NAMES_2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define PLIMSOLL_NAMES_3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define PLIMSOLL_NAMES_4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define PLIMSOLL_NAMES_5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define PLIMSOLL_NAMES_6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define PLIMSOLL_NAMES_7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define PLIMSOLL_NAMES_8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define PLIMSOLL_NAMES_9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define PLIMSOLL_NAMES_10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define PLIMSOLL_NAMES_11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define PLIMSOLL_NAMES_12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define PLIMSOLL_NAMES_13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define PLIMSOLL_NAMES_14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define PLIMSOLL_NAMES_15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define PLIMSOLL_SUMS(i)                                                                                           \
    "+f"(sums[8 * i]), "+f"(sums[8 * i + 1]), "+f"(sums[8 * i + 2]), "+f"(sums[8 * i + 3]), "+f"(sums[8 * i + 4]), \
        "+f"(sums[8 * i + 5]), "+f"(sums[8 * i + 6]), "+f"(sums[8 * i + 7])
#define PLIMSOLL_SUMS_16 PLIMSOLL_SUMS(0), PLIMSOLL_SUMS(1)
#define PLIMSOLL_SUMS_32 PLIMSOLL_SUMS_16, PLIMSOLL_SUMS(2), PLIMSOLL_SUMS(3)
#define PLIMSOLL_SUMS_40 PLIMSOLL_SUMS_32, PLIMSOLL_SUMS(4)
#define PLIMSOLL_SUMS_48 PLIMSOLL_SUMS_40, PLIMSOLL_SUMS(5)
#define PLIMSOLL_SUMS_64 PLIMSOLL_SUMS_48, PLIMSOLL_SUMS(6), PLIMSOLL_SUMS(7)
#define PLIMSOLL_SUMS_128                                                                                          \
    PLIMSOLL_SUMS_64, PLIMSOLL_SUMS(8), PLIMSOLL_SUMS(9), PLIMSOLL_SUMS(10), PLIMSOLL_SUMS(11), PLIMSOLL_SUMS(12), \
        PLIMSOLL_SUMS(13), PLIMSOLL_SUMS(14), PLIMSOLL_SUMS(15)
#define PLIMSOLL_NAMES_OF_16 PLIMSOLL_NAMES_0 ", " PLIMSOLL_NAMES_1
#define PLIMSOLL_NAMES_OF_32 PLIMSOLL_NAMES_OF_16 ", " PLIMSOLL_NAMES_2 ", " PLIMSOLL_NAMES_3
#define PLIMSOLL_NAMES_OF_40 PLIMSOLL_NAMES_OF_32 ", " PLIMSOLL_NAMES_4
#define PLIMSOLL_NAMES_OF_48 PLIMSOLL_NAMES_OF_40 ", " PLIMSOLL_NAMES_5
#define PLIMSOLL_NAMES_OF_64 PLIMSOLL_NAMES_OF_48 ", " PLIMSOLL_NAMES_6 ", " PLIMSOLL_NAMES_7
#define PLIMSOLL_NAMES_OF_128                                                                                      \
    PLIMSOLL_NAMES_OF_64 ", " PLIMSOLL_NAMES_8 ", " PLIMSOLL_NAMES_9 ", " PLIMSOLL_NAMES_10 ", " PLIMSOLL_NAMES_11 \
                         ", " PLIMSOLL_NAMES_12 ", " PLIMSOLL_NAMES_13 ", " PLIMSOLL_NAMES_14 ", " PLIMSOLL_NAMES_15

// count = N / 2 sums; then the names of the operands behind them.
#define PLIMSOLL_WGMMA_SHARED(N, count, a_name, b_name, accumulate_name, trans_a, trans_b)             \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " accumulate_name                               \
                 ", 0;\n"                                                                              \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32.bf16.bf16 {" PLIMSOLL_NAMES_OF_##count \
                 "}, " a_name ", " b_name ", add, 1, 1, " trans_a ", " trans_b ";\n}"                  \
                 : PLIMSOLL_SUMS_##count                                                               \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedA), "n"(kTransposedB))
#define PLIMSOLL_WGMMA_REGISTERS(N, count, a_names, b_name, accumulate_name, trans_b)                     \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " accumulate_name                                  \
                 ", 0;\n"                                                                                 \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32.bf16.bf16 {" PLIMSOLL_NAMES_OF_##count    \
                 "}, {" a_names "}, " b_name ", add, 1, 1, " trans_b ";\n}"                               \
                 : PLIMSOLL_SUMS_##count                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
                   "n"(kTransposedB))

// sums (64, 2 kCount) (+)= a b, both in shared memory; not `accumulate`: from zero.
template <bool kTransposedA, bool kTransposedB, int kCount>
PLIMSOLL_DEVICE void wgmma_shared(float (&sums)[kCount], uint64_t a, uint64_t b, bool accumulate) {
    if constexpr (kCount == 16)
        PLIMSOLL_WGMMA_SHARED("32", 16, "%16", "%17", "%18", "%19", "%20");
    else if constexpr (kCount == 32)
        PLIMSOLL_WGMMA_SHARED("64", 32, "%32", "%33", "%34", "%35", "%36");
    else if constexpr (kCount == 40)
        PLIMSOLL_WGMMA_SHARED("80", 40, "%40", "%41", "%42", "%43", "%44");
    else if constexpr (kCount == 48)
        PLIMSOLL_WGMMA_SHARED("96", 48, "%48", "%49", "%50", "%51", "%52");
    else if constexpr (kCount == 64)
        PLIMSOLL_WGMMA_SHARED("128", 64, "%64", "%65", "%66", "%67", "%68");
    else if constexpr (kCount == 128)
        PLIMSOLL_WGMMA_SHARED("256", 128, "%128", "%129", "%130", "%131", "%132");
    else
        static_assert(kCount == 0, "wgmma: no instruction of this shape is spelled out here");
}
// The same, a (64, 16) in registers.
template <bool kTransposedB, int kCount>
PLIMSOLL_DEVICE void wgmma_registers(float (&sums)[kCount], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    if constexpr (kCount == 32)
        PLIMSOLL_WGMMA_REGISTERS("64", 32, "%32, %33, %34, %35", "%36", "%37", "%38");
    else if constexpr (kCount == 40)
        PLIMSOLL_WGMMA_REGISTERS("80", 40, "%40, %41, %42, %43", "%44", "%45", "%46");
    else if constexpr (kCount == 48)
        PLIMSOLL_WGMMA_REGISTERS("96", 48, "%48, %49, %50, %51", "%52", "%53", "%54");
    else if constexpr (kCount == 64)
        PLIMSOLL_WGMMA_REGISTERS("128", 64, "%64, %65, %66, %67", "%68", "%69", "%70");
    else if constexpr (kCount == 128)
        PLIMSOLL_WGMMA_REGISTERS("256", 128, "%128, %129, %130, %131", "%132", "%133", "%134");
    else
        static_assert(kCount == 0, "wgmma: no instruction of this shape is spelled out here");
}

}  // namespace plimsoll::device
