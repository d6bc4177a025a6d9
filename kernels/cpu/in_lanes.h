// Rows of bf16 by kernels of their own where a CPU has AVX512_BF16.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/dtype.h"

namespace plimsoll::cpu {

// Whether the row is computed by a kernel for bf16 on AVX-512: `row` is called with it, if there is one: null if not.
template <class T, class Row, class... Pointer>
bool in_lanes(Row row, Pointer... pointers) {
    if constexpr (std::is_same_v<T, bf16> && !std::is_same_v<Row, std::nullptr_t>) {
        if (!avx512_bf16::available()) return false;
        row(pointers...);
        return true;
    }
    return false;
}

}  // namespace plimsoll::cpu
