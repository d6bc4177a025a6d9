// What every network must pass, whatever its variant: gradients, causality, bits for any number of threads.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/matmul.h"
#include "support/named_networks.h"
#include "support/tolerance.h"

namespace plimsoll {

template <class T>
std::vector<T> copied(Tensor t) {
    const std::span<T> values = t.span<T>();
    return {values.begin(), values.end()};
}

// Six entries of every parameter's gradient, in double, against central differences of the loss.
inline void expect_gradients_of_central_differences(const Named& network) {
    const TinyBatch batch = batch_of(network, 2);
    TinyModel run(network.config, batch.n(), DType::kF64);
    // Away from zero, so that a sink logit's or a bias's gradient is not a special case.
    std::span<double> parameters = run.model.parameters().span<double>();
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i] += 0.05 * std::sin(static_cast<double>(i));
    run.run(batch);
    const std::vector<double> gradients = copied<double>(run.model.gradients());
    constexpr double kStep = 1e-5;
    for (const Parameter& p : run.model.table().entries()) {
        const int64_t stride = std::max<int64_t>(1, p.shape.elements() / 6);
        for (int64_t i = 0; i < p.shape.elements(); i += stride) {
            double& value = parameters[static_cast<size_t>(p.offset + i)];
            const double kept = value;
            value = kept + kStep;
            const double above = run.loss(batch);
            value = kept - kStep;
            const double below = run.loss(batch);
            value = kept;
            const double seen = gradients[static_cast<size_t>(p.offset + i)];
            // Losses are of order 50: 1e-16 * 50 / kStep = 5e-10 of rounding, kStep^2 times third derivatives besides.
            EXPECT_NEAR(seen, (above - below) / (2 * kStep), 1e-6 * (1 + std::abs(seen))) << p.name << "[" << i << "]";
        }
    }
}

// A token's change is seen at its own position and not before: bit for bit.
inline void expect_later_tokens_leave_earlier_alone(const Named& network) {
    TinyBatch batch = batch_of(network, 1);
    TinyModel run(network.config, batch.n(), DType::kF32);
    run.loss(batch);
    const std::vector<float> before = copied<float>(run.model.nll(batch.n()));
    const size_t changed = batch.tokens.size() - 3;
    batch.tokens[changed] = (batch.tokens[changed] + 1) % static_cast<int32_t>(network.config.vocab);
    run.loss(batch);
    const std::vector<float> after = copied<float>(run.model.nll(batch.n()));
    for (size_t n = 0; n < changed; ++n) EXPECT_EQ(before[n], after[n]) << n;
    EXPECT_NE(before[changed], after[changed]);
}

// Loss and gradients of one, two and three threads.
inline void expect_equal_bits_for_any_threads(const Named& network, DType compute) {
    const TinyBatch batch = batch_of(network, 3);
    std::vector<std::vector<float>> gradients;
    std::vector<double> losses;
    for (const int threads : {1, 1, 2, 3}) {
        if (threads > 1 && matmul_backend().starts_with("OpenBLAS")) continue;  // promises nothing across threads
        TinyModel run(network.config, batch.n(), compute, threads);
        losses.push_back(run.run(batch));
        gradients.push_back(copied<float>(run.model.gradients()));
    }
    for (size_t i = 1; i < losses.size(); ++i) {
        EXPECT_EQ(losses[0], losses[i]);
        EXPECT_TRUE(same_bits(gradients[0], gradients[i])) << "run " << i;
    }
}

}  // namespace plimsoll
