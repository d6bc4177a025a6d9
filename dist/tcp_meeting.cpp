#include "dist/tcp_meeting.h"

#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <list>
#include <sstream>
#include <thread>

namespace plimsoll::tcp {
namespace {

constexpr std::array<char, 8> kMagic{'p', 'l', 'i', 'm', 't', 'c', 'p', '\n'};
constexpr uint32_t kVersion = 1;
constexpr size_t kMostStrangers = 256;  // at once, of which none has said who it is
constexpr std::chrono::seconds kHelloTime{5}, kConnectTime{5};
constexpr std::chrono::milliseconds kRetry{50};
// What the others leave rank 0 at the deadline to tell them who is missing.
constexpr std::chrono::seconds kGrace{2};

enum class Purpose : uint32_t { kJoin = 1, kPeer = 2 };

// The first bytes of every connection.
struct Hello {
    std::array<char, 8> magic = kMagic;
    uint32_t version = kVersion;
    Purpose purpose = Purpose::kJoin;
    int32_t rank = 0, ranks = 0;
    uint32_t port = 0;            // where its sender listens
    std::array<char, 132> job{};  // ends with a zero
};
static_assert(sizeof(Hello) == 160);

// A connection that has not said who it is.
struct Stranger {
    Socket socket;
    Clock::time_point deadline;
    Hello hello;
    size_t received = 0;
};

class Meeting {
  public:
    Meeting(const TcpLaunch& launch, Clock::time_point deadline)
        : launch_(launch), deadline_(deadline), peers_(static_cast<size_t>(launch.ranks)) {}

    std::vector<Socket> as_first() {
        listen_where_all_look();
        std::vector<Address> listeners(peers_.size());
        let_in(Purpose::kJoin, [&](const Hello& hello, const Address& from) {
            Address& listener = listeners[static_cast<size_t>(hello.rank)] = from;
            listener.set_port(static_cast<int>(hello.port));
        });
        std::string table;
        for (size_t r = 1; r < peers_.size(); ++r)
            table += fmt::format("{} {}\n", listeners[r].host(), listeners[r].port());
        tell_others({.kind = FrameKind::kTable}, table);
        await_ready();
        tell_others({.kind = FrameKind::kGo}, "");
        return std::move(peers_);
    }

    std::vector<Socket> as_other() {
        Socket& first = peers_[0] = reach_first();
        const Address there = peer_address(first);
        listener_ = listen_nearby(own_address(first));
        if (!listener_) fail("cannot listen for other ranks: {}", std::strerror(errno));
        send_hello(0, Purpose::kJoin);
        const std::string table = expect(0, FrameKind::kTable, "not every rank came");
        connect_to_lower(table, there);
        let_in(Purpose::kPeer, [](const Hello& /*hello*/, const Address& /*from*/) {});
        for (int r = 1; r < launch_.rank; ++r) expect(r, FrameKind::kWelcome, "it answers no other rank");
        send_frame(first, {.kind = FrameKind::kReady}, "", deadline_ + kGrace, name(0));
        expect(0, FrameKind::kGo, "not every rank connected to all others");
        return std::move(peers_);
    }

    // Tells those that came why this rank ends.
    void give_up(const Error& error) noexcept {
        for (const Socket& peer : peers_) {
            if (!peer) continue;
            try {
                send_frame(peer, {.kind = FrameKind::kAbort, .code = static_cast<uint32_t>(error.code())}, error.what(),
                           Clock::now() + std::chrono::milliseconds(200), "");
            } catch (const Error&) {  // it is gone too
            }
        }
    }

  private:
    template <class... Args>
    [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
        throw Error(ExitCode::kTransient, fmt::format(format, std::forward<Args>(args)...));
    }
    std::string name(int rank) const {
        return rank == 0 ? fmt::format("rank 0 at {}", launch_.rendezvous()) : fmt::format("rank {}", rank);
    }
    Socket& peer(int rank) { return peers_[static_cast<size_t>(rank)]; }
    double seconds() const { return std::chrono::duration<double>(launch_.deadline).count(); }

