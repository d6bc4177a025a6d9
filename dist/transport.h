// Bytes between ranks. Three implementations: a rank alone, threads of one process, processes under MPI.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

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
    // The ranks whose messages are still missing, or that have not taken theirs.
    virtual std::vector<int> silent() const = 0;
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
    // Ranks with the same color form a group, ordered by (key, rank). Every rank takes part.
    virtual std::unique_ptr<Transport> split(int color, int key) = 0;
    // Ends every exchange of every rank with an error that says why.
    virtual void abort(const std::string& reason) = 0;
};

// The only rank.
std::unique_ptr<Transport> single_transport();

// `size` ranks for as many threads of this process. Destroy them together.
std::vector<std::unique_ptr<Transport>> thread_transports(int size);

// Whether this process was started by mpirun, or by srun with MPI; always false in a build without MPI.
bool started_by_mpi();
// All ranks of the MPI job. One thread owns MPI from here to the end of the process. Throws Error (78) in a build
// without MPI, Error (70) if MPI does not start.
std::unique_ptr<Transport> mpi_transport();

}  // namespace plimsoll
