// One matrix product on the GPU: cuBLASLt (gemm_cublaslt.cpp), or a reference in the emulated build.
#pragma once

#include "kernels/cuda/context.h"
#include "kernels/matrix.h"

namespace plimsoll::cuda {

// What a product does with its sums before it stores them.
struct Epilogue {
    enum class Kind : uint8_t {
        kNone,
        kBias,          // + bias (N), of c's dtype
        kGelu,          // + bias, if not null; that is kept in `before`, and c = gelu of it
        kGeluGradient,  // times gelu's slope at `before`
        kBiasGradient   // also bias_gradient (M) = the sums of a's rows, of c's dtype
    } kind = Kind::kNone;
    const void* bias = nullptr;
    Matrix before{};  // like c
    void* bias_gradient = nullptr;
};

// c (M, N) = a (M, K) b (K, N) + beta * c, beta 0 or 1; c's rows are contiguous, M, N, K > 0. a and b are both fp32 or
// both bf16, c has their dtype or fp32. Sums in fp32. Equal inputs on one card give equal bits: the algorithm is a
// function of shapes, strides, dtypes, epilogue and the file of choices (kernels/gemm_choices.h), and no algorithm is
// used whose order of sums is not fixed. Returns false, having done nothing, if the library has no algorithm
// with this epilogue; without one, or with a bias, it throws instead.
bool gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const Epilogue& epilogue, const Exec& exec);

// Name and version of the library.
std::string gemm_library();

}  // namespace plimsoll::cuda
