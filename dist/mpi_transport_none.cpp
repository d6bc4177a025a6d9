// The twin of mpi_transport.cpp in a build without MPI.
#include "dist/transport.h"
#include "kernels/error.h"

namespace plimsoll {

bool has_mpi() {
    return false;
}

std::unique_ptr<Transport> mpi_transport(std::chrono::nanoseconds /*deadline*/, const std::function<void()>& /*late*/) {
    fail_input("this build has no MPI; install it (apt-get install libopenmpi-dev openmpi-bin) and build again");
}

}  // namespace plimsoll
