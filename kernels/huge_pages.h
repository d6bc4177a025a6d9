// Host memory in huge pages, for what is large and read in many places at once.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

namespace plimsoll {

inline constexpr int64_t kHugePage = int64_t{2} << 20;  // x86-64 transparent huge page

// At least `bytes`, up to the end of a huge page, 2 MiB aligned, asking for huge pages; to be freed by std::free. Null
// if there is not enough.
inline void* allocate_huge_pages(int64_t bytes) {
    const auto rounded = static_cast<size_t>((bytes + kHugePage - 1) / kHugePage * kHugePage);
    void* const memory = std::aligned_alloc(kHugePage, rounded);
    if (memory) madvise(memory, rounded, MADV_HUGEPAGE);  // a hint: failure costs speed only
    return memory;
}

}  // namespace plimsoll
