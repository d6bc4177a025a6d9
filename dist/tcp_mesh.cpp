#include "dist/tcp_mesh.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace plimsoll::tcp {
namespace {

constexpr std::chrono::seconds kFlushTime{30}, kLinger{1};

}  // namespace

Mesh::Mesh(int rank, std::vector<Socket> peers)
    : rank_(rank), peers_(peers.size()), event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!event_) fail_io("eventfd: {}", std::strerror(errno));
    for (size_t r = 0; r < peers.size(); ++r) {
        peers_[r].socket = std::move(peers[r]);
        peers_[r].ended = !peers_[r].socket;
    }
    thread_ = std::thread([this] { work(); });
}

Mesh::~Mesh() {
    add_task([this] {
        if (end_ != End::kNo) return;
        end_ = End::kGoodbye;
        end_deadline_ = Clock::now() + kFlushTime;
        tell_all(FrameKind::kGoodbye, ExitCode::kOk, "");
    });
    thread_.join();
}

void Mesh::start(std::shared_ptr<Requests> requests) {
    requests->sent.assign(requests->sends.size(), false);
    requests->received.assign(requests->receives.size(), false);
    requests->open = requests->sends.size() + requests->receives.size();
    requests->done = requests->open == 0;
    if (!requests->done) add_task([this, requests = std::move(requests)] { post(requests); });
}

bool Mesh::wait(const Requests& requests, std::chrono::nanoseconds timeout) {
    std::unique_lock lock(mutex_);
    if (!finished_.wait_for(lock, timeout, [&] { return requests.done; })) return false;
    if (!requests.problem.empty()) throw Error(requests.code, requests.problem);
    return true;
}

std::vector<int> Mesh::silent(const Requests& requests) {
    return run([&] {
        std::vector<int> ranks;
        for (size_t i = 0; i < requests.sends.size(); ++i)
            if (!requests.sent[i]) ranks.push_back(requests.sends[i].peer);
        for (size_t i = 0; i < requests.receives.size(); ++i)
            if (!requests.received[i]) ranks.push_back(requests.receives[i].peer);
        return ranks;
    });
}

void Mesh::abandon(const std::shared_ptr<Requests>& requests) {
    {
        const std::lock_guard lock(mutex_);
        if (requests->done) return;
    }
    run([&] { detach(requests); });
}

void Mesh::abort(const std::string& reason, ExitCode code) {
    if (!run([&] { return is_lowest(); })) std::this_thread::sleep_for(modesty());
    if (!aborting_.exchange(true)) {
        std::fprintf(stderr, "plimsoll: rank %d: %s\n", rank_, reason.c_str());
        add_task([this, code, reason] { end_job(code, reason); });
    }
    while (true) pause();  // the thread ends the process
}

void Mesh::add_task(std::function<void()> task) {
    bool first = false;
    {
        const std::lock_guard lock(mutex_);
        first = tasks_.empty();
        tasks_.push_back(std::move(task));
    }
    if (first) wake();
}

void Mesh::wake() {
    const uint64_t one = 1;
    while (write(event_.fd(), &one, sizeof one) < 0 && errno == EINTR) continue;
}

void Mesh::run_tasks() {
    std::deque<std::function<void()>> tasks;
    {
        const std::lock_guard lock(mutex_);
        tasks.swap(tasks_);
    }
    for (const auto& task : tasks) task();
}

int Mesh::timeout() const {
    if (end_ != End::kNo) return poll_timeout(end_deadline_);
    return lost_ ? poll_timeout(lost_->deadline) : -1;
}

void Mesh::work() {
    while (true) {
        try {
            turn();
        } catch (const std::exception& error) {  // no memory for a message, or for a list of them
            std::fprintf(stderr, "plimsoll: rank %d: messages: %s\n", rank_, error.what());
            std::_Exit(static_cast<int>(ExitCode::kInternal));
        }
        if (end_ == End::kNo) continue;
        const auto over = [](const Peer& peer) { return peer.ended; };
        if (!std::ranges::all_of(peers_, over) && Clock::now() < end_deadline_) continue;
        if (end_ == End::kAbort) std::_Exit(static_cast<int>(exit_code_));
        return;
    }
}

