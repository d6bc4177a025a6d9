// Temperatures of selective self-attention by their formula, in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace plimsoll {

// tau (N, H); z (N, H) and alpha (H) may be empty.
inline std::vector<double> temperature_oracle(const std::vector<double>& z, const std::vector<double>& alpha,
                                              const std::vector<int32_t>& positions, int64_t H) {
    std::vector<double> tau;
    for (const int32_t position : positions)
        for (int64_t h = 0; h < H; ++h) {
            double value = 1;
            if (!z.empty()) {
                const double e = std::exp(2 * z[tau.size()]);
                value += (e - 1) / (e + 1);
            }
            if (!alpha.empty())
                value += std::log1p(static_cast<double>(position)) / (1 + std::exp(-alpha[static_cast<size_t>(h)]));
            tau.push_back(value);
        }
    return tau;
}

}  // namespace plimsoll
