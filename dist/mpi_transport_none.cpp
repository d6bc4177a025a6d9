// The twin of mpi_transport.cpp in a build without MPI.
#include "dist/transport.h"
#include "kernels/error.h"

namespace plimsoll {

bool started_by_mpi() {
    return false;
}

int rank_of_launch() {
    return 0;
}

std::unique_ptr<Transport> mpi_transport(std::chrono::nanoseconds /*deadline*/, const std::function<void()>& /*late*/) {
    fail_input("this build has no MPI; install it (apt-get install libopenmpi-dev openmpi-bin) and build again");
}

}  // namespace plimsoll
