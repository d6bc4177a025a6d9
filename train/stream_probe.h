// Metrics of the residual stream of one document: residual peaks (M4), massive activations (M3), statistics (M9).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kernels/tensor.h"

namespace plimsoll {

using NamedValues = std::vector<std::pair<std::string, double>>;

// h (T, C) fp32 or fp64, T >= 2; p = 0 is the first token, or the placeholder where there is one.
//   residual_peak_ratio = |h_p| / mean_{t != p} |h_t|,  residual_peak = |h_p| - that mean,  residual_norm = |h_p|
//   max_abs, median_abs over all elements, massive_ratio = max_abs / median_abs
//   massive_count = elements above 100 and above 1000 x median             Sun et al., arXiv:2402.17762
//   massive_at_first = 1 if the largest element sits on p
//   kurtosis_first, kurtosis_rest = excess kurtosis over channels, of p and averaged over the other tokens
//   cosine_with_first = mean_{t != p} h_t.h_p / (|h_t| |h_p|)
//   rms over all elements
NamedValues stream_metrics(Tensor h);

}  // namespace plimsoll
