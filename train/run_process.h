// A run as one process of it carries it out: alone, or as a rank of a job.
#pragma once

#include <functional>

#include "train/trainer.h"

namespace plimsoll {

// Trains, and tells the run's history how that ended, by an error too. With several ranks every one of them calls this.
ExitCode train_run(const RunConfig& config, const TrainOptions& options, Communicator world);

// Calls `body` with the communicator of this process: its rank of the job, or alone. Returns what it returns; what the
// launcher says of the rank is in `options` by then.
// With several ranks an error is printed once, and ends them all.
int as_this_rank(const RunConfig& config, TrainOptions& options, const std::function<ExitCode(Communicator)>& body);

}  // namespace plimsoll
