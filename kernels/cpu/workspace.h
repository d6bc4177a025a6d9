// Temporary memory of one CPU thread.
#pragma once

#include <cstdlib>
#include <memory>

#include "kernels/error.h"

namespace plimsoll::cpu {

// `count` elements of T for the calling thread, 64-byte aligned, with unspecified contents, until the same thread asks
// again with the same Tag. Grows on demand and is kept, so that nothing is allocated after the first step.
template <class Tag, class T>
T* workspace(int64_t count) {
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    thread_local std::unique_ptr<void, Free> memory;
    thread_local int64_t capacity = 0;
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    if (bytes > capacity) {
        memory.reset(std::aligned_alloc(64, static_cast<size_t>(bytes)));
        capacity = memory ? bytes : 0;
        check(memory != nullptr || bytes == 0, "cannot allocate {} bytes of workspace", bytes);
    }
    return static_cast<T*>(memory.get());
}

}  // namespace plimsoll::cpu
