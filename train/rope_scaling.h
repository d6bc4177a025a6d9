// RoPE's wavelengths for contexts longer than those of training.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace plimsoll {

struct RopeScaling {
    std::string name;
    std::vector<double> frequencies;  // radians per position, by pair of channels
    double score_factor = 1;          // times the scale of scores
};

// For heads of HS channels, frequencies f_c = theta^(-2c / HS) trained on `context` positions, and a context `factor`
// times as long:
//   linear: f_c / factor                                                          Chen et al., arXiv:2306.15595
//   ntk:    the frequencies of theta factor^(HS / (HS - 2)): the highest stays, the lowest is that of "linear"
//           (bloc97 2023; arXiv:2309.00071, section 3.1)
//   yarn:   (1 - r_c) f_c / factor + r_c f_c, where r_c rises from 0 to 1 between 1 and 32 rotations within `context`;
//           scores times (0.1 ln factor + 1)^2                                    Peng et al., arXiv:2309.00071
std::vector<RopeScaling> rope_scalings(double theta, int64_t HS, int64_t context, double factor);

}  // namespace plimsoll
