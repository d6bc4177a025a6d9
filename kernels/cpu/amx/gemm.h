// bf16 matrix products on AMX.
#pragma once

#include "kernels/cpu/amx/packed_right.h"
#include "kernels/exec.h"

namespace plimsoll::cpu::amx {

// How much of K a product sums in one go; where there is more, it adds the sums of parts.
inline constexpr int64_t kLongest = 4096;

// A part of a matrix.
struct Part {
    int64_t row, rows, column, columns;
};

// What follows a product: a reference to a function of a part of c that is done, which is called by the thread that
// made it, while it is in that thread's cache, and must outlive the call. The parts cover c once.
class Epilogue {
  public:
    Epilogue() = default;
    // `reads` (M, N), if not empty, is a tensor of which the function reads the part: it is fetched meanwhile.
    template <class F>
    explicit Epilogue(const F& f, Tensor reads = {})
        : reads_(reads),
          function_(&f),
          call_([](const void* function, Part part) { (*static_cast<const F*>(function))(part); }) {}
    void operator()(Part part) const {
        if (call_) call_(function_, part);
    }
    void fetch(Part part) const;

  private:
    Tensor reads_;
    const void* function_ = nullptr;
    void (*call_)(const void*, Part) = nullptr;
};

// c (M, N) = a (M, K) b (K, N) + beta * c + bias (N; may be null), beta 0 or 1, as cpu::gemm: a and b are bf16, c is
// bf16 or fp32 with contiguous rows, bias fp32; M, N, K > 0. Sums are kept in fp32, K ascends, and every element of c
// is made by one thread: bits depend on K and the strides alone, not on threads, M or N. Wants available().
void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, const Exec& exec, Epilogue epilogue = {});

// c (M, N) = a (M, K) b + bias for some rows, by the calling thread alone, which has a TileScope: all of b is packed.
// The bits are gemm's. M fits a second-level cache with what the caller keeps there (about 128 rows); K is at most
// kLongest.
void gemm_rows(Matrix c, Matrix a, const PackedRight& b, const float* bias, Epilogue epilogue = {});

// The same as gemm without bias, and row_sums (M, fp32) = the sums of a's rows, + beta * row_sums: gradients of a
// weight and its bias, of one walk over a. Wants a's columns contiguous (a.column != 1). Bits of the sums depend on K
// alone.
void gemm_with_row_sums(Matrix c, float* row_sums, Matrix a, Matrix b, bool accumulate, const Exec& exec);

}  // namespace plimsoll::cpu::amx