void Mesh::turn() {
    std::vector<pollfd> entries{{event_.fd(), POLLIN, 0}};
    for (const Peer& peer : peers_)
        entries.push_back(
            {peer.ended ? -1 : peer.socket.fd(), static_cast<short>(peer.out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
    poll(entries.data(), entries.size(), timeout());
    if (entries[0].revents) {
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t got = read(event_.fd(), &count, sizeof count);
    }
    run_tasks();
    for (size_t r = 0; r < peers_.size(); ++r)
        if (!peers_[r].ended && entries[r + 1].revents & ~POLLOUT) read_from(static_cast<int>(r), peers_[r]);
    bool all_sent = true;
    for (size_t r = 0; r < peers_.size(); ++r) {
        if (!peers_[r].ended) write_to(static_cast<int>(r), peers_[r]);
        all_sent = all_sent && (peers_[r].ended || peers_[r].out.empty());
    }
    if (lost_ && end_ == End::kNo && Clock::now() >= lost_->deadline) report_lost();
    if (end_ != End::kNo && all_sent && !std::exchange(all_sent_, true))
        end_deadline_ = std::min(end_deadline_, Clock::now() + kLinger);
}

void Mesh::post(const std::shared_ptr<Requests>& requests) {
    for (size_t i = 0; i < requests->receives.size(); ++i) post_receive(requests, i);
    for (size_t i = 0; i < requests->sends.size(); ++i) post_send(requests, i);
}

void Mesh::post_send(const std::shared_ptr<Requests>& requests, size_t index) {
    const auto& [to, bytes] = requests->sends[index];
    Peer& peer = peers_[static_cast<size_t>(to)];
    if (to == rank_) {
        Lane& lane = lanes_[{requests->group, to}];
        const auto message = std::make_shared<Early>();
        message->data = std::make_unique_for_overwrite<std::byte[]>(bytes.size());
        message->bytes = bytes.size();
        message->whole = true;
        std::ranges::copy(bytes, message->data.get());
        if (lane.posted.empty()) {
            lane.early.push_back(message);
        } else {
            deliver(*message, lane.posted.front(), to);
            lane.posted.pop_front();
        }
        complete(requests, requests->sent, index);
    } else if (peer.goodbye || end_ != End::kNo) {
        note_problem(*requests, ExitCode::kTransient, fmt::format("rank {} has ended; a message to it is left", to));
        complete(requests, requests->sent, index);
    } else {
        Outgoing message;
        message.header = {.group = requests->group, .bytes = bytes.size()};
        message.payload = bytes;
        message.owner = requests;
        message.index = index;
        peer.out.push_back(std::move(message));
    }
}

void Mesh::post_receive(const std::shared_ptr<Requests>& requests, size_t index) {
    const int from = requests->receives[index].peer;
    Lane& lane = lanes_[{requests->group, from}];
    if (!lane.early.empty()) {
        const std::shared_ptr<Early> message = std::move(lane.early.front());
        lane.early.pop_front();
        if (message->whole)
            deliver(*message, {requests, index}, from);
        else
            message->claim = {requests, index};
    } else if (from != rank_ && (peers_[static_cast<size_t>(from)].goodbye || end_ != End::kNo)) {
        note_problem(*requests, ExitCode::kTransient, fmt::format("rank {} has ended; its message is missing", from));
        complete(requests, requests->received, index);
    } else {
        lane.posted.push_back({requests, index});
    }
}

bool Mesh::fits(const Receive& receive, uint64_t bytes, int from) {
    const size_t expected = receive.owner->receives[receive.index].bytes.size();
    if (bytes == expected) return true;
    note_problem(*receive.owner, ExitCode::kInternal,
                 fmt::format("rank {}: a message of {} bytes, {} were expected", from, bytes, expected));
    return false;
}

void Mesh::deliver(const Early& early, const Receive& receive, int from) {
    if (fits(receive, early.bytes, from) && early.bytes)
        std::memcpy(receive.owner->receives[receive.index].bytes.data(), early.data.get(), early.bytes);
    complete(receive.owner, receive.owner->received, receive.index);
}

void Mesh::complete(const std::shared_ptr<Requests>& owner, std::vector<bool>& done, size_t index) {
    done[index] = true;
    if (--owner->open > 0) return;
    {
        const std::lock_guard lock(mutex_);
        owner->done = true;
    }
    finished_.notify_all();
}

void Mesh::note_problem(Requests& requests, ExitCode code, std::string text) {
    const std::lock_guard lock(mutex_);
    requests.code = code;
    requests.problem = std::move(text);
}

// Its memory may go: what is on its way out is copied, what comes in is dropped.
void Mesh::detach(const std::shared_ptr<Requests>& requests) {
    for (auto& [place, lane] : lanes_)
        std::erase_if(lane.posted, [&](const Receive& receive) { return receive.owner == requests; });
    for (Peer& peer : peers_) {
        if (peer.receive.owner == requests) peer.receive = {}, peer.to = nullptr;
        if (peer.early && peer.early->claim.owner == requests) peer.early->claim = {};
        for (Outgoing& message : peer.out) {
            if (message.owner != requests) continue;
            message.own.assign(message.payload.begin(), message.payload.end());
            message.payload = message.own;
            message.owner.reset();
        }
    }
}

void Mesh::begin_message(int from, Peer& peer) {
    Lane& lane = lanes_[{peer.header.group, from}];
    if (lane.posted.empty()) {
        peer.early = std::make_shared<Early>();
        peer.early->data = std::make_unique_for_overwrite<std::byte[]>(peer.header.bytes);
        peer.early->bytes = peer.header.bytes;
        peer.to = peer.early->data.get();
        lane.early.push_back(peer.early);
        return;
    }
    peer.receive = std::move(lane.posted.front());
    lane.posted.pop_front();
    if (fits(peer.receive, peer.header.bytes, from))
        peer.to = peer.receive.owner->receives[peer.receive.index].bytes.data();
}

void Mesh::end_message(int from, Peer& peer) {
    if (peer.receive.owner) complete(peer.receive.owner, peer.receive.owner->received, peer.receive.index);
    if (peer.early) {
        peer.early->whole = true;
        if (peer.early->claim.owner) deliver(*peer.early, peer.early->claim, from);
    }
    peer.receive = {};
    peer.early.reset();
    peer.to = nullptr;
}

}  // namespace plimsoll::tcp
