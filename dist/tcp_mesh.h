// Messages over a connection to every other rank: one thread moves them, whatever the other threads do.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "dist/tcp_socket.h"
#include "dist/transport.h"

namespace plimsoll::tcp {

// An exchange. Peers are ranks of the mesh.
struct Requests {
    uint64_t group = 0;
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    std::vector<bool> sent, received;  // the thread's
    size_t open = 0;                   // the thread's
    // With the mesh's mutex:
    bool done = false;
    std::string problem;
    ExitCode code = ExitCode::kInternal;
};

// Messages of one group between two ranks arrive in the order in which they were sent; one that comes before its
// receive is kept until then. The thread sleeps in poll() while nothing moves.
//
// A connection that ends without a goodbye ends the process, with exit code 75 and a line that names the rank; so does
// another rank's abort, with its code. Both within a second, whatever this process is doing.
class Mesh {
  public:
    // Connections to all other ranks, as meet() leaves them.
    Mesh(int rank, std::vector<Socket> peers);
    // Sends what is left to send, and a goodbye. Waits at most a second for those of the others.
    ~Mesh();
    int rank() const { return rank_; }
    int size() const { return static_cast<int>(peers_.size()); }

    void start(std::shared_ptr<Requests> requests);
    // Whether it is done, after at most `timeout`. Throws the Error that one of its messages met.
    bool wait(const Requests& requests, std::chrono::nanoseconds timeout);
    // Ranks whose messages are missing, or were not taken.
    std::vector<int> silent(const Requests& requests);
    // The memory of its messages will not be touched any more.
    void abandon(const std::shared_ptr<Requests>& requests);
    // Ends every rank's process with this exit code. Where several have something to say, the first of them says it.
    [[noreturn]] void abort(const std::string& reason, ExitCode code);

  private:
    static constexpr size_t kBuffer = 1 << 16;

    struct Outgoing {
        FrameHeader header;
        std::span<const std::byte> payload;
        std::shared_ptr<Requests> owner;  // none: the text of a frame, or an abandoned message
        size_t index = 0;                 // in owner->sends
        std::vector<std::byte> own;       // payload of those without an owner
        size_t moved = 0;                 // bytes, header and payload
    };
    struct Receive {
        std::shared_ptr<Requests> owner;
        size_t index = 0;
    };
    // A message that came before its receive.
    struct Early {
        std::unique_ptr<std::byte[]> data;
        size_t bytes = 0;
        bool whole = false;
        Receive claim;  // the receive that came while it was arriving
    };
    struct Lane {
        std::deque<Receive> posted;
        std::deque<std::shared_ptr<Early>> early;
    };
    struct Peer {
        Socket socket;
        std::deque<Outgoing> out;
        bool goodbye = false, ended = false, shut = false;
        // What is arriving.
        FrameHeader header;
        size_t header_bytes = 0;
        uint64_t left = 0;        // of the body
        std::byte* to = nullptr;  // none: dropped
        Receive receive;          // into its memory
        std::shared_ptr<Early> early;
        std::string text;  // of an abort
    };
    enum class End : uint8_t { kNo, kGoodbye, kAbort };

    template <class F>
    auto run(F&& work) -> decltype(work());
    void add_task(std::function<void()> task);
    void wake();
    void work();
    void turn();
    void run_tasks();
    int timeout() const;

    void post(const std::shared_ptr<Requests>& requests);
    void post_send(const std::shared_ptr<Requests>& requests, size_t index);
    void post_receive(const std::shared_ptr<Requests>& requests, size_t index);
    // A message begins, or ends, to arrive.
    void begin_message(int from, Peer& peer);
    void end_message(int from, Peer& peer);
    // Gives an early message to a receive that has waited for it.
    void deliver(const Early& early, const Receive& receive, int from);
    bool fits(const Receive& receive, uint64_t bytes, int from);
    void complete(const std::shared_ptr<Requests>& owner, std::vector<bool>& done, size_t index);
    void note_problem(Requests& requests, ExitCode code, std::string text);
    void detach(const std::shared_ptr<Requests>& requests);

    void read_from(int rank, Peer& peer);
    void take(int rank, Peer& peer, std::span<const std::byte> bytes);
    void begin_frame(int rank, Peer& peer);
    void write_to(int rank, Peer& peer);
    void ended(int rank, Peer& peer, const std::string& why);
    void goodbye_of(int rank, Peer& peer);
    void end_frame(int rank, Peer& peer);
    // Of the ranks that are there. Where all have the same to say, it is the one that says it.
    bool is_lowest() const;
    // What the others leave it for that: as long as an abort takes to arrive, and then some.
    std::chrono::milliseconds modesty() const { return std::chrono::milliseconds(500 + 20 * std::min(rank_, 10)); }
    void tell_all(FrameKind kind, ExitCode code, const std::string& text);
    void end_job(ExitCode code, const std::string& reason);
    void report_lost();

    const int rank_;
    std::vector<Peer> peers_;                         // the thread's, as are:
    std::map<std::pair<uint64_t, int>, Lane> lanes_;  // by group and rank
    std::unique_ptr<std::byte[]> buffer_ = std::make_unique<std::byte[]>(kBuffer);
    End end_ = End::kNo;
    ExitCode exit_code_ = ExitCode::kOk;
    Clock::time_point end_deadline_;
    bool all_sent_ = false;
    struct Lost {
        int rank;
        std::string why;
        Clock::time_point deadline;
    };
    std::optional<Lost> lost_;

    Socket event_;  // wakes the thread
    std::mutex mutex_;
    std::condition_variable finished_;
    std::deque<std::function<void()>> tasks_;
    std::atomic<bool> aborting_ = false;
    std::thread thread_;  // last: it uses all of them
};

template <class F>
auto Mesh::run(F&& work) -> decltype(work()) {
    std::packaged_task<decltype(work())()> task(std::forward<F>(work));
    auto result = task.get_future();
    add_task([&task] { task(); });
    return result.get();
}

}  // namespace plimsoll::tcp
