// What tests of ops share: random values, views, comparison of a gradient with central differences.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/random.h"
#include "kernels/tensor.h"

namespace plimsoll {

// `count` standard normal values of T, the same for a name in every test and dtype (up to rounding).
template <class T>
std::vector<T> normals(int64_t count, std::string_view name, double scale = 1) {
    const RandomStream stream(11, "test", name);
    std::vector<T> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<T>(static_cast<Accumulator<T>>(scale * stream.normal(i)));
    return values;
}

template <class T>
Tensor view(std::vector<T>& values, Shape shape) {
    return values.empty() ? Tensor{} : Tensor(values.data(), kDTypeOf<T>, shape);
}

// Expects gradient[i] = d loss / d values[i] for every i. The central difference's error is about step^2 times the
// third derivative plus 1e-16 |loss| / step: 1e-9 at the default step for losses of order one; the tolerance leaves
// room for steep ones. `stride` > 1 checks every stride-th element.
template <class Loss>
void expect_gradient(std::vector<double>& values, const std::vector<double>& gradient, Loss&& loss, const char* name,
                     size_t stride = 1, double tolerance = 1e-6, double step = 1e-5) {
    ASSERT_EQ(values.size(), gradient.size()) << name;
    for (size_t i = 0; i < values.size(); i += stride) {
        const double kept = values[i];
        values[i] = kept + step;
        const double above = loss();
        values[i] = kept - step;
        const double below = loss();
        values[i] = kept;
        EXPECT_NEAR(gradient[i], (above - below) / (2 * step), tolerance * (1 + std::abs(gradient[i])))
            << name << "[" << i << "]";
    }
}

// sum_i a_i b_i: a scalar loss whose gradient with respect to a is b.
inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

}  // namespace plimsoll
