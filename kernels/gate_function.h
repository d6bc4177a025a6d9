// What kernels of every device share about gates: the functions, and where an element's z lies.
#pragma once

#include "kernels/gate.h"
#include "kernels/host_device.h"

namespace plimsoll {

// f(z), and t f'(z), with s = sigmoid(z).
struct SigmoidGate {
    template <class R>
    PLIMSOLL_HD static R value(R /*z*/, R s) {
        return s;
    }
    template <class R>
    PLIMSOLL_HD static R slope(R t, R /*z*/, R s) {
        return t * s * (R(1) - s);
    }
};
struct HalfSigmoidGate {
    template <class R>
    PLIMSOLL_HD static R value(R /*z*/, R s) {
        return R(0.5) + R(0.5) * s;
    }
    template <class R>
    PLIMSOLL_HD static R slope(R t, R /*z*/, R s) {
        return R(0.5) * t * s * (R(1) - s);
    }
};
struct SiluGate {
    template <class R>
    PLIMSOLL_HD static R value(R z, R s) {
        return z * s;
    }
    template <class R>
    PLIMSOLL_HD static R slope(R t, R z, R s) {
        return t * s * (R(1) + z * (R(1) - s));
    }
};
struct IdentityGate {
    template <class R>
    PLIMSOLL_HD static R value(R z, R /*s*/) {
        return z;
    }
    template <class R>
    PLIMSOLL_HD static R slope(R t, R /*z*/, R /*s*/) {
        return t;
    }
};

// How g acts on y; `dg` is the gradient of g.
struct MultiplyGate {
    template <class R>
    PLIMSOLL_HD static R out(R y, R g) {
        return y * g;
    }
    template <class R>
    PLIMSOLL_HD static R dy(R dout, R g) {
        return dout * g;
    }
    template <class R>
    PLIMSOLL_HD static R dg(R dout, R y) {
        return dout * y;
    }
};
struct AddGate {
    template <class R>
    PLIMSOLL_HD static R out(R y, R g) {
        return y + g;
    }
    template <class R>
    PLIMSOLL_HD static R dy(R dout, R /*g*/) {
        return dout;
    }
    template <class R>
    PLIMSOLL_HD static R dg(R dout, R /*y*/) {
        return dout;
    }
};

// Calls f<Function, Combination>().
template <class F>
void dispatch_gate(GateSpec spec, F&& f) {
    const auto with = [&]<class Function>() {
        if (spec.combination == GateCombination::kAdd) return f.template operator()<Function, AddGate>();
        return f.template operator()<Function, MultiplyGate>();
    };
    switch (spec.function) {
        case GateFunction::kSigmoid:
            return with.template operator()<SigmoidGate>();
        case GateFunction::kHalfSigmoid:
            return with.template operator()<HalfSigmoidGate>();
        case GateFunction::kSilu:
            return with.template operator()<SiluGate>();
        case GateFunction::kIdentity:
            return with.template operator()<IdentityGate>();
    }
}

// Sizes of y (N, H, HS) and strides of z, 0 where it is repeated. Where z has an element for every one of y's, or one
// for all of a row, a row is taken as one head.
struct GateLayout {
    int64_t N, H, HS;
    int64_t token, head, channel;

    GateLayout(const Tensor& y, const Tensor& z) : N(y.shape[0]), H(y.shape[1]), HS(y.shape[2]) {
        const int first = z.shape.rank() - 2;
        const bool heads = z.shape[first] > 1, channels = z.shape[first + 1] > 1;
        head = heads ? z.shape[first + 1] : 0;
        channel = channels ? 1 : 0;
        token = first ? z.shape[first] * z.shape[first + 1] : 0;
        const bool whole = heads && (channels || HS == 1), one = !heads && !channels;
        if (whole || one) {
            channel = whole ? 1 : 0;
            HS *= H, H = 1, head = 0;
        }
    }
};

}  // namespace plimsoll
