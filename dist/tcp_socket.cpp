#include "dist/tcp_socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace plimsoll::tcp {
namespace {

constexpr uint64_t kLongestText = 1 << 20;
constexpr int kWaiting = 1024;  // connections the kernel holds until they are accepted

void set(const Socket& socket, int level, int option, int value) {
    setsockopt(socket.fd(), level, option, &value, sizeof value);
}

Socket open_socket(int family) {
    return Socket(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

// Small messages leave at once; a machine that is gone is noticed within a minute, also by ranks that only listen.
void prepare(const Socket& socket) {
    set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
    set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(socket, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set(socket, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

const sockaddr* pointer(const Address& address) {
    return reinterpret_cast<const sockaddr*>(&address.storage);
}

const in6_addr& ip6(const Address& address) {
    return reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr;
}

uint32_t ip4(const Address& address) {
    return ntohl(reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr.s_addr);
}

// ::ffff:a.b.c.d as a.b.c.d
Address unmapped(const Address& address) {
    if (address.storage.ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&ip6(address))) return address;
    Address plain;
    auto* to = reinterpret_cast<sockaddr_in*>(&plain.storage);
    to->sin_family = AF_INET;
    to->sin_port = reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_port;
    std::memcpy(&to->sin_addr, ip6(address).s6_addr + 12, 4);
    plain.bytes = sizeof(sockaddr_in);
    return plain;
}

template <class F>
Address address_by(const Socket& socket, F&& ask) {
    Address address;
    address.bytes = sizeof address.storage;
    if (ask(socket.fd(), reinterpret_cast<sockaddr*>(&address.storage), &address.bytes) != 0) address.bytes = 0;
    return unmapped(address);
}

[[noreturn]] void fail_transient(const std::string& text) {
    throw Error(ExitCode::kTransient, text);
}

// Moves all bytes by `move` (recv or send), waiting for `events` in between.
template <class Byte, class Move>
void move_all(const Socket& socket, std::span<Byte> bytes, short events, Clock::time_point deadline,
              const std::string& who, Move&& move) {
    while (!bytes.empty()) {
        const ssize_t moved = move(bytes);
        if (moved > 0)
            bytes = bytes.subspan(static_cast<size_t>(moved));
        else if (moved == 0)
            fail_transient(who + " ended the connection");
        else if (errno != EAGAIN && errno != EINTR)
            fail_transient(fmt::format("the connection to {} broke: {}", who, std::strerror(errno)));
        else if (!wait_for(socket, events, deadline))
            fail_transient(who + " is silent");
    }
}

}  // namespace

Socket::~Socket() {
    if (fd_ >= 0) close(fd_);
}

std::string Address::host() const {
    const Address plain = unmapped(*this);
    char text[NI_MAXHOST] = {};
    if (getnameinfo(pointer(plain), plain.bytes, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) return "?";
    return text;
}

int Address::port() const {
    return ntohs(storage.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port
                                               : reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

std::string Address::text() const {
    const std::string name = host();
    return name.find(':') == std::string::npos ? fmt::format("{}:{}", name, port())
                                               : fmt::format("[{}]:{}", name, port());
}

void Address::set_port(int port) {
    const in_port_t value = htons(static_cast<uint16_t>(port));
    if (storage.ss_family == AF_INET6)
        reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = value;
    else
        reinterpret_cast<sockaddr_in*>(&storage)->sin_port = value;
}

bool Address::is_loopback() const {
    const Address plain = unmapped(*this);
    return plain.storage.ss_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&ip6(plain)) : ip4(plain) >> 24 == 127;
}

bool Address::is_wildcard() const {
    const Address plain = unmapped(*this);
    return plain.storage.ss_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&ip6(plain)) : ip4(plain) == 0;
}

namespace {

std::vector<Address> look_up(const std::string& host, int port, int flags, std::string& problem) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    // Without AI_ADDRCONFIG: on a machine that has no address but its loopback one it would hide that too.
    hints.ai_flags = flags | AI_NUMERICSERV;
    addrinfo* list = nullptr;
    if (const int code = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list); code != 0) {
        problem = fmt::format("cannot resolve '{}': {}", host, gai_strerror(code));
        return {};
    }
    std::vector<Address> addresses;
    for (const addrinfo* one = list; one; one = one->ai_next) {
        Address address;
        std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
        address.bytes = one->ai_addrlen;
        addresses.push_back(address);
    }
    freeaddrinfo(list);
    return addresses;
}

}  // namespace

std::vector<Address> resolve(const std::string& host, int port, std::string& problem) {
    return look_up(host, port, 0, problem);
}

bool is_numeric(const std::string& host) {
    std::string ignored;
    return !look_up(host, 0, AI_NUMERICHOST, ignored).empty();
}

Address own_address(const Socket& socket) {
    return address_by(socket, getsockname);
}

Address peer_address(const Socket& socket) {
    return address_by(socket, getpeername);
}

Socket listen_at(const Address& address) {
    Socket socket = open_socket(address.storage.ss_family);
    if (!socket) return {};
    // A port is not held for a minute by connections of a run that has ended.
    set(socket, SOL_SOCKET, SO_REUSEADDR, 1);
    if (address.storage.ss_family == AF_INET6) set(socket, IPPROTO_IPV6, IPV6_V6ONLY, address.is_wildcard() ? 0 : 1);
    if (bind(socket.fd(), pointer(address), address.bytes) != 0 || listen(socket.fd(), kWaiting) != 0) return {};
    return socket;
}

Socket listen_everywhere(int port) {
    Address any;
    auto* six = reinterpret_cast<sockaddr_in6*>(&any.storage);
    six->sin6_family = AF_INET6;
    six->sin6_addr = in6addr_any;
    any.bytes = sizeof *six;
    any.set_port(port);
    Socket socket = listen_at(any);
    if (socket || errno == EADDRINUSE) return socket;
    any = {};  // a machine without IPv6
    any.storage.ss_family = AF_INET;
    any.bytes = sizeof(sockaddr_in);
    any.set_port(port);
    return listen_at(any);
}

Socket accept_from(const Socket& listener) {
    Socket socket(accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket) prepare(socket);
    return socket;
}

Socket connect_to(const Address& address, Clock::time_point deadline, std::string& problem) {
    Socket socket = open_socket(address.storage.ss_family);
    int error = socket ? 0 : errno;
    if (socket && connect(socket.fd(), pointer(address), address.bytes) != 0) {
        error = errno;
        if (error == EINPROGRESS) {
            socklen_t bytes = sizeof error;
            if (!wait_for(socket, POLLOUT, deadline))
                error = ETIMEDOUT;
            else if (getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0)
                error = errno;
        }
    }
    if (error != 0) {
        problem = fmt::format("{}: {}", address.text(), std::strerror(error));
        return {};
    }
    // With nobody there, the kernel may choose the very port for this end too, and connect the socket to itself.
    if (own_address(socket).text() == address.text()) {
        problem = fmt::format("{}: {}", address.text(), std::strerror(ECONNREFUSED));
        return {};
    }
    prepare(socket);
    return socket;
}

int poll_timeout(Clock::time_point deadline) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

bool wait_for(const Socket& socket, short events, Clock::time_point deadline) {
    while (true) {
        pollfd entry{.fd = socket.fd(), .events = events, .revents = 0};
        const int ready = poll(&entry, 1, poll_timeout(deadline));
        if (ready > 0) return true;
        if (Clock::now() >= deadline) return false;
    }
}

void send_all(const Socket& socket, std::span<const std::byte> bytes, Clock::time_point deadline,
              const std::string& who) {
    move_all(socket, bytes, POLLOUT, deadline, who,
             [&](auto part) { return send(socket.fd(), part.data(), part.size(), MSG_NOSIGNAL); });
}

void receive_all(const Socket& socket, std::span<std::byte> bytes, Clock::time_point deadline, const std::string& who) {
    move_all(socket, bytes, POLLIN, deadline, who,
             [&](auto part) { return recv(socket.fd(), part.data(), part.size(), 0); });
}

void send_frame(const Socket& socket, FrameHeader header, std::string_view text, Clock::time_point deadline,
                const std::string& who) {
    header.bytes = text.size();
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    bytes += text;
    send_all(socket, std::as_bytes(std::span(bytes)), deadline, who);
}

Frame receive_frame(const Socket& socket, Clock::time_point deadline, const std::string& who) {
    FrameHeader header;
    receive_all(socket, std::as_writable_bytes(std::span(&header, 1)), deadline, who);
    if (header.kind < FrameKind::kData || header.kind > FrameKind::kGo || header.bytes > kLongestText)
        fail_transient(who + " does not speak plimsoll's protocol");
    Frame frame{.kind = header.kind, .text = std::string(header.bytes, '\0')};
    receive_all(socket, std::as_writable_bytes(std::span(frame.text)), deadline, who);
    if (frame.kind == FrameKind::kAbort) throw Error(failure_code(header.code), brief(frame.text, 2000));
    return frame;
}

ExitCode failure_code(uint32_t code) {
    return static_cast<ExitCode>(code >= 1 && code <= 255 ? code : static_cast<uint32_t>(ExitCode::kInternal));
}

}  // namespace plimsoll::tcp
