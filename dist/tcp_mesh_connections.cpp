// The half of the mesh that knows sockets: bytes in and out, and connections that end.
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "dist/tcp_mesh.h"

namespace plimsoll::tcp {
namespace {

// Of one rank, before the others get their turn.
constexpr size_t kBytesPerTurn = 4 << 20, kBytesPerCall = 1 << 20;
// An abort that explains why a rank is gone may come over another connection, a little later.
constexpr std::chrono::milliseconds kAbortMayCome{200};
constexpr uint64_t kLongestText = 1 << 20, kLongestMessage = uint64_t{1} << 48;  // beyond it, nothing plimsoll sent
constexpr std::chrono::seconds kTimeToTell{1};

}  // namespace

void Mesh::read_from(int rank, Peer& peer) {
    for (size_t budget = kBytesPerTurn; budget > 0 && !peer.ended;) {
        // A large message straight to where it belongs; small ones many at a time.
        const bool direct = end_ != End::kAbort && peer.to && peer.left >= kBuffer;
        const size_t room = direct ? std::min<uint64_t>(peer.left, kBytesPerCall) : kBuffer;
        const ssize_t got = recv(peer.socket.fd(), direct ? peer.to : buffer_.get(), room, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) return ended(rank, peer, got == 0 ? "it was closed" : std::strerror(errno));
        const auto count = static_cast<size_t>(got);
        budget -= std::min(budget, count);
        if (direct) {
            peer.to += count, peer.left -= count;
            if (peer.left == 0) end_frame(rank, peer);
        } else {
            take(rank, peer, {buffer_.get(), count});
        }
        if (count < room) return;
    }
}

void Mesh::take(int rank, Peer& peer, std::span<const std::byte> bytes) {
    while (!bytes.empty() && !peer.ended && end_ != End::kAbort) {
        const bool in_header = peer.header_bytes < sizeof peer.header;
        const size_t count =
            std::min<uint64_t>(bytes.size(), in_header ? sizeof peer.header - peer.header_bytes : peer.left);
        if (in_header) {
            std::memcpy(reinterpret_cast<std::byte*>(&peer.header) + peer.header_bytes, bytes.data(), count);
            peer.header_bytes += count;
            if (peer.header_bytes == sizeof peer.header) begin_frame(rank, peer);
        } else {
            if (peer.to)
                std::memcpy(peer.to, bytes.data(), count), peer.to += count;
            else if (peer.header.kind == FrameKind::kAbort)
                peer.text.append(reinterpret_cast<const char*>(bytes.data()), count);
            peer.left -= count;
        }
        bytes = bytes.subspan(count);
        if (!peer.ended && peer.header_bytes == sizeof peer.header && peer.left == 0) end_frame(rank, peer);
    }
}

void Mesh::begin_frame(int rank, Peer& peer) {
    const FrameHeader& header = peer.header;
    peer.left = header.bytes;
    if (!peer.goodbye && header.kind == FrameKind::kData && header.bytes <= kLongestMessage)
        return begin_message(rank, peer);
    if (!peer.goodbye && header.kind == FrameKind::kGoodbye && header.bytes == 0) return;
    if (!peer.goodbye && header.kind == FrameKind::kAbort && header.bytes <= kLongestText) return;
    ended(rank, peer, "it does not carry plimsoll's protocol");
}

void Mesh::end_frame(int rank, Peer& peer) {
    peer.header_bytes = 0;
    if (peer.header.kind == FrameKind::kData)
        end_message(rank, peer);
    else if (peer.header.kind == FrameKind::kGoodbye)
        goodbye_of(rank, peer);
    else
        end_job(failure_code(peer.header.code), peer.text);
}

void Mesh::write_to(int rank, Peer& peer) {
    for (size_t budget = kBytesPerTurn; budget > 0 && !peer.out.empty();) {
        Outgoing& message = peer.out.front();
        constexpr size_t kHeader = sizeof message.header;
        const size_t all = kHeader + message.payload.size(), payload = std::max(message.moved, kHeader) - kHeader;
        iovec parts[2] = {
            {reinterpret_cast<std::byte*>(&message.header) + message.moved, 0},
            {const_cast<std::byte*>(message.payload.data()) + payload,
             std::min(message.payload.size() - payload, kBytesPerCall)},
        };
        const bool in_header = message.moved < kHeader;
        if (in_header) parts[0].iov_len = kHeader - message.moved;
        msghdr what{};
        what.msg_iov = in_header ? parts : parts + 1;
        what.msg_iovlen = in_header ? 2 : 1;
        const ssize_t sent = sendmsg(peer.socket.fd(), &what, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) return ended(rank, peer, std::strerror(errno));
        message.moved += static_cast<size_t>(sent);
        budget -= std::min(budget, static_cast<size_t>(sent));
        if (message.moved < all) continue;
        if (message.owner) complete(message.owner, message.owner->sent, message.index);
        peer.out.pop_front();
    }
    if (peer.out.empty() && end_ != End::kNo && !std::exchange(peer.shut, true)) shutdown(peer.socket.fd(), SHUT_WR);
}

void Mesh::ended(int rank, Peer& peer, const std::string& why) {
    peer.ended = true;
    peer.socket = {};
    for (Outgoing& message : peer.out) {
        if (!message.owner) continue;
        note_problem(*message.owner, ExitCode::kTransient,
                     fmt::format("rank {} has ended; a message to it is left", rank));
        complete(message.owner, message.owner->sent, message.index);
    }
    peer.out.clear();
    if (end_ != End::kNo || peer.goodbye || lost_) return;
    const auto patience = is_lowest() ? kAbortMayCome : kAbortMayCome + modesty();
    lost_ = {rank, why, Clock::now() + patience};
}

void Mesh::goodbye_of(int rank, Peer& peer) {
    peer.goodbye = true;
    for (auto& [place, lane] : lanes_) {
        if (place.second != rank) continue;
        for (const Receive& receive : std::exchange(lane.posted, {})) {
            note_problem(*receive.owner, ExitCode::kTransient,
                         fmt::format("rank {} has ended; its message is missing", rank));
            complete(receive.owner, receive.owner->received, receive.index);
        }
    }
}

bool Mesh::is_lowest() const {
    return std::all_of(peers_.begin(), peers_.begin() + rank_,
                       [](const Peer& peer) { return peer.ended || peer.goodbye; });
}

void Mesh::tell_all(FrameKind kind, ExitCode code, const std::string& text) {
    const std::string_view shown = std::string_view(text).substr(0, kLongestText);
    for (Peer& peer : peers_) {
        if (peer.ended) continue;
        Outgoing message;
        message.header = {.kind = kind, .code = static_cast<uint32_t>(code), .bytes = shown.size()};
        const auto bytes = std::as_bytes(std::span(shown));
        message.own.assign(bytes.begin(), bytes.end());
        message.payload = message.own;
        peer.out.push_back(std::move(message));
    }
}

void Mesh::end_job(ExitCode code, const std::string& reason) {
    if (end_ == End::kAbort) return;
    end_ = End::kAbort;
    aborting_ = true;
    exit_code_ = code;
    end_deadline_ = Clock::now() + kTimeToTell;
    // What has not begun to leave never will.
    for (Peer& peer : peers_) std::erase_if(peer.out, [](const Outgoing& message) { return message.moved == 0; });
    tell_all(FrameKind::kAbort, code, reason);
}

void Mesh::report_lost() {
    const std::string reason = fmt::format("the connection to rank {} broke ({}); did its process or its machine die?",
                                           lost_->rank, lost_->why);
    lost_.reset();
    if (aborting_.exchange(true)) return;  // another thread is about to say what it knows
    std::fprintf(stderr, "plimsoll: rank %d: %s\n", rank_, reason.c_str());
    end_job(ExitCode::kTransient, reason);
}

}  // namespace plimsoll::tcp
