#include "support/fake_nccl.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "kernels/cuda/context.h"

using plimsoll::cuda::check_cuda;

namespace {

struct Message {
    ncclComm* owner;
    const void* from;  // of a send
    void* to;          // of a receive
    size_t bytes;
    cudaStream_t stream;
    int peer;
};

// The ranks that came with one id.
struct FakeWorld {
    int arrived = 0;
    std::map<std::pair<int, int>, std::deque<Message>> sends, receives;  // by (from, to)
};

struct State {
    std::mutex mutex;
    plimsoll::FakeNccl behaviour;
    int next_id = 1;
    std::map<int, std::shared_ptr<FakeWorld>> worlds;
    std::map<int, std::vector<std::string>> calls;
    std::map<int, std::vector<cudaStream_t>> streams;
};
State& state() {
    static State value;
    return value;
}

}  // namespace

// Communicators are never freed before the program ends: a call with one that is gone is found.
struct ncclComm {
    std::shared_ptr<FakeWorld> world;
    int rank, size, polls;
    int open = 0;  // messages under way
    bool gone = false;
    ncclResult_t error = ncclSuccess;
};

namespace {

thread_local int group_depth = 0;
thread_local std::vector<Message> group;
thread_local int this_rank = -1;

void note(int rank, std::string call) {
    state().calls[rank].push_back(std::move(call));
}

void require_alive(const ncclComm_t c, const char* call) {
    if (c->gone) note(c->rank, fmt::format("{} AFTER THE END", call));
}

ncclResult_t get_unique_id(ncclUniqueId* id) {
    const std::lock_guard lock(state().mutex);
    const int number = state().next_id++;
    std::memcpy(id->internal, &number, sizeof number);
    state().worlds[number] = std::make_shared<FakeWorld>();
    return ncclSuccess;
}

ncclResult_t init(ncclComm_t* out, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
    const std::lock_guard lock(state().mutex);
    int number = 0;
    std::memcpy(&number, id.internal, sizeof number);
    note(rank, config->blocking ? "BLOCKING init" : fmt::format("init {}", size));
    this_rank = rank;
    static std::vector<std::unique_ptr<ncclComm>> all;
    all.push_back(std::make_unique<ncclComm>(
        ncclComm{state().worlds.at(number), rank, size, state().behaviour.polls_to_connect}));
    *out = all.back().get();
    ++all.back()->world->arrived;
    return ncclInProgress;
}

ncclResult_t get_async_error(ncclComm_t c, ncclResult_t* result) {
    const std::lock_guard lock(state().mutex);
    require_alive(c, "get_async_error");
    const auto& never = state().behaviour.never_connect;
    const bool stuck = std::ranges::find(never, c->rank) != never.end();
    const bool busy = stuck || c->world->arrived < c->size || c->polls-- > 0;
    if (c->open && state().behaviour.error_at_rank == c->rank) c->error = ncclRemoteError;
    *result = c->error != ncclSuccess ? c->error : busy || c->open ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t end(ncclComm_t c, const char* call) {
    const std::lock_guard lock(state().mutex);
    require_alive(c, call);
    note(c->rank, call);
    c->gone = std::string_view(call) != "finalize";
    for (auto* posts : {&c->world->sends, &c->world->receives})
        for (auto& [pair, queue] : *posts)
            if (c->gone) std::erase_if(queue, [&](const Message& m) { return m.owner == c; });
    return ncclSuccess;
}
ncclResult_t finalize(ncclComm_t c) {
    return end(c, "finalize");
}
ncclResult_t destroy(ncclComm_t c) {
    return end(c, "destroy");
}
ncclResult_t abort_communicator(ncclComm_t c) {
    return end(c, "abort");
}

ncclResult_t group_start() {
    const std::lock_guard lock(state().mutex);
    note(this_rank, "group_start");
    ++group_depth;
    return ncclSuccess;
}

ncclResult_t post(Message message, const char* text) {
    const std::lock_guard lock(state().mutex);
    const ncclComm_t c = message.owner;
    require_alive(c, text);
    note(c->rank,
         fmt::format("{}{} {} {}", group_depth == 1 ? "" : "OUTSIDE A GROUP ", text, message.bytes,
                     message.from ? fmt::format("to {}", message.peer) : fmt::format("from {}", message.peer)));
    auto& streams = state().streams[c->rank];
    if (std::ranges::find(streams, message.stream) == streams.end()) streams.push_back(message.stream);
    if (message.from && state().behaviour.send_result != ncclSuccess) return state().behaviour.send_result;
    group.push_back(message);
    return ncclSuccess;
}
ncclResult_t send(const void* from, size_t bytes, ncclDataType_t, int peer, ncclComm_t c, cudaStream_t stream) {
    return post({c, from, nullptr, bytes, stream, peer}, "send");
}
ncclResult_t receive(void* to, size_t bytes, ncclDataType_t, int peer, ncclComm_t c, cudaStream_t stream) {
    return post({c, nullptr, to, bytes, stream, peer}, "receive");
}

// Copies once both streams have come to the message.
void copy(const Message& a, const Message& b) {
    const Message &sent = a.from ? a : b, &taken = a.from ? b : a;
    if (sent.bytes != taken.bytes) {
        sent.owner->error = taken.owner->error = ncclInvalidUsage;
        return;
    }
    check_cuda(cudaStreamSynchronize(sent.stream), "fake NCCL");
    check_cuda(cudaStreamSynchronize(taken.stream), "fake NCCL");
    check_cuda(cudaMemcpyAsync(taken.to, sent.from, sent.bytes, cudaMemcpyDeviceToDevice, taken.stream), "fake NCCL");
    check_cuda(cudaStreamSynchronize(taken.stream), "fake NCCL");
    --sent.owner->open, --taken.owner->open;
}

ncclResult_t group_end() {
    const std::lock_guard lock(state().mutex);
    note(this_rank, "group_end");
    if (--group_depth) return ncclSuccess;
    for (const Message& m : std::exchange(group, {})) {
        ++m.owner->open;
        FakeWorld& world = *m.owner->world;
        const int rank = m.owner->rank;
        const std::pair pair = m.from ? std::pair{rank, m.peer} : std::pair{m.peer, rank};
        auto& theirs = m.from ? world.receives[pair] : world.sends[pair];
        if (theirs.empty()) {
            (m.from ? world.sends : world.receives)[pair].push_back(m);
            continue;
        }
        copy(m, theirs.front());
        theirs.pop_front();
    }
    return ncclInProgress;
}

const char* error_string(ncclResult_t result) {
    return result == ncclInProgress    ? "NCCL operation in progress"
           : result == ncclRemoteError ? "remote process exited or there was a network error"
                                       : "invalid usage";
}

}  // namespace

namespace plimsoll {

const NcclApi& fake_nccl() {
    static constexpr NcclApi kFake{get_unique_id,      init,        get_async_error, finalize, destroy,
                                   abort_communicator, group_start, group_end,       send,     receive,
                                   error_string};
    return kFake;
}

void reset_fake_nccl(const FakeNccl& behaviour) {
    const std::lock_guard lock(state().mutex);
    state().behaviour = behaviour;
    state().calls.clear(), state().streams.clear();
}

std::vector<std::string> fake_nccl_calls(int rank) {
    const std::lock_guard lock(state().mutex);
    return state().calls[rank];
}

std::vector<cudaStream_t> fake_nccl_streams(int rank) {
    const std::lock_guard lock(state().mutex);
    return state().streams[rank];
}

}  // namespace plimsoll
