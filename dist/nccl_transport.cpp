// Messages in a GPU's memory by ncclSend and ncclRecv, on a stream beside the one that computes. Messages in host
// memory go the way of the transport underneath.
#include "dist/nccl_transport.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "dist/nccl_watch.h"
#include "kernels/cuda/context.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

using cuda::check_cuda;
using std::chrono::nanoseconds;

constexpr std::chrono::microseconds kPoll{20};
constexpr std::chrono::seconds kFarewell{5};  // for ranks that end at different times

double seconds(nanoseconds time) {
    return std::chrono::duration<double>(time).count();
}

// Sends `own` to every other rank and returns what each sent; zeros from those that sent nothing in time.
std::vector<std::byte> tell_everybody(Transport& host, std::byte own, nanoseconds timeout) {
    std::vector<std::byte> words(static_cast<size_t>(host.size()));
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < host.size(); ++r) {
        if (r == host.rank()) continue;
        sends.push_back({r, {&own, 1}});
        receives.push_back({r, std::span(words).subspan(static_cast<size_t>(r), 1)});
    }
    words[static_cast<size_t>(host.rank())] = own;
    host.exchange(sends, receives)->wait(timeout);
    return words;
}

// Rank 0 makes it, everybody gets it.
ncclUniqueId share_id(Transport& host, const NcclApi& api, nanoseconds timeout) {
    ncclUniqueId id{};
    const std::span bytes(reinterpret_cast<std::byte*>(&id), sizeof id);
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    if (host.rank() == 0) {
        const ncclResult_t result = api.get_unique_id(&id);
        check(result == ncclSuccess, "ncclGetUniqueId: {}", api.error_string(result));
        for (int r = 1; r < host.size(); ++r) sends.push_back({r, bytes});
    } else {
        receives.push_back({0, bytes});
    }
    const std::unique_ptr<Exchange> exchange = host.exchange(sends, receives);
    if (!exchange->wait(timeout))
        throw Error(ExitCode::kTransient, fmt::format("NCCL: ranks {} did not come to connect within {:.1f} s",
                                                      fmt::join(exchange->silent(), ", "), seconds(timeout)));
    return id;
}

// A communicator of the ranks of `host`. Half of the time is for NCCL, the other half for the ranks to tell each other
// how it went: NCCL cannot say who is missing.
ncclComm_t connect(Transport& host, NcclWatch& watch, nanoseconds timeout) {
    const NcclApi& api = watch.api();
    const auto deadline = NcclClock::now() + timeout / 2;
    const ncclUniqueId id = share_id(host, api, timeout / 2);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t communicator = nullptr;
    ncclResult_t result = api.init_rank_config(&communicator, host.size(), id, host.rank(), &config);
    while (result == ncclInProgress && NcclClock::now() < deadline) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        api.get_async_error(communicator, &result);
    }
    const std::byte ready{result == ncclSuccess};
    const std::vector<std::byte> words = tell_everybody(host, ready, timeout / 2);
    std::vector<int> missing;
    for (int r = 0; r < host.size(); ++r)
        if (words[static_cast<size_t>(r)] == std::byte{0}) missing.push_back(r);
    if (missing.empty()) {
        const std::lock_guard lock(watch.mutex());
        watch.add(communicator);
        return communicator;
    }
    if (communicator) api.abort(communicator);
    throw Error(
        ExitCode::kTransient,
        fmt::format("NCCL: ranks {} of {} did not connect within {:.1f} s, this is rank {}: {}; NCCL_DEBUG=INFO "
                    "says more",
                    fmt::join(missing, ", "), host.size(), seconds(timeout), host.rank(), api.error_string(result)));
}

// What a transport and its exchanges share: a communicator and its stream.
class Link {
  public:
    Link(Transport& host, std::shared_ptr<NcclWatch> watch, const Exec& exec, nanoseconds timeout)
        : watch_(std::move(watch)), exec_(exec), rank_(host.rank()), communicator_(connect(host, *watch_, timeout)) {
        check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
        check_cuda(cudaEventCreateWithFlags(&computed_, cudaEventDisableTiming), "cudaEventCreate");
    }
    ~Link() {
        watch_->forget(this);
        say_goodbye();
        cudaEventDestroy(computed_);
        cudaStreamDestroy(stream_);
    }
    Link(const Link&) = delete;
    NcclWatch& watch() { return *watch_; }
    const std::shared_ptr<NcclWatch>& shared_watch() const { return watch_; }

