// Speed of every kernel and of whole training steps on this machine.
#pragma once

#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "train/config.h"

namespace plimsoll {

struct BenchOptions {
    std::string step;       // a shape's name: time whole steps of it only
    ConfigSources config;   // with a file: time whole steps of this configuration only
    std::string against;    // with `config`: a variant whose steps take turns with those of config.variant
    std::string attention;  // BxTxNHxNKVxHS, or with :full behind it: time core attention of this shape only
    std::vector<std::string> weightings;  // with `attention`: of these only
    std::string precision = "auto";
    std::string device = "auto";
    int64_t steps = 5;
    int64_t threads = 0;      // 0 = all
    int64_t micro_batch = 0;  // rows; 0 = the shape's own
    std::string gemm_cache;   // as run.gemm_cache, but a path
    bool clip = true;         // with `step`: compute the global norm, as training does
    bool breakdown = false;   // with `step`: also what each op takes
    bool roofline = false;    // of `step`, or of every shape for this device: each op beside what the machine allows
    bool json = false;
};

// The names of the shapes with whole steps.
std::string bench_shapes();
// Prints a table, or one JSON object with --json. Returns the process's exit status. Throws Error (78) for what it does
// not know, and for a configuration that could not be trained.
int bench(const BenchOptions& options);

}  // namespace plimsoll
