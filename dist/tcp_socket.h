// What tcp_*.cpp stand on: sockets that close themselves, addresses, frames. All sockets are non-blocking.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/error.h"

namespace plimsoll::tcp {

using Clock = std::chrono::steady_clock;

class Socket {
  public:
    Socket() = default;
    explicit Socket(int fd) : fd_(fd) {}
    Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Socket& operator=(Socket&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Socket();
    int fd() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

  private:
    int fd_ = -1;
};

struct Address {
    sockaddr_storage storage{};
    socklen_t bytes = 0;

    // Numeric; an IPv4 address that an IPv6 socket shows as ::ffff:a.b.c.d is a.b.c.d.
    std::string host() const;
    int port() const;
    // "10.0.0.2:29400", "[fe80::2]:29400"
    std::string text() const;
    void set_port(int port);
    bool is_loopback() const;
    bool is_wildcard() const;
};

// Addresses of a name or of a numeric host, IPv6 and IPv4; on failure none, and why in `problem`.
std::vector<Address> resolve(const std::string& host, int port, std::string& problem);
bool is_numeric(const std::string& host);
Address own_address(const Socket& socket);
Address peer_address(const Socket& socket);

// Listens at an address (port 0: any free one), or, where it is empty, on every interface. On failure an empty socket
// with errno set.
Socket listen_at(const Address& address);
Socket listen_everywhere(int port);
// The next connection; empty if there is none.
Socket accept_from(const Socket& listener);
// Connects until `deadline`; on failure an empty socket, and why in `problem`.
Socket connect_to(const Address& address, Clock::time_point deadline, std::string& problem);

// Milliseconds until `deadline` for poll(): rounded up, never negative.
int poll_timeout(Clock::time_point deadline);
// Waits until the socket is ready for `events` of poll(). Returns false at the deadline.
bool wait_for(const Socket& socket, short events, Clock::time_point deadline);

// What goes over a connection once its hello was accepted, in the byte order of the machine, which all ranks share: a
// header, then `bytes` bytes.
enum class FrameKind : uint32_t {
    kData = 0x706c0001,  // of group `group`
    kGoodbye,            // nothing comes after it
    kAbort,              // the job ends with exit code `code`; text: why
    kTable,              // addresses of all ranks
    kWelcome,            // the hello was accepted
    kReady,              // connected to all ranks
    kGo,                 // all ranks are ready
};
struct FrameHeader {
    FrameKind kind = FrameKind::kData;
    uint32_t code = 0;
    uint64_t group = 0;
    uint64_t bytes = 0;
};
static_assert(sizeof(FrameHeader) == 24);

// All bytes until `deadline`, or Error (75): `who` ended the connection, or was silent.
void send_all(const Socket& socket, std::span<const std::byte> bytes, Clock::time_point deadline,
              const std::string& who);
void receive_all(const Socket& socket, std::span<std::byte> bytes, Clock::time_point deadline, const std::string& who);
void send_frame(const Socket& socket, FrameHeader header, std::string_view text, Clock::time_point deadline,
                const std::string& who);
struct Frame {
    FrameKind kind;
    std::string text;
};
// The next frame, at most 1 MiB long. An abort is thrown, with its code and text.
Frame receive_frame(const Socket& socket, Clock::time_point deadline, const std::string& who);

// An exit code from elsewhere: one that says failure.
ExitCode failure_code(uint32_t code);

}  // namespace plimsoll::tcp
