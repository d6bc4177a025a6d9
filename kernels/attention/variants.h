// Every weighting, and the one way from a run-time Weighting to its struct.
#pragma once

#include "kernels/attention.h"
#include "kernels/attention/variant.h"
#include "kernels/attention/variants/elu1.h"
#include "kernels/attention/variants/elu1_normalized.h"
#include "kernels/attention/variants/kernel_normalized.h"
#include "kernels/attention/variants/linear.h"
#include "kernels/attention/variants/linear_normalized.h"
#include "kernels/attention/variants/relu.h"
#include "kernels/attention/variants/sigmoid.h"
#include "kernels/attention/variants/sigmoid_normalized.h"
#include "kernels/attention/variants/softmax.h"
#include "kernels/attention/variants/uniform.h"

namespace plimsoll {

// Calls f.template operator()<Variant>() for a weighting.
template <class F>
decltype(auto) dispatch_variant(Weighting weighting, F&& f) {
    switch (weighting) {
#define PLIMSOLL_VARIANT(Trait, header)         \
    case Weighting::k##Trait:                   \
        static_assert(AttentionVariant<Trait>); \
        return f.template operator()<Trait>();
#include "kernels/attention/variants.def"
#undef PLIMSOLL_VARIANT
    }
    throw Error(ExitCode::kInternal, fmt::format("no weighting {}", static_cast<int>(weighting)));
}

}  // namespace plimsoll
