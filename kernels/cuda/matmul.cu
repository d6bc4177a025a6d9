// The matrix products of a linear layer.
#include "kernels/matmul.h"

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/row_sums.cuh"

namespace plimsoll::cuda {
namespace {

// Products of nothing (a rank without tokens) are zeros, and not cuBLASLt's business.
bool product(Matrix c, Matrix a, Matrix b, Write write, const Epilogue& epilogue, const Exec& exec) {
    if (c.rows == 0 || c.columns == 0) return true;
    if (a.columns > 0) return gemm(c, a, b, write == Write::kAccumulate, epilogue, exec);
    if (write == Write::kOverwrite)
        check_cuda(cudaMemset2DAsync(c.data, static_cast<size_t>(c.row * size_of(c.dtype)), 0,
                                     static_cast<size_t>(c.columns * size_of(c.dtype)), static_cast<size_t>(c.rows),
                                     exec.cuda->stream()),
                   "matmul");
    return epilogue.kind == Epilogue::Kind::kNone;
}

// cuBLASLt adds a bias of the output's dtype: for a bf16 output the bias is rounded to it first.
const void* bias_for(Tensor out, Tensor bias, const Exec& exec) {
    if (!bias || out.dtype != DType::kBF16) return bias.data;
    const Tensor rounded(exec.cuda->workspace<bf16>(bias.elements()), DType::kBF16, bias.shape, Device::kCuda);
    cuda::convert(rounded, bias, exec);
    return rounded.data;
}

}  // namespace

void matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& exec) {
    const auto kind = bias ? Epilogue::Kind::kBias : Epilogue::Kind::kNone;
    product(matrix(out), matrix(x), transposed(matrix(weight)), Write::kOverwrite,
            {.kind = kind, .bias = bias_for(out, bias, exec)}, exec);
}

void matmul_activation_forward(Tensor act, Tensor up, Tensor x, Tensor weight, Tensor bias, Activation kind,
                               const Exec& exec) {
    if (kind == Activation::kGelu && up.dtype == DType::kBF16 && x.elements() > 0 &&
        product(matrix(act), matrix(x), transposed(matrix(weight)), Write::kOverwrite,
                {.kind = Epilogue::Kind::kGelu, .bias = bias_for(up, bias, exec), .before = matrix(up)}, exec))
        return;
    cuda::matmul_forward(up, x, weight, bias, exec);
    cuda::activation_forward(act, up, kind, exec);
}

void matmul_activation_backward(Tensor dup, Tensor dact, Tensor dout, Tensor weight, Tensor up, Activation kind,
                                const Exec& exec) {
    if (kind == Activation::kGelu && up.dtype == DType::kBF16 && dup.data != up.data && dout.elements() > 0 &&
        product(matrix(dup), matrix(dout), matrix(weight), Write::kOverwrite,
                {.kind = Epilogue::Kind::kGeluGradient, .before = matrix(up)}, exec))
        return;
    cuda::matmul_backward_input(dact, dout, weight, Write::kOverwrite, exec);
    cuda::activation_backward(dup, dact, up, kind, exec);
}

void matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& exec) {
    product(matrix(dx), matrix(dout), matrix(weight), write, {}, exec);
}

// The library's bias gradient replaces what was there; one that is added to is summed here.
void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec) {
    const Matrix a = transposed(matrix(dout)), b = matrix(x);
    if (dbias && write == Write::kOverwrite && dout.dtype == DType::kBF16 &&
        product(matrix(dweight), a, b, write, {.kind = Epilogue::Kind::kBiasGradient, .bias_gradient = dbias.data},
                exec))
        return;
    product(matrix(dweight), a, b, write, {}, exec);
    if (!dbias) return;
    dispatch_device_float(dout.dtype, [&]<class T>() {
        row_sums(dbias.ptr<float>(), Element<T>{dout.ptr<T>(), dout.row_stride}, dout.shape[0], dout.shape[1], write,
                 exec);
    });
}

}  // namespace plimsoll::cuda
