// Ranks as threads of one process: whoever comes second to a message copies it.
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>

#include "dist/transport.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

class ThreadExchange;

// One side of a message that waits for the other.
struct Post {
    ThreadExchange* owner;
    std::byte* to;          // of a receive
    const std::byte* from;  // of a send
    size_t bytes;
};

// What the ranks of a group share. One mutex for everything: this transport is for tests and for few ranks.
struct ThreadGroup {
    explicit ThreadGroup(int size) : size(size), splits(static_cast<size_t>(size)), groups(splits.size()) {}

    const int size;
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::pair<int, int>, std::deque<Post>> sends, receives;  // by (from, to)
    std::optional<std::string> aborted;

    // A split under way: what each rank asked for, then what it got.
    struct Asked {
        int color, key;
    };
    std::vector<std::optional<Asked>> splits;
    std::vector<std::pair<std::shared_ptr<ThreadGroup>, int>> groups;
    int taken = 0;

    void abort(const std::string& reason) {
        if (!aborted) aborted = reason;
        changed.notify_all();
    }
};

class ThreadExchange final : public Exchange {
  public:
    ThreadExchange(std::shared_ptr<ThreadGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}
    // Messages that were abandoned (an error is on its way) must not be copied into memory that is gone.
    ~ThreadExchange() override {
        const std::lock_guard lock(group_->mutex);
        if (open_.empty()) return;
        for (auto* posts : {&group_->sends, &group_->receives})
            for (auto& [pair, queue] : *posts) std::erase_if(queue, [&](const Post& p) { return p.owner == this; });
        group_->abort(fmt::format("rank {} gave up an exchange", rank_));
    }

    bool wait(std::chrono::nanoseconds timeout) override {
        std::unique_lock lock(group_->mutex);
        const bool over = group_->changed.wait_for(
            lock, timeout, [&] { return open_.empty() || group_->aborted || !problem_.empty(); });
        if (!problem_.empty()) throw Error(ExitCode::kInternal, problem_);
        if (!open_.empty() && group_->aborted) throw Error(ExitCode::kTransient, *group_->aborted);
        return over;
    }
    std::vector<int> silent() const override {
        const std::lock_guard lock(group_->mutex);
        std::vector<int> ranks = open_;
        std::ranges::sort(ranks);
        ranks.erase(std::ranges::unique(ranks).begin(), ranks.end());
        return ranks;
    }

    // With the group's mutex held:
    void send(const SendTo& message) {
        match(group_->sends[{rank_, message.peer}], group_->receives[{rank_, message.peer}], message.peer,
              {this, nullptr, message.bytes.data(), message.bytes.size()});
    }
    void receive(const ReceiveFrom& message) {
        match(group_->receives[{message.peer, rank_}], group_->sends[{message.peer, rank_}], message.peer,
              {this, message.bytes.data(), nullptr, message.bytes.size()});
    }

  private:
    // Joins the post with the oldest of the other side, or leaves it for that.
    void match(std::deque<Post>& mine, std::deque<Post>& theirs, int peer, Post post) {
        if (theirs.empty()) {
            mine.push_back(post);
            open_.push_back(peer);
            return;
        }
        const Post other = theirs.front();
        theirs.pop_front();
        if (post.bytes == other.bytes)
            std::memcpy(post.to ? post.to : other.to, post.to ? other.from : post.from, post.bytes);
        else
            problem_ = other.owner->problem_ =
                fmt::format("rank {} and rank {}: a message of {} bytes, {} were expected", rank_, peer,
                            post.to ? other.bytes : post.bytes, post.to ? post.bytes : other.bytes);
        other.owner->open_.erase(std::ranges::find(other.owner->open_, rank_));
        group_->changed.notify_all();
    }

    std::shared_ptr<ThreadGroup> group_;
    int rank_;
    std::vector<int> open_;  // peers of messages that wait
    std::string problem_;
};

class ThreadTransport final : public Transport {
  public:
    ThreadTransport(std::shared_ptr<ThreadGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return group_->size; }

    std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) override {
        auto exchange = std::make_unique<ThreadExchange>(group_, rank_);
        const std::lock_guard lock(group_->mutex);
        if (group_->aborted) throw Error(ExitCode::kTransient, *group_->aborted);
        for (const SendTo& send : sends) exchange->send(send);
        for (const ReceiveFrom& receive : receives) exchange->receive(receive);
        return exchange;
    }

    std::unique_ptr<Transport> split(int color, int key) override {
        ThreadGroup& g = *group_;
        const auto me = static_cast<size_t>(rank_);
        std::unique_lock lock(g.mutex);
        const auto meet = [&](auto condition) {
            g.changed.wait(lock, [&] { return g.aborted || condition(); });
            if (g.aborted) throw Error(ExitCode::kTransient, *g.aborted);
        };
        meet([&] { return g.taken == 0 && !g.splits[me]; });  // the split before is over
        g.splits[me] = {color, key};
        if (std::ranges::all_of(g.splits, [](const auto& s) { return s.has_value(); })) form_groups();
        meet([&] { return g.groups[me].first != nullptr; });
        auto mine = std::make_unique<ThreadTransport>(std::exchange(g.groups[me].first, nullptr), g.groups[me].second);
        g.splits[me].reset();
        g.taken = (g.taken + 1) % g.size;
        g.changed.notify_all();
        return mine;
    }

    void abort(const std::string& reason, ExitCode /*code*/) override {
        const std::lock_guard lock(group_->mutex);
        group_->abort(reason);
    }

  private:
    void form_groups() {
        ThreadGroup& g = *group_;
        std::map<int, std::vector<std::pair<int, int>>> members;  // color -> (key, rank)
        for (int r = 0; r < g.size; ++r) {
            const auto& asked = *g.splits[static_cast<size_t>(r)];
            members[asked.color].push_back({asked.key, r});
        }
        for (auto& [color, list] : members) {
            std::ranges::sort(list);
            const auto group = std::make_shared<ThreadGroup>(static_cast<int>(list.size()));
            for (size_t i = 0; i < list.size(); ++i)
                g.groups[static_cast<size_t>(list[i].second)] = {group, static_cast<int>(i)};
        }
        g.changed.notify_all();
    }

    std::shared_ptr<ThreadGroup> group_;
    int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> thread_transports(int size) {
    check(size >= 1, "{} ranks", size);
    const auto group = std::make_shared<ThreadGroup>(size);
    std::vector<std::unique_ptr<Transport>> ranks;
    for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<ThreadTransport>(group, r));
    return ranks;
}

}  // namespace plimsoll
