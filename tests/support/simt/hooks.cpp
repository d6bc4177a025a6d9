// The functions -fsanitize=thread makes instrumented code call. libtsan is not linked: these take its place, and tell
// the detector. Code that is instrumented but runs outside of kernels (launchers, or a std:: template whose
// instrumented copy the linker picked for the whole program) passes through unwatched.
#include "simt/block.h"
#include "simt/detector.h"

namespace simt {
namespace {

inline void watch(const void* address, size_t bytes, Access access, const void* site) {
    if (!in_kernel) return;
    const EnterEmulator enter;
    note_access(address, bytes, access, site);
    const double p = options().preempt;
    if (p > 0 && static_cast<double>(block().random() & 0xffffff) < p * 0x1p24) block().yield();
}

}  // namespace
}  // namespace simt

using simt::Access;
using simt::watch;

#define SITE __builtin_return_address(0)
#define SIMT_ACCESS(bytes)                        \
    void __tsan_read##bytes(void* p) {            \
        watch(p, bytes, Access::kRead, SITE);     \
    }                                             \
    void __tsan_write##bytes(void* p) {           \
        watch(p, bytes, Access::kWrite, SITE);    \
    }                                             \
    void __tsan_unaligned_read##bytes(void* p) {  \
        watch(p, bytes, Access::kRead, SITE);     \
    }                                             \
    void __tsan_unaligned_write##bytes(void* p) { \
        watch(p, bytes, Access::kWrite, SITE);    \
    }                                             \
    void __tsan_volatile_read##bytes(void* p) {   \
        watch(p, bytes, Access::kRead, SITE);     \
    }                                             \
    void __tsan_volatile_write##bytes(void* p) {  \
        watch(p, bytes, Access::kWrite, SITE);    \
    }

// Atomics of the host's code (static variables, shared pointers): done, not watched.
#define SIMT_ATOMIC(bits, T)                                                                      \
    T __tsan_atomic##bits##_load(const volatile T* p, int) {                                      \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                              \
    }                                                                                             \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                                   \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                 \
    }                                                                                             \
    T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                                   \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                       \
    }                                                                                             \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                                  \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                        \
    }                                                                                             \
    T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                                  \
        return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                        \
    }                                                                                             \
    bool __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* old, T v, int, int) {    \
        return __atomic_compare_exchange_n(p, old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }                                                                                             \
    bool __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* old, T v, int, int) {      \
        return __atomic_compare_exchange_n(p, old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }                                                                                             \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T old, T v, int, int) {           \
        __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);       \
        return old;                                                                               \
    }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
SIMT_ACCESS(1)
SIMT_ACCESS(2)
SIMT_ACCESS(4)
SIMT_ACCESS(8)
SIMT_ACCESS(16)
void __tsan_read_range(void* p, size_t bytes) {
    watch(p, bytes, Access::kRead, SITE);
}
void __tsan_write_range(void* p, size_t bytes) {
    watch(p, bytes, Access::kWrite, SITE);
}
SIMT_ATOMIC(8, uint8_t)
SIMT_ATOMIC(32, uint32_t)
SIMT_ATOMIC(64, uint64_t)
void __tsan_atomic_thread_fence(int) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
}
