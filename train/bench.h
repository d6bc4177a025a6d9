// Speed of every kernel and of whole training steps on this machine.
#pragma once

#include <string>

#include "kernels/dtype.h"

namespace plimsoll {

struct BenchOptions {
    std::string step;       // a shape's name: time whole steps of it only
    std::string attention;  // BxTxNHxNKVxHS, or with :full behind it: time core attention of this shape only
    std::string precision = "auto";
    std::string device = "auto";
    int64_t steps = 5;
    int64_t threads = 0;      // 0 = all
    int64_t micro_batch = 0;  // rows; 0 = the shape's own
    std::string gemm_cache;   // as run.gemm_cache, but a path
    bool breakdown = false;   // with `step`: also what each op takes
    bool json = false;
};

// The names of the shapes with whole steps.
std::string bench_shapes();
// Prints a table, or one JSON object with --json. Returns the process's exit status.
int bench(const BenchOptions& options);

}  // namespace plimsoll
