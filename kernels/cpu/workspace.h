// Temporary memory of one CPU thread.
#pragma once

#include <cstdlib>
#include <memory>

#include "kernels/error.h"
#include "kernels/huge_pages.h"

namespace plimsoll::cpu {

// `count` elements of T for the calling thread, 64-byte aligned, with unspecified contents, until the same thread asks
// again with the same Tag. Grows on demand and is kept, so that nothing is allocated after the first step. Asks for
// huge pages where it is a megabyte or more.
template <class Tag, class T>
T* workspace(int64_t count) {
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    thread_local std::unique_ptr<void, Free> memory;
    thread_local int64_t capacity = 0;
    const int64_t wanted = count * static_cast<int64_t>(sizeof(T));
    if (wanted > capacity) {
        constexpr int64_t kLine = 64;
        const int64_t unit = wanted >= kHugePage / 2 ? kHugePage : kLine, bytes = (wanted + unit - 1) / unit * unit;
        memory.reset(unit == kHugePage ? allocate_huge_pages(bytes)
                                       : std::aligned_alloc(kLine, static_cast<size_t>(bytes)));
        capacity = memory ? bytes : 0;
        check(memory != nullptr, "cannot allocate {} bytes of workspace", wanted);
    }
    return static_cast<T*>(memory.get());
}

}  // namespace plimsoll::cpu
