// Who started this process, and as which of how many ranks.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "dist/transport.h"
#include "train/config.h"

namespace plimsoll {

enum class Launcher : uint8_t { kNone, kMpi, kTcp };

struct Launch {
    Launcher launcher = Launcher::kNone;
    int rank = 0;
    int ranks = 1;                  // 0 if the launcher does not say
    std::optional<int> local_rank;  // among the ranks of this machine, if the launcher says
    std::string job = "job";        // a name that the ranks of the job share, fit for a file
    std::optional<TcpLaunch> tcp;
};

// By the environment: PLIMSOLL_RENDEZVOUS, else what mpirun or srun with MPI set. Throws Error (78) for a process that
// is one of several and cannot find the others: srun's without PMIx, or any launcher's in a build without MPI; each
// would train the whole run, in the same directory.
Launch launched_ranks();

// This process's rank as its launcher says, before any transport is there; 0 without a launcher.
int rank_of_launch();

// All ranks of the job. Ends the process with exit code 75 and the ranks that are missing if they do not come together
// within parallel.timeout_seconds, with 78 if it is refused.
std::unique_ptr<Transport> join_ranks(const Launch& launch, const RunConfig& config);

}  // namespace plimsoll