    // Adds messages to the group that is launched next; they follow what the GPU was given so far.
    std::shared_ptr<NcclFlight> add(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives,
                                    const Operation& operation) {
        const auto deadline = NcclClock::now() + operation.timeout;
        if (!next_) {
            next_ = std::make_shared<NcclFlight>();
            next_->name = operation.name;
            next_->communicator = communicator_;
            next_->deadline = deadline;
        }
        next_->deadline = std::min(next_->deadline, deadline);
        next_->sends.insert(next_->sends.end(), sends.begin(), sends.end());
        next_->receives.insert(next_->receives.end(), receives.begin(), receives.end());
        check_cuda(cudaEventRecord(computed_, exec_.cuda->stream()), "cudaEventRecord");
        check_cuda(cudaStreamWaitEvent(stream_, computed_, 0), "cudaStreamWaitEvent");
        const std::shared_ptr<NcclFlight> flight = next_;
        if (operation.one_way)
            watch_->hold_back(this, [this] { launch(); });
        else
            launch();
        return flight;
    }

  private:
    void launch() {
        watch_->forget(this);
        const std::shared_ptr<NcclFlight> flight = std::exchange(next_, nullptr);
        copy_own(*flight);
        {
            const std::lock_guard lock(watch_->mutex());
            if (watch_->failure()) return;
            watch_->add(flight);
            submit(*flight);
        }
        // NCCL may still be connecting peers: the event must stand behind the messages in the stream.
        while (true) {
            {
                const std::lock_guard lock(watch_->mutex());
                if (watch_->failure()) return;
                ncclResult_t result = ncclSuccess;
                watch_->expect(watch_->api().get_async_error(communicator_, &result), "ncclCommGetAsyncError");
                watch_->expect(result, "NCCL");
                if (watch_->failure()) return;
                if (result == ncclSuccess) {
                    check_cuda(cudaEventRecord(flight->done, stream_), "cudaEventRecord");
                    flight->recorded = true;
                    return;
                }
            }
            std::this_thread::sleep_for(kPoll);
        }
    }

    bool moves(int peer, size_t bytes) const { return peer != rank_ && bytes > 0; }

    // In the order of the lists: between two ranks that is how NCCL matches messages.
    void submit(const NcclFlight& flight) {
        const NcclApi& api = watch_->api();
        const auto mine = [&](const auto& message) { return moves(message.peer, message.bytes.size()); };
        if (std::ranges::none_of(flight.sends, mine) && std::ranges::none_of(flight.receives, mine)) return;
        const char* refused = "ncclGroupStart";
        ncclResult_t result = api.group_start();
        const auto in_order = [&](const char* call, const auto& messages, const auto& post) {
            for (const auto& m : messages) {
                if (!mine(m) || (result != ncclSuccess && result != ncclInProgress)) continue;
                result = post(m.bytes.data(), m.bytes.size(), ncclInt8, m.peer, communicator_, stream_);
                if (result != ncclSuccess && result != ncclInProgress) refused = call;
            }
        };
        in_order("ncclSend", flight.sends, api.send);
        in_order("ncclRecv", flight.receives, api.receive);
        const ncclResult_t ended = api.group_end();  // also after an error: or the next group would be part of this one
        watch_->expect(result, refused);
        watch_->expect(ended, "ncclGroupEnd");
    }

    void copy_own(const NcclFlight& flight) {
        std::vector<std::span<const std::byte>> out;
        std::vector<std::span<std::byte>> in;
        for (const SendTo& m : flight.sends)
            if (m.peer == rank_) out.push_back(m.bytes);
        for (const ReceiveFrom& m : flight.receives)
            if (m.peer == rank_) in.push_back(m.bytes);
        check(out.size() == in.size(), "rank {} sends {} messages to itself and takes {}", rank_, out.size(),
              in.size());
        for (size_t i = 0; i < in.size(); ++i) {
            check(in[i].size() == out[i].size(), "rank {} and rank {}: a message of {} bytes, {} were expected", rank_,
                  rank_, out[i].size(), in[i].size());
            check_cuda(cudaMemcpyAsync(in[i].data(), out[i].data(), in[i].size(), cudaMemcpyDeviceToDevice, stream_),
                       "copy");
        }
    }

