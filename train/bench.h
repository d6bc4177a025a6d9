// Speed of every kernel and of whole training steps on this machine.
#pragma once

#include <string>

#include "kernels/dtype.h"

namespace plimsoll {

struct BenchOptions {
    std::string step;  // a shape's name: time whole steps of it only
    std::string precision = "auto";
    int64_t steps = 5;
    int64_t threads = 0;      // 0 = all
    int64_t micro_batch = 0;  // rows; 0 = the shape's own
    bool json = false;
};

// The names of the shapes with whole steps.
std::string bench_shapes();
// Prints a table, or one JSON object with --json. Returns the process's exit status.
int bench(const BenchOptions& options);

// Floating-point operations per second of a product (1024, C) x (C, 4C): the best of a few.
double matmul_flops_per_second(DType dtype, int64_t C, int threads);

}  // namespace plimsoll