    void listen_where_all_look() {
        // A name may stand for a loopback address on the machine itself: only a numeric address is taken at its word.
        std::string problem;
        const bool numeric = is_numeric(launch_.host);
        bool told = false;
        while (true) {
            listener_ = numeric ? listen_at(resolve(launch_.host, launch_.port, problem).front())
                                : listen_everywhere(launch_.port);
            if (listener_) return;
            if (errno != EADDRINUSE)
                fail_input(
                    "PLIMSOLL_RENDEZVOUS = '{}': rank 0 cannot listen there: {}; is it an address of the "
                    "machine that rank 0 runs on?",
                    launch_.rendezvous(), std::strerror(errno));
            if (!std::exchange(told, true))
                launch_.note(fmt::format("port {} is in use; waiting for it", launch_.port));
            if (Clock::now() >= deadline_)
                fail("PLIMSOLL_RENDEZVOUS = '{}': the port was in use for {:.0f} s; choose another",
                     launch_.rendezvous(), seconds());
            std::this_thread::sleep_for(kRetry);
        }
    }

    // A port for ranks that come after this one, at the address that reaches rank 0.
    Socket listen_nearby(Address own) const {
        own.set_port(0);
        return own.is_loopback() && !is_numeric(launch_.host) ? listen_everywhere(0) : listen_at(own);
    }

    Socket reach_first() const {
        std::string problem;
        do {
            for (const Address& address : resolve(launch_.host, launch_.port, problem))
                if (Socket socket = connect_to(address, std::min(deadline_, Clock::now() + kConnectTime), problem))
                    return socket;
            std::this_thread::sleep_for(kRetry);
        } while (Clock::now() < deadline_);
        fail("{} was not reached within {:.0f} s ({})", name(0), seconds(), problem);
    }

    void send_hello(int rank, Purpose purpose) {
        Hello hello{.purpose = purpose,
                    .rank = launch_.rank,
                    .ranks = launch_.ranks,
                    .port = static_cast<uint32_t>(own_address(listener_).port())};
        launch_.job.copy(hello.job.data(), hello.job.size() - 1);
        send_all(peer(rank), std::as_bytes(std::span(&hello, 1)), deadline_ + kGrace, name(rank));
    }

    std::string expect(int rank, FrameKind kind, const char* otherwise) {
        if (!wait_for(peer(rank), POLLIN, deadline_ + kGrace))
            fail("{} says nothing within {:.0f} s: {}", name(rank), seconds(), otherwise);
        Frame frame = receive_frame(peer(rank), deadline_ + kGrace, name(rank));
        if (frame.kind != kind) fail("{} does not speak plimsoll's protocol", name(rank));
        return std::move(frame.text);
    }

    // Whom rank 0 sees at a loopback address runs on its machine: it is reached where rank 0 is.
    void connect_to_lower(const std::string& table, const Address& first) {
        std::istringstream lines(table);
        for (int r = 1; r < launch_.ranks; ++r) {
            std::string host, problem;
            int port = 0;
            if (!(lines >> host >> port)) fail("{} sent a table without rank {}", name(0), r);
            if (r >= launch_.rank) continue;
            std::vector<Address> found = resolve(host, port, problem);
            if (found.empty()) fail("rank {} listens at '{}', says rank 0: {}", r, host, problem);
            Address address = found.front();
            if (address.is_loopback()) {
                address = first;
                address.set_port(port);
            }
            while (!(peer(r) = connect_to(address, std::min(deadline_, Clock::now() + kConnectTime), problem))) {
                if (Clock::now() >= deadline_)
                    fail("rank {} was not reached within {:.0f} s ({}); ranks connect to each other on any port", r,
                         seconds(), problem);
                std::this_thread::sleep_for(kRetry);
            }
            send_hello(r, Purpose::kPeer);
        }
    }