    void say_goodbye() {
        {
            const std::lock_guard lock(watch_->mutex());
            if (!watch_->remove(communicator_)) return;
        }
        const NcclApi& api = watch_->api();
        const auto deadline = NcclClock::now() + kFarewell;
        ncclResult_t result = api.finalize(communicator_);
        while (result == ncclInProgress && NcclClock::now() < deadline) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            api.get_async_error(communicator_, &result);
        }
        result == ncclSuccess ? api.destroy(communicator_) : api.abort(communicator_);
    }

    std::shared_ptr<NcclWatch> watch_;
    Exec exec_;
    int rank_;
    ncclComm_t communicator_;
    cudaStream_t stream_ = nullptr;
    cudaEvent_t computed_ = nullptr;    // what the stream beside it has to wait for
    std::shared_ptr<NcclFlight> next_;  // not launched yet
};

class NcclExchange final : public Exchange {
  public:
    NcclExchange(std::shared_ptr<Link> link, std::shared_ptr<NcclFlight> flight, std::vector<int> peers,
                 const Operation& operation)
        : link_(std::move(link)), flight_(std::move(flight)), peers_(std::move(peers)), name_(operation.name) {}
    ~NcclExchange() override {
        const std::lock_guard lock(link_->watch().mutex());
        if (!flight_->over) link_->watch().fail(fmt::format("{} was given up", name_));
    }

    bool wait(nanoseconds timeout) override {
        const auto deadline = NcclClock::now() + timeout;
        link_->watch().launch_held_back();
        while (true) {
            {
                const std::lock_guard lock(link_->watch().mutex());
                // A failure first: aborted messages look as if they had arrived.
                if (!flight_->over && link_->watch().failure()) refuse(*link_->watch().failure());
                if (link_->watch().arrived(*flight_)) return true;
            }
            if (NcclClock::now() > deadline) return false;
            std::this_thread::sleep_for(kPoll);
        }
    }
    std::vector<int> silent() const override { return peers_; }

    [[noreturn]] void refuse(const std::string& why) const {
        throw Error(ExitCode::kTransient, fmt::format("{}, with ranks {}: {}", name_, fmt::join(peers_, ", "), why));
    }

  private:
    std::shared_ptr<Link> link_;
    std::shared_ptr<NcclFlight> flight_;
    std::vector<int> peers_;
    std::string name_;
};

class NcclTransport final : public Transport {
  public:
    NcclTransport(std::shared_ptr<Transport> host, std::shared_ptr<NcclWatch> watch, const Exec& exec,
                  nanoseconds timeout)
        : host_(std::move(host)),
          exec_(exec),
          timeout_(timeout),
          link_(std::make_shared<Link>(*host_, std::move(watch), exec, timeout)) {}
    int rank() const override { return host_->rank(); }
    int size() const override { return host_->size(); }
    std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) override {
        link_->watch().launch_held_back();
        return host_->exchange(sends, receives);
    }

    std::unique_ptr<Exchange> exchange_on_device(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives,
                                                 const Operation& operation) override {
        std::vector<int> peers;
        for (const SendTo& m : sends) peers.push_back(m.peer);
        for (const ReceiveFrom& m : receives) peers.push_back(m.peer);
        std::ranges::sort(peers);
        peers.erase(std::ranges::unique(peers).begin(), peers.end());
        return std::make_unique<NcclExchange>(link_, link_->add(sends, receives, operation), std::move(peers),
                                              operation);
    }

    std::unique_ptr<Transport> split(int color, int key) override {
        return std::make_unique<NcclTransport>(host_->split(color, key), link_->shared_watch(), exec_, timeout_);
    }
    void abort(const std::string& reason, ExitCode code) override {
        {
            const std::lock_guard lock(link_->watch().mutex());
            link_->watch().fail(reason);
        }
        host_->abort(reason, code);
    }

  private:
    std::shared_ptr<Transport> host_;
    Exec exec_;
    nanoseconds timeout_;
    std::shared_ptr<Link> link_;
};

}  // namespace

std::unique_ptr<Transport> nccl_transport_with(const NcclApi& api, std::shared_ptr<Transport> host, const Exec& exec,
                                               nanoseconds timeout) {
    return std::make_unique<NcclTransport>(std::move(host), std::make_shared<NcclWatch>(api, exec.cuda->index()), exec,
                                           timeout);
}

}  // namespace plimsoll
