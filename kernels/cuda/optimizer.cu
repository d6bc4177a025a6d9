// Parameter updates, elementwise over flat spans.
#include "kernels/optimizer.h"

#include <cmath>

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

// The factors of one update, in the order of torch.optim.AdamW.
struct AdamWFactors {
    float scale, decay, beta1, beta2, fresh1, fresh2, eps, step_size, root_correction;
};

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(float* param, float* m, float* v, const float* grad, bf16* working, int64_t count, AdamWFactors f,
                 WorkingRounding rounding) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const float g = f.scale * grad[i];
    const float mean = f.beta1 * m[i] + f.fresh1 * g;
    const float square = f.beta2 * v[i] + f.fresh2 * g * g;
    m[i] = mean;
    v[i] = square;
    const float updated = param[i] * f.decay - f.step_size * mean / (sqrtf(square) * f.root_correction + f.eps);
    param[i] = updated;
    if (working) working[i] = rounding(updated, i);
}

__global__ void __launch_bounds__(kThreads)
    sgd_kernel(float* param, float* buffer, const float* grad, bf16* working, int64_t count, float scale, float decay,
               float momentum, float lr, bool first, WorkingRounding rounding) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const float g = scale * grad[i] + decay * param[i];
    const float velocity = first ? g : momentum * buffer[i] + g;
    buffer[i] = velocity;
    const float updated = param[i] - lr * velocity;
    param[i] = updated;
    if (working) working[i] = rounding(updated, i);
}

}  // namespace

void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const AdamWSpec& spec,
                const Exec& exec) {
    const int64_t count = param.elements();
    if (count == 0) return;
    const auto step = static_cast<double>(spec.step);
    const AdamWFactors factors{
        .scale = static_cast<float>(spec.gradient_scale),
        .decay = static_cast<float>(1 - spec.lr * spec.weight_decay),
        .beta1 = static_cast<float>(spec.beta1),
        .beta2 = static_cast<float>(spec.beta2),
        .fresh1 = static_cast<float>(1 - spec.beta1),
        .fresh2 = static_cast<float>(1 - spec.beta2),
        .eps = static_cast<float>(spec.eps),
        .step_size = static_cast<float>(spec.lr / (1 - std::pow(spec.beta1, step))),
        .root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(spec.beta2, step))),
    };
    PLIMSOLL_LAUNCH(adamw_kernel, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                    param.ptr<float>(), m.ptr<float>(), v.ptr<float>(), grad.ptr<float>(), optional<bf16>(working),
                    count, factors, spec.rounding);
    launch_check("adamw_step");
}

void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const SgdSpec& spec, const Exec& exec) {
    const int64_t count = param.elements();
    if (count == 0) return;
    PLIMSOLL_LAUNCH(sgd_kernel, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                    param.ptr<float>(), buffer.ptr<float>(), grad.ptr<float>(), optional<bf16>(working), count,
                    static_cast<float>(spec.gradient_scale), static_cast<float>(spec.weight_decay),
                    static_cast<float>(spec.momentum), static_cast<float>(spec.lr), spec.step == 1, spec.rounding);
    launch_check("sgd_step");
}

}  // namespace plimsoll::cuda