    // Who is still to come: rank 0 waits for all others, they for those above them.
    std::vector<int> missing() const {
        std::vector<int> ranks;
        for (int r = launch_.rank + 1; r < launch_.ranks; ++r)
            if (!peers_[static_cast<size_t>(r)]) ranks.push_back(r);
        return ranks;
    }

    // Until everybody has come. `admitted` gets each one's hello.
    template <class F>
    void let_in(Purpose purpose, F&& admitted) {
        while (!missing().empty()) {
            if (Clock::now() >= deadline_)
                fail("ranks {} of {} did not come to {} within {:.0f} s", fmt::join(missing(), ", "), launch_.ranks,
                     name(launch_.rank), seconds());
            wait_at_the_door();
            watch_those_who_came();
            while (strangers_.size() < kMostStrangers) {
                Socket socket = accept_from(listener_);
                if (!socket && (errno == EMFILE || errno == ENFILE))
                    fail_input("{} connections are more than this process may have; raise ulimit -n", launch_.ranks);
                if (!socket) break;
                strangers_.push_back({std::move(socket), Clock::now() + kHelloTime, {}, 0});
            }
            for (auto at = strangers_.begin(); at != strangers_.end();)
                at = still_strange(*at, purpose, admitted) ? std::next(at) : strangers_.erase(at);
        }
        listener_ = {};
        strangers_.clear();
    }

    void wait_at_the_door() const {
        std::vector<pollfd> entries;
        const auto add = [&](const Socket& socket) { entries.push_back({socket.fd(), POLLIN, 0}); };
        Clock::time_point until = deadline_;
        if (strangers_.size() < kMostStrangers) add(listener_);
        for (const Stranger& stranger : strangers_) {
            add(stranger.socket);
            until = std::min(until, stranger.deadline);
        }
        for (const Socket& watched : watched_peers())
            if (watched) add(watched);
        poll(entries.data(), entries.size(), poll_timeout(until));
    }

    // Those that have nothing to say now, but may end: for rank 0 all, for the others rank 0.
    std::span<Socket> watched_peers() { return std::span(peers_).first(launch_.rank == 0 ? peers_.size() : 1); }
    std::span<const Socket> watched_peers() const {
        return std::span(peers_).first(launch_.rank == 0 ? peers_.size() : 1);
    }
    void watch_those_who_came() {
        int rank = 0;
        for (Socket& watched : watched_peers()) {
            const int r = rank++;
            if (!watched || !wait_for(watched, POLLIN, Clock::now())) continue;
            try {
                receive_frame(watched, Clock::now() + kGrace, name(r));
                fail("{} does not speak plimsoll's protocol", name(r));
            } catch (const Error& error) {
                if (launch_.rank != 0) throw;
                launch_.note(fmt::format("rank {} came and ended: {}", r, error.what()));
                watched = {};
            }
        }
    }

    // Reads what came of a hello. Returns whether more is to come.
    template <class F>
    bool still_strange(Stranger& stranger, Purpose purpose, F&& admitted) {
        const std::span bytes = std::as_writable_bytes(std::span(&stranger.hello, 1));
        const ssize_t got =
            recv(stranger.socket.fd(), bytes.data() + stranger.received, bytes.size() - stranger.received, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (Clock::now() < stranger.deadline) return true;
            refuse(stranger, ExitCode::kTransient, "it did not say who it is");
            return false;
        }
        if (got <= 0) return false;  // it is gone: a look at the port
        stranger.received += static_cast<size_t>(got);
        const Hello& hello = stranger.hello;
        if (!std::equal(kMagic.begin(), kMagic.begin() + std::min(stranger.received, kMagic.size()),
                        hello.magic.begin()))
            refuse(stranger, ExitCode::kBadInput, "it is no rank of plimsoll");
        else if (stranger.received < sizeof hello)
            return true;
        else if (const auto [code, why] = objection(hello, purpose); !why.empty())
            refuse(stranger, code, why);
        else
            admit(stranger, purpose, admitted);
        return false;
    }

