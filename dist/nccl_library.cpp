// NCCL itself behind the table.
#include "dist/nccl_transport.h"

namespace plimsoll {

bool has_nccl() {
    return true;
}

std::unique_ptr<Transport> nccl_transport(std::shared_ptr<Transport> host, const Exec& exec,
                                          std::chrono::nanoseconds timeout) {
    static constexpr NcclApi kNccl{.get_unique_id = ncclGetUniqueId,
                                   .init_rank_config = ncclCommInitRankConfig,
                                   .get_async_error = ncclCommGetAsyncError,
                                   .finalize = ncclCommFinalize,
                                   .destroy = ncclCommDestroy,
                                   .abort = ncclCommAbort,
                                   .group_start = ncclGroupStart,
                                   .group_end = ncclGroupEnd,
                                   .send = ncclSend,
                                   .receive = ncclRecv,
                                   .error_string = ncclGetErrorString};
    return nccl_transport_with(kNccl, std::move(host), exec, timeout);
}

}  // namespace plimsoll
