// The twin of nccl_library.cpp in a build without CUDA or without NCCL.
#include "dist/transport.h"
#include "kernels/error.h"

namespace plimsoll {

bool has_nccl() {
    return false;
}

std::unique_ptr<Transport> nccl_transport(std::shared_ptr<Transport> /*host*/, const Exec& /*exec*/,
                                          std::chrono::nanoseconds /*timeout*/) {
    fail_input("this build has no NCCL; install it beside the CUDA toolkit and build again with -DPLIMSOLL_CUDA=on");
}

}  // namespace plimsoll
