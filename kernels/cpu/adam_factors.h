// The numbers of an Adam update in the dtype it computes in.
#pragma once

namespace plimsoll::cpu {

// As in UpdateFactors (kernels/optimizer.h): fresh is 1 - beta, step_size is corrected_rate.
template <class R>
struct AdamFactors {
    R scale, decay, beta1, fresh1, beta2, fresh2, eps, step_size, root_correction;
};

}  // namespace plimsoll::cpu
