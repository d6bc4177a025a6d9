// Gates by their definition, in double: every function, combination and shape.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "kernels/gate.h"

namespace plimsoll {

struct GateCase {
    GateSpec spec;
    bool constant = false;               // the same z for all tokens
    bool heads = true, channels = true;  // z differs between them

    Shape z_shape(int64_t N, int64_t H, int64_t HS) const {
        const int64_t h = heads ? H : 1, c = channels ? HS : 1;
        return constant ? Shape{h, c} : Shape{N, h, c};
    }
    std::string name() const {
        constexpr const char* kFunctions[] = {"sigmoid", "half_sigmoid", "silu", "identity"};
        return fmt::format("{}_{}{}{}{}", kFunctions[static_cast<size_t>(spec.function)],
                           spec.combination == GateCombination::kAdd ? "add" : "multiply", constant ? "_constant" : "",
                           heads ? "_heads" : "", channels ? "_channels" : "");
    }
};

inline std::vector<GateCase> gate_cases() {
    std::vector<GateCase> all;
    for (const GateFunction function :
         {GateFunction::kSigmoid, GateFunction::kHalfSigmoid, GateFunction::kSilu, GateFunction::kIdentity})
        for (const GateCombination combination : {GateCombination::kMultiply, GateCombination::kAdd})
            for (const bool constant : {false, true})
                for (const bool heads : {false, true})
                    for (const bool channels : {false, true})
                        all.push_back({{function, combination}, constant, heads, channels});
    return all;
}

// out of (N, H, HS), with z of c.z_shape().
inline std::vector<double> gate_oracle(const GateCase& c, const std::vector<double>& y, const std::vector<double>& z,
                                       int64_t N, int64_t H, int64_t HS) {
    std::vector<double> out;
    for (int64_t n = 0; n < N; ++n)
        for (int64_t h = 0; h < H; ++h)
            for (int64_t i = 0; i < HS; ++i) {
                int64_t at = c.constant ? 0 : n;
                if (c.heads) at = at * H + h;
                if (c.channels) at = at * HS + i;
                const double x = z[static_cast<size_t>(at)], s = 1 / (1 + std::exp(-x));
                double g = s;
                if (c.spec.function == GateFunction::kHalfSigmoid) g = (1 + s) / 2;
                if (c.spec.function == GateFunction::kSilu) g = x / (1 + std::exp(-x));
                if (c.spec.function == GateFunction::kIdentity) g = x;
                const double value = y[static_cast<size_t>((n * H + h) * HS + i)];
                out.push_back(c.spec.combination == GateCombination::kAdd ? value + g : value * g);
            }
    return out;
}

}  // namespace plimsoll
