// The matrix products of a linear layer.
#include "kernels/matmul.h"

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/row_sums.cuh"

namespace plimsoll::cuda {
namespace {

// Products of nothing (a rank without tokens) are zeros, and not cuBLASLt's business.
void product(Matrix c, Matrix a, Matrix b, Write write, const void* bias, const Exec& exec) {
    if (c.rows == 0 || c.columns == 0) return;
    if (a.columns > 0) return gemm(c, a, b, write == Write::kAccumulate, bias, exec);
    if (write == Write::kOverwrite)
        check_cuda(cudaMemset2DAsync(c.data, static_cast<size_t>(c.row * size_of(c.dtype)), 0,
                                     static_cast<size_t>(c.columns * size_of(c.dtype)), static_cast<size_t>(c.rows),
                                     exec.cuda->stream()),
                   "matmul");
}

}  // namespace

// cuBLASLt adds a bias of the output's dtype: for a bf16 output the bias is rounded to it first.
void matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& exec) {
    const void* added = bias.data;
    if (bias && out.dtype == DType::kBF16) {
        const Tensor rounded(exec.cuda->workspace<bf16>(bias.elements()), DType::kBF16, bias.shape, Device::kCuda);
        cuda::convert(rounded, bias, exec);
        added = rounded.data;
    }
    product(matrix(out), matrix(x), transposed(matrix(weight)), Write::kOverwrite, added, exec);
}

void matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& exec) {
    product(matrix(dx), matrix(dout), matrix(weight), write, nullptr, exec);
}

void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec) {
    product(matrix(dweight), transposed(matrix(dout)), matrix(x), write, nullptr, exec);
    if (!dbias) return;
    dispatch_device_float(dout.dtype, [&]<class T>() {
        row_sums(dbias.ptr<float>(), Element<T>{dout.ptr<T>(), dout.row_stride}, dout.shape[0], dout.shape[1], write,
                 exec);
    });
}

}  // namespace plimsoll::cuda
