// Bytes between ranks. Four implementations: a rank alone, threads of one process, processes under MPI, processes that
// meet over TCP. Two more stand on one of these and take messages in a GPU's memory too: through pinned host memory, or
// by NCCL.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
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
    // Ends every exchange of every rank with an error that says why; under MPI and over TCP the job, with this exit
    // code, and does not return.
    virtual void abort(const std::string& reason, ExitCode code) = 0;
};

// The only rank.
std::unique_ptr<Transport> single_transport();

// `size` ranks for as many threads of this process. Destroy them together.
std::vector<std::unique_ptr<Transport>> thread_transports(int size);

// Whether this build has MPI.
bool has_mpi();
// All ranks of the MPI job. One thread owns MPI from here to the end of the process. Throws Error (78) in a build
// without MPI. If MPI has not started within `deadline`, because ranks are missing, `late` is called and must end the
// process: MPI's start cannot be interrupted.
std::unique_ptr<Transport> mpi_transport(
    std::chrono::nanoseconds deadline = std::chrono::hours(1),
    const std::function<void()>& late = [] { std::abort(); });

// A process of several that meet over TCP, without a launcher's help.
struct TcpLaunch {
    std::string host;  // where rank 0 listens: a name or an address
    int port = 0;
    int rank = 0, ranks = 1;
    std::string job;  // equal for all ranks of a job, and for no other that might come to the same port
    std::chrono::nanoseconds deadline = std::chrono::minutes(5);               // until all must have met
    std::function<void(const std::string&)> note = [](const std::string&) {};  // of what was refused meanwhile

    std::string rendezvous() const;  // "node1:29400"
};
// As the environment says: PLIMSOLL_RENDEZVOUS = host:port; rank and ranks in PLIMSOLL_RANK and PLIMSOLL_RANKS, else
// SLURM_PROCID and SLURM_NTASKS; job in PLIMSOLL_JOB_KEY, else SLURM_JOB_ID and SLURM_RESTART_COUNT. Nothing without
// PLIMSOLL_RENDEZVOUS. Throws Error (78) naming the variable that cannot be used.
std::optional<TcpLaunch> tcp_launch();
// All ranks of the job, every one connected to every other. A thread moves messages while the others compute. The
// connections are neither encrypted nor authenticated: `job` keeps mistakes out, not attackers.
// Throws Error (75) if the ranks do not come together in time, naming those that are missing; (78) if rank 0 refuses
// this process. Later a rank that is gone without having destroyed its transport ends all others with exit code 75.
std::unique_ptr<Transport> tcp_transport(const TcpLaunch& launch);

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