    template <class F>
    void admit(Stranger& stranger, Purpose purpose, F&& admitted) {
        const int rank = stranger.hello.rank;
        admitted(stranger.hello, peer_address(stranger.socket));
        peer(rank) = std::move(stranger.socket);
        if (purpose == Purpose::kPeer)
            send_frame(peer(rank), {.kind = FrameKind::kWelcome}, "", deadline_ + kGrace, name(rank));
    }

    // Why a hello is not accepted; empty if it is.
    std::pair<ExitCode, std::string> objection(const Hello& hello, Purpose purpose) const {
        const std::string job(hello.job.data(), strnlen(hello.job.data(), hello.job.size()));
        const ExitCode bad = ExitCode::kBadInput;
        if (hello.version != kVersion)
            return {bad, fmt::format("it speaks version {} of the protocol, not {}; start the same program everywhere",
                                     hello.version, kVersion)};
        if (job != launch_.job)  // one job may end where the next begins
            return {ExitCode::kTransient,
                    fmt::format("it belongs to job '{}', not '{}'", brief(job), brief(launch_.job))};
        if (hello.ranks != launch_.ranks)
            return {bad, fmt::format("it counts {} ranks, not {}", hello.ranks, launch_.ranks)};
        if (hello.rank <= launch_.rank || hello.rank >= launch_.ranks)
            return {bad, fmt::format("it calls itself rank {}; wanted {} .. {}{}", hello.rank, launch_.rank + 1,
                                     launch_.ranks - 1, hello.rank == launch_.rank ? ", this one is there" : "")};
        if (const Socket& there = peers_[static_cast<size_t>(hello.rank)])
            return {bad, fmt::format("rank {} is there already, from {}; have two processes the same PLIMSOLL_RANK?",
                                     hello.rank, peer_address(there).host())};
        if (hello.purpose != purpose || hello.port == 0 || hello.port > 65535) return {bad, "its hello makes no sense"};
        return {};
    }

    void refuse(const Stranger& stranger, ExitCode code, const std::string& why) const {
        launch_.note(fmt::format("refused a connection from {}: {}", peer_address(stranger.socket).text(), why));
        try {
            send_frame(stranger.socket, {.kind = FrameKind::kAbort, .code = static_cast<uint32_t>(code)},
                       fmt::format("{} refuses this process: {}", name(launch_.rank), why), Clock::now(), "");
        } catch (const Error&) {  // it does not listen
        }
    }

    // Until every rank is connected to all: rank 0 hears it from each.
    void await_ready() {
        std::vector<int> open;
        for (int r = 1; r < launch_.ranks; ++r) open.push_back(r);
        while (!open.empty()) {
            std::vector<pollfd> entries;
            for (const int r : open) entries.push_back({peer(r).fd(), POLLIN, 0});
            poll(entries.data(), entries.size(), poll_timeout(deadline_));
            if (Clock::now() >= deadline_)
                fail(
                    "ranks {} of {} did not connect to all others within {:.0f} s; ranks connect to each other on any "
                    "port",
                    fmt::join(open, ", "), launch_.ranks, seconds());
            for (const pollfd& entry : entries)
                if (entry.revents)
                    std::erase_if(open, [&](int r) {
                        return peer(r).fd() == entry.fd && (expect(r, FrameKind::kReady, ""), true);
                    });
        }
    }

    void tell_others(FrameHeader header, const std::string& text) {
        for (int r = 1; r < launch_.ranks; ++r) send_frame(peer(r), header, text, deadline_ + kGrace, name(r));
    }

    const TcpLaunch& launch_;
    Clock::time_point deadline_;
    Socket listener_;
    std::list<Stranger> strangers_;
    std::vector<Socket> peers_;
};

}  // namespace

std::vector<Socket> meet(const TcpLaunch& launch, Clock::time_point deadline) {
    Meeting meeting(launch, deadline);
    try {
        return launch.rank == 0 ? meeting.as_first() : meeting.as_other();
    } catch (const Error& error) {
        meeting.give_up(error);
        throw;
    }
}

}  // namespace plimsoll::tcp
