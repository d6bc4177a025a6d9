// A stable sort of row indices by an integer key, for sums that must not depend on the order in which threads run.
#pragma once

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {

// Writes to `order` the indices 0 .. N - 1 sorted by keys[index] (0 <= key < 2^bits), equal keys in ascending order of
// index. Radix sort, 4 bits a pass. `scratch`: sort_scratch(N) ints.
void sort_by_key(int32_t* order, const int32_t* keys, int64_t N, int bits, int32_t* scratch, const Exec& exec);

int64_t sort_scratch(int64_t N);

}  // namespace plimsoll::cuda
