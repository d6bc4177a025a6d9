// Parameter updates, elementwise over spans of flat buffers: a block per kUpdateBlock elements of a span.
#include "kernels/optimizer.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

// The last span that begins at this block or before it.
PLIMSOLL_DEVICE const UpdateSpan& span_of(const UpdateSpans& spans, int64_t block) {
    int64_t low = 0, high = spans.count - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (spans.at[middle].block <= block)
            low = middle;
        else
            high = middle - 1;
    }
    return spans.at[low];
}

// Calls update(factors), which returns a function of the elements' places among parameters and among states, then that
// function for the elements of this block. It returns the new parameter.
template <class F>
PLIMSOLL_DEVICE void update_block(const UpdateSpans& spans, bf16* working, F&& update) {
    const int64_t block = spans.first_block + blockIdx.x;
    const UpdateSpan& span = span_of(spans, block);
    const WorkingRounding rounding = span.factors.rounding;
    const auto element = update(span.factors);
    const int64_t first = (block - span.block) * kUpdateBlock,
                  end = first + kUpdateBlock < span.count ? first + kUpdateBlock : span.count;
    for (int64_t i = first + threadIdx.x; i < end; i += kThreads) {
        const int64_t at = span.begin + i;
        const float updated = element(at, span.state + i);
        if (working) working[at] = rounding(updated, at);
    }
}

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(float* param, float* m, float* v, const float* grad, bf16* working, UpdateSpans spans) {
    update_block(spans, working, [=](const UpdateFactors& f) {
        const float scale = static_cast<float>(f.gradient_scale), decay = static_cast<float>(f.decay);
        const float beta1 = static_cast<float>(f.beta1), fresh1 = static_cast<float>(1 - f.beta1);
        const float beta2 = static_cast<float>(f.beta2), fresh2 = static_cast<float>(1 - f.beta2);
        const float step_size = static_cast<float>(f.corrected_rate), eps = static_cast<float>(f.eps);
        const float root_correction = static_cast<float>(f.root_correction);
        return [=](int64_t at, int64_t state) {
            const float g = scale * grad[at];
            const float mean = beta1 * m[state] + fresh1 * g;
            const float square = beta2 * v[state] + fresh2 * g * g;
            m[state] = mean;
            v[state] = square;
            return param[at] = param[at] * decay - step_size * mean / (sqrtf(square) * root_correction + eps);
        };
    });
}

__global__ void __launch_bounds__(kThreads)
    sgd_kernel(float* param, float* buffer, const float* grad, bf16* working, UpdateSpans spans) {
    update_block(spans, working, [=](const UpdateFactors& f) {
        const float scale = static_cast<float>(f.gradient_scale), decay = static_cast<float>(f.coupled_decay);
        const float momentum = static_cast<float>(f.momentum), lr = static_cast<float>(f.rate);
        const bool first = f.first;
        return [=](int64_t at, int64_t state) {
            const float g = scale * grad[at] + decay * param[at];
            const float velocity = first ? g : momentum * buffer[state] + g;
            buffer[state] = velocity;
            return param[at] -= lr * velocity;
        };
    });
}

}  // namespace

void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const UpdateSpans& spans,
                const Exec& exec) {
    if (spans.blocks == 0) return;
    PLIMSOLL_LAUNCH(adamw_kernel, dim3(static_cast<unsigned>(spans.blocks)), dim3(kThreads), 0, exec.cuda->stream(),
                    param.ptr<float>(), m.ptr<float>(), v.ptr<float>(), grad.ptr<float>(), optional<bf16>(working),
                    spans);
    launch_check("adamw_step");
}

void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const UpdateSpans& spans, const Exec& exec) {
    if (spans.blocks == 0) return;
    PLIMSOLL_LAUNCH(sgd_kernel, dim3(static_cast<unsigned>(spans.blocks)), dim3(kThreads), 0, exec.cuda->stream(),
                    param.ptr<float>(), buffer.ptr<float>(), grad.ptr<float>(), optional<bf16>(working), spans);
    launch_check("sgd_step");
}

}  // namespace plimsoll::cuda
