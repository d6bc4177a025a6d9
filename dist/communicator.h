// What ranks do together, on top of a transport: the same sums in the same order on every machine.
#pragma once

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "dist/flight_record.h"
#include "dist/shard_layout.h"
#include "dist/transport.h"
#include "kernels/memory.h"

namespace plimsoll {

enum class CommKind : uint8_t { kAllToAll, kReduceScatter, kAllGather, kBroadcast, kSend, kControl };
inline constexpr size_t kCommKinds = 6;
std::string_view name_of(CommKind kind);

// What an operation cost this rank.
struct CommStats {
    int64_t calls = 0;
    int64_t bytes = 0;        // sent
    double wait_seconds = 0;  // in Work::wait: what computing did not hide
};

// When operations are given up before their timeout, for all groups of a world: while `is_ending` says that this
// process was asked to end, and rightly waits no longer than `seconds`. Schedulers ask the others when a rank has died.
struct Patience {
    std::function<bool()> is_ending;
    double seconds = 0;  // 0: only the timeout counts
};

// Makes a transport that takes messages in the memory of exec's GPU, over one for host memory.
using DeviceTransport = std::function<std::unique_ptr<Transport>(std::shared_ptr<Transport> host, const Exec& exec,
                                                                 std::chrono::nanoseconds timeout)>;

class Communicator;

// An operation under way: its tensors belong to it until wait() returns.
class Work {
  public:
    Work() = default;
    // Until it is done. Throws Error (75) after the communicator's timeout, naming the operation, its number, the
    // group, the bytes and the ranks that are silent; the transport is aborted then, so that every rank ends.
    void wait();
    // Whether wait() was not called yet.
    bool pending() const { return exchange_ != nullptr; }

  private:
    friend class Communicator;
    // "all_gather number 2 of group 'world' (40 bytes from rank 0)"
    std::string name() const;

    Communicator* owner_ = nullptr;
    CommKind kind_{};
    int64_t number_ = 0, bytes_ = 0, ticket_ = 0;
    std::unique_ptr<Exchange> exchange_;
    std::function<void()> finish_;  // what is left to compute once everything arrived
};

// Operations are issued in the same order by every rank of the group. They return at once and are done when wait()
// returns. Sums are added in rank order 0, 1, 2 ... whatever arrives first, in the tensor's dtype (fp32 or fp64), so
// equal inputs give equal bits on any transport and any number of nodes.
//
// Tensors lie in host memory or, after bind(), in the memory of a GPU. Then an operation follows what was submitted to
// the GPU's stream before, the calling thread does not wait for that, and what is submitted after wait() finds the
// result. The tensors must stay as they are in the order of the stream.
class Communicator {
  public:
    explicit Communicator(std::unique_ptr<Transport> transport, std::string name = "world");

    int rank() const { return transport_->rank(); }
    int size() const { return transport_->size(); }
    const std::string& name() const { return name_; }
    std::chrono::nanoseconds timeout() const { return timeout_; }
    void set_timeout(std::chrono::nanoseconds timeout) { timeout_ = timeout; }
    // Groups split off later share it. For the thread that waits.
    Patience& patience() { return *patience_; }

    // From now on tensors may lie in the memory of exec's GPU; nothing changes if it has none. They travel by `make`'s
    // transport; without one by NCCL where the build has it and every rank has a GPU of its own, else through pinned
    // host memory. Every rank takes part, and groups split off later are bound too. The GPU must outlive this.
    void bind(const Exec& exec, DeviceTransport make = {});
    // Of the GPU it is bound to; of the host without one.
    const Exec& exec() const { return exec_; }

    // data[shards[rank]] becomes the sum over ranks of their data there; other elements stay as they are. 1-D, one
    // shard per rank, equal on every rank.
    Work reduce_scatter(Tensor data, std::span<const ElementRange> shards);
    // data[shards[r]] becomes rank r's, for every r.
    Work all_gather(Tensor data, std::span<const ElementRange> shards);
    // Part `send_offsets[r]`, `send_bytes[r]` of `send` goes to rank r; what r sends lands at receive_offsets[r]. Both
    // sides know the sizes; empty parts are not sent.
    Work all_to_all_v(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                      std::span<const int64_t> send_offsets, std::span<std::byte> receive,
                      std::span<const int64_t> receive_bytes, std::span<const int64_t> receive_offsets);
    Work send(std::span<const std::byte> bytes, int peer);
    Work receive(std::span<std::byte> bytes, int peer);
    // The same three for tensors, contiguous, on any device; sizes and offsets in bytes. `send` and `receive` of
    // all_to_all_v lie on one device.
    Work all_to_all_v(Tensor send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_offsets,
                      Tensor receive, std::span<const int64_t> receive_bytes, std::span<const int64_t> receive_offsets);
    Work send(Tensor tensor, int peer);
    Work receive(Tensor tensor, int peer);

    // Small things that are waited for at once.
    void broadcast(std::span<std::byte> bytes, int root);
    // The sums over ranks, in rank order, on every rank.
    void sum(std::span<double> values);
    // Every rank's bytes, one after the other in rank order; each has the same number.
    std::vector<std::byte> gather(std::span<const std::byte> bytes);
    // Every rank's value, in rank order.
    template <class T>
    requires std::is_trivially_copyable_v<T> std::vector<T> gather_each(const T& own) {
        std::vector<T> all(static_cast<size_t>(size()));
        const std::vector<std::byte> bytes = gather(std::as_bytes(std::span(&own, 1)));
        std::memcpy(all.data(), bytes.data(), bytes.size());
        return all;
    }
    void barrier();

    // How many ranks before this one run on the same machine.
    int rank_on_machine();

    // Ranks with the same color form a group, ordered by (key, rank), with this one's timeout and GPU. Every rank takes
    // part.
    Communicator split(int color, int key, std::string name);
    // Ends every rank's operations with an error that says why; under MPI the job, with this exit code.
    void abort(const std::string& reason, ExitCode code = ExitCode::kTransient);
    // The last operations of this world's groups on this rank.
    FlightRecord& record() { return *record_; }
    const CommStats& stats(CommKind kind) const { return stats_[static_cast<size_t>(kind)]; }

  private:
    friend class Work;
    Work start(CommKind kind, Device device, std::span<const SendTo> sends, std::span<const ReceiveFrom> receives,
               std::function<void()> finish = {});
    Work move_parts(Device device, std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                    std::span<const int64_t> send_offsets, std::span<std::byte> receive,
                    std::span<const int64_t> receive_bytes, std::span<const int64_t> receive_offsets);
    // Memory that belongs to an operation.
    std::shared_ptr<void> scratch(Device device, int64_t bytes);
    void check_device(const char* op, Tensor tensor) const;

    std::shared_ptr<Transport> transport_;
    std::string name_;
    Exec exec_;
    std::shared_ptr<std::multimap<int64_t, Memory>> idle_scratch_;  // by bytes, on the GPU
    std::chrono::nanoseconds timeout_ = std::chrono::seconds(300);
    int64_t next_number_ = 1;
    std::array<CommStats, kCommKinds> stats_;
    std::shared_ptr<FlightRecord> record_ = std::make_shared<FlightRecord>();
    std::shared_ptr<Patience> patience_ = std::make_shared<Patience>();
};

}  // namespace plimsoll
