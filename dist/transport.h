// Bytes between ranks. Three implementations: a rank alone, threads of one process, processes under MPI. Two more stand
// on one of these and take messages in a GPU's memory too: through pinned host memory, or by NCCL.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/error.h"

#include "kernels/exec.h"

namespace plimsoll {

struct SendTo {
    int peer;
    std::span<const std::byte> bytes;
};
struct ReceiveFrom {
    int peer;
    std::span<std::byte> bytes;
};

// An exchange under way. The memory of its messages belongs to it until it is done.
class Exchange {
  public:
    virtual ~Exchange() = default;
    // Whether everything arrived and everything was taken, waiting at most `timeout`. Throws Error (70) if a message
    // has another size than its receiver expects, (75) if the transport was aborted.
    virtual bool wait(std::chrono::nanoseconds timeout) = 0;
    // The ranks whose messages are still missing, or that have not taken theirs; where that cannot be told, all that
    // take part. This rank itself if its own GPU has not come so far.
    virtual std::vector<int> silent() const = 0;
};

// What an exchange belongs to, for a transport that watches over it by itself.
struct Operation {
    std::string name;  // for errors: kind, number, group, bytes
    std::chrono::nanoseconds timeout;
    bool one_way = false;  // may be held back until this rank waits for something: messages both ways go together then
};

class Transport {
  public:
    virtual ~Transport() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;
    // Starts all of these at once. Between two ranks messages match in the order of their exchanges and, within one, of
    // their lists. A rank may send to itself.
    virtual std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends,
                                               std::span<const ReceiveFrom> receives) = 0;
    // The same for messages in the GPU's memory. They are sent after everything that was submitted to its stream before
    // this call; what is submitted after wait() has returned true finds what arrived. Throws Error (70) where there is
    // no GPU.
    virtual std::unique_ptr<Exchange> exchange_on_device(std::span<const SendTo> sends,
                                                         std::span<const ReceiveFrom> receives,
                                                         const Operation& operation);
    // Ranks with the same color form a group, ordered by (key, rank). Every rank takes part.
    virtual std::unique_ptr<Transport> split(int color, int key) = 0;
    // Ends every exchange of every rank with an error that says why; under MPI the job, with this exit code.
    virtual void abort(const std::string& reason, ExitCode code) = 0;
};

// The only rank.
std::unique_ptr<Transport> single_transport();

// `size` ranks for as many threads of this process. Destroy them together.
std::vector<std::unique_ptr<Transport>> thread_transports(int size);

// Whether this process was started by mpirun, or by srun with MPI; always false in a build without MPI.
bool started_by_mpi();
// This process's rank as its launcher says, before MPI starts; 0 without a launcher.
int rank_of_launch();
// All ranks of the MPI job. One thread owns MPI from here to the end of the process. Throws Error (78) in a build
// without MPI. If MPI has not started within `deadline`, because ranks are missing, `late` is called and must end the
// process: MPI's start cannot be interrupted.
std::unique_ptr<Transport> mpi_transport(
    std::chrono::nanoseconds deadline = std::chrono::hours(1),
    const std::function<void()>& late = [] { std::abort(); });

// `host`, which carries the bytes, and messages in the memory of exec's GPU: copied to pinned memory in the order of
// its stream, sent by a thread once they are there, and copied back when the exchange is waited for. Exchanges of both
// kinds match in the order in which they were begun.
std::unique_ptr<Transport> staged_transport(std::shared_ptr<Transport> host, const Exec& exec);

// Whether this build has NCCL.
bool has_nccl();
// `host` for messages in host memory, NCCL for those in the memory of exec's GPU; no two ranks may share one. The two
// kinds go their own ways: only exchanges of one kind match in order. One-way messages leave when this rank waits for
// something, as one group that is done as a whole. All ranks of `host` take part. Throws Error (78)
// in a build without NCCL, (75) if the ranks do not come together within `timeout`, naming those that are missing.
std::unique_ptr<Transport> nccl_transport(std::shared_ptr<Transport> host, const Exec& exec,
                                          std::chrono::nanoseconds timeout);

}  // namespace plimsoll
