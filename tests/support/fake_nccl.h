// NCCL among threads of one process and on one device: moves the bytes, writes down who called what, and misbehaves on
// request. Whoever comes second to a message copies it; until then the first one's communicator is "in progress".
#pragma once

#include <string>
#include <vector>

#include "dist/nccl_transport.h"

namespace plimsoll {

const NcclApi& fake_nccl();

struct FakeNccl {
    int polls_to_connect = 0;        // how often a communicator answers "in progress" before it is there
    std::vector<int> never_connect;  // ranks
    int error_at_rank = -1;          // gets ncclRemoteError once it has messages under way
    ncclResult_t send_result = ncclSuccess;
};
// What the next calls meet; forgets what was called.
void reset_fake_nccl(const FakeNccl& behaviour = {});

// The calls of a rank of the world, in order: "init 3", "group_start", "send 16 to 1", "receive 4 from 2", "group_end",
// "finalize", "destroy", "abort". Calls in groups split off later are those of the rank in its group.
std::vector<std::string> fake_nccl_calls(int rank);
// The streams that messages of this rank were posted to, each once.
std::vector<cudaStream_t> fake_nccl_streams(int rank);

}  // namespace plimsoll
