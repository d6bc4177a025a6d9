#include "train/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/rope.h"

namespace plimsoll {

std::vector<RopeScaling> rope_scalings(double theta, int64_t HS, int64_t context, double factor) {
    constexpr double kSlow = 1, kFast = 32;  // rotations within the context (YaRN's alpha and beta)
    const std::vector<double> trained = rope_frequencies(theta, HS);
    RopeScaling linear{.name = "linear", .frequencies = trained}, yarn{.name = "yarn", .frequencies = trained};
    for (size_t c = 0; c < trained.size(); ++c) {
        linear.frequencies[c] = trained[c] / factor;
        const double rotations = static_cast<double>(context) * trained[c] / (2 * std::numbers::pi);
        const double ramp = std::clamp((rotations - kSlow) / (kFast - kSlow), 0.0, 1.0);
        yarn.frequencies[c] = (1 - ramp) * trained[c] / factor + ramp * trained[c];
    }
    yarn.score_factor = std::pow(0.1 * std::log(factor) + 1, 2);
    const double exponent = HS > 2 ? static_cast<double>(HS) / static_cast<double>(HS - 2) : 1;
    return {linear, {.name = "ntk", .frequencies = rope_frequencies(theta * std::pow(factor, exponent), HS)}, yarn};
}

}  // namespace plimsoll
