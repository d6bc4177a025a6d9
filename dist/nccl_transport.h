// The NCCL transport over a table of NCCL's entry points. Only for code that is built with CUDA and NCCL, or for the
// emulated device: everybody else sees dist/transport.h.
#pragma once

#include <nccl.h>

#include "dist/transport.h"

namespace plimsoll {

// Every entry point that is called; a test puts its own in their places.
struct NcclApi {
    decltype(&ncclGetUniqueId) get_unique_id;
    decltype(&ncclCommInitRankConfig) init_rank_config;
    decltype(&ncclCommGetAsyncError) get_async_error;
    decltype(&ncclCommFinalize) finalize;
    decltype(&ncclCommDestroy) destroy;
    decltype(&ncclCommAbort) abort;
    decltype(&ncclGroupStart) group_start;
    decltype(&ncclGroupEnd) group_end;
    decltype(&ncclSend) send;
    decltype(&ncclRecv) receive;
    decltype(&ncclGetErrorString) error_string;
};

// nccl_transport() of transport.h with a table, which must outlive it.
std::unique_ptr<Transport> nccl_transport_with(const NcclApi& api, std::shared_ptr<Transport> host, const Exec& exec,
                                               std::chrono::nanoseconds timeout);

}  // namespace plimsoll
