#include "train/stream_probe.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace plimsoll {
namespace {

constexpr double kTiny = 1e-30;  // of a product of norms: what is zero has cosine 0

double excess_kurtosis(std::span<const double> x) {
    double mean = 0, second = 0, fourth = 0;
    for (const double v : x) mean += v / static_cast<double>(x.size());
    for (const double v : x) {
        const double square = (v - mean) * (v - mean);
        second += square / static_cast<double>(x.size());
        fourth += square * square / static_cast<double>(x.size());
    }
    return second > 0 ? fourth / (second * second) - 3 : 0;
}

}  // namespace

NamedValues stream_metrics(Tensor h) {
    const auto T = static_cast<size_t>(h.shape[0]), C = static_cast<size_t>(h.shape[1]);
    std::vector<double> x(T * C), magnitudes(T * C);
    for (size_t i = 0; i < x.size(); ++i)
        x[i] = h.dtype == DType::kF64 ? h.ptr<double>()[i] : static_cast<double>(h.ptr<float>()[i]);
    double first_norm = 0, rest_norm = 0, rest_kurtosis = 0, squares = 0, cosine = 0;
    for (size_t t = 0; t < T; ++t) {
        double square = 0, dot = 0;
        for (size_t c = 0; c < C; ++c) square += x[t * C + c] * x[t * C + c], dot += x[t * C + c] * x[c];
        squares += square;
        if (t == 0)
            first_norm = std::sqrt(square);
        else {
            rest_norm += std::sqrt(square) / static_cast<double>(T - 1);
            cosine += dot / (first_norm * std::sqrt(square) + kTiny) / static_cast<double>(T - 1);
            rest_kurtosis += excess_kurtosis({x.data() + t * C, C}) / static_cast<double>(T - 1);
        }
    }
    std::transform(x.begin(), x.end(), magnitudes.begin(), [](double v) { return std::abs(v); });
    const auto largest = std::max_element(magnitudes.begin(), magnitudes.end());
    const double max_abs = *largest;
    const bool at_first = static_cast<size_t>(largest - magnitudes.begin()) < C;
    const auto middle = magnitudes.begin() + static_cast<std::ptrdiff_t>(magnitudes.size() / 2);
    std::nth_element(magnitudes.begin(), middle, magnitudes.end());
    const double median = *middle;
    const auto massive =
        std::count_if(magnitudes.begin(), magnitudes.end(), [&](double v) { return v > 100 && v > 1000 * median; });
    return {{"residual_peak_ratio", first_norm / rest_norm},
            {"residual_peak", first_norm - rest_norm},
            {"residual_norm", first_norm},
            {"max_abs", max_abs},
            {"median_abs", median},
            {"massive_ratio", max_abs / median},
            {"massive_count", static_cast<double>(massive)},
            {"massive_at_first", at_first ? 1.0 : 0.0},
            {"kurtosis_first", excess_kurtosis({x.data(), C})},
            {"kurtosis_rest", rest_kurtosis},
            {"cosine_with_first", cosine},
            {"rms", std::sqrt(squares / static_cast<double>(T * C))}};
}

}  // namespace plimsoll
