// Ranks as processes that meet over TCP: for clusters where no MPI starts, and builds without it.
#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "dist/tcp_meeting.h"
#include "dist/tcp_mesh.h"
#include "dist/transport.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr uint64_t kWorld = 1;
constexpr size_t kLongestJob = 128;

// splitmix64's mixer: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
uint64_t mixed(uint64_t value) {
    value += 0x9e3779b97f4a7c15;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
}

class TcpExchange final : public Exchange {
  public:
    TcpExchange(std::shared_ptr<tcp::Mesh> mesh, std::shared_ptr<tcp::Requests> requests, std::vector<int> members)
        : mesh_(std::move(mesh)), requests_(std::move(requests)), members_(std::move(members)) {}
    // Messages that were abandoned (an error is on its way) must not be copied into memory that is gone.
    ~TcpExchange() override { mesh_->abandon(requests_); }
    bool wait(std::chrono::nanoseconds timeout) override { return mesh_->wait(*requests_, timeout); }
    std::vector<int> silent() const override {
        std::vector<int> ranks;
        for (const int member : mesh_->silent(*requests_))
            ranks.push_back(static_cast<int>(std::ranges::find(members_, member) - members_.begin()));
        std::ranges::sort(ranks);
        ranks.erase(std::ranges::unique(ranks).begin(), ranks.end());
        return ranks;
    }

  private:
    std::shared_ptr<tcp::Mesh> mesh_;
    std::shared_ptr<tcp::Requests> requests_;
    std::vector<int> members_;
};

// A group: ranks of the mesh, and a number that all its members come to by themselves.
class TcpTransport final : public Transport {
  public:
    TcpTransport(std::shared_ptr<tcp::Mesh> mesh, uint64_t group, std::vector<int> members)
        : mesh_(std::move(mesh)),
          group_(group),
          members_(std::move(members)),
          rank_(static_cast<int>(std::ranges::find(members_, mesh_->rank()) - members_.begin())) {}
    int rank() const override { return rank_; }
    int size() const override { return static_cast<int>(members_.size()); }

    std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) override {
        return exchange_in(group_, sends, receives);
    }

    // The ranks tell each other what they want, beside the messages of the group.
    std::unique_ptr<Transport> split(int color, int key) override {
        struct Wish {
            int color, key;
        };
        const uint64_t number = mixed(group_ ^ mixed(++splits_));
        const Wish own{color, key};
        std::vector<Wish> wishes(members_.size());
        std::vector<SendTo> sends;
        std::vector<ReceiveFrom> receives;
        for (int r = 0; r < size(); ++r) {
            sends.push_back({r, std::as_bytes(std::span(&own, 1))});
            receives.push_back({r, std::as_writable_bytes(std::span(&wishes[static_cast<size_t>(r)], 1))});
        }
        exchange_in(number, sends, receives)->wait(std::chrono::hours(24));
        std::vector<std::pair<int, int>> group;  // key, rank
        for (int r = 0; r < size(); ++r)
            if (const Wish& wish = wishes[static_cast<size_t>(r)]; wish.color == color) group.push_back({wish.key, r});
        std::ranges::sort(group);
        std::vector<int> members;
        for (const auto& [ignored, r] : group) members.push_back(members_[static_cast<size_t>(r)]);
        return std::make_unique<TcpTransport>(mesh_, mixed(number + 1 + static_cast<uint32_t>(color)),
                                              std::move(members));
    }

    void abort(const std::string& reason, ExitCode code) override { mesh_->abort(reason, code); }

  private:
    std::unique_ptr<Exchange> exchange_in(uint64_t group, std::span<const SendTo> sends,
                                          std::span<const ReceiveFrom> receives) {
        const auto requests = std::make_shared<tcp::Requests>();
        requests->group = group;
        const auto member = [&](int peer) {
            check(peer >= 0 && peer < size(), "a message to or from rank {} of {}", peer, size());
            return members_[static_cast<size_t>(peer)];
        };
        for (const SendTo& send : sends) requests->sends.push_back({member(send.peer), send.bytes});
        for (const ReceiveFrom& receive : receives) requests->receives.push_back({member(receive.peer), receive.bytes});
        mesh_->start(requests);
        return std::make_unique<TcpExchange>(mesh_, requests, members_);
    }

    std::shared_ptr<tcp::Mesh> mesh_;
    uint64_t group_, splits_ = 0;
    std::vector<int> members_;  // of the mesh, by rank of this group
    int rank_;
};

const char* first_of(std::initializer_list<const char*> names, std::string& name) {
    for (const char* one : names)
        if (const char* value = std::getenv(one)) return name = one, value;
    return nullptr;
}

int number_in(std::string_view text, const std::string& what, int low, int high) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high)
        fail_input("{} is '{}', wanted a number in {} .. {}", what, brief(text), low, high);
    return value;
}

int count_in(std::initializer_list<const char*> names, int low, int high) {
    std::string name;
    const char* text = first_of(names, name);
    if (!text)
        fail_input("PLIMSOLL_RENDEZVOUS is set, but neither of {} is; every process needs its rank and their number",
                   fmt::join(names, " and "));
    return number_in(text, name, low, high);
}

}  // namespace

std::string TcpLaunch::rendezvous() const {
    return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

std::optional<TcpLaunch> tcp_launch() {
    const char* rendezvous = std::getenv("PLIMSOLL_RENDEZVOUS");
    if (!rendezvous || !*rendezvous) return std::nullopt;
    const std::string_view text = rendezvous;
    const size_t colon = text.rfind(':');
    std::string_view host = text.substr(0, colon == std::string_view::npos ? 0 : colon);
    if (host.starts_with('[') && host.ends_with(']'))
        host = host.substr(1, host.size() - 2);
    else if (host.find(':') != std::string_view::npos)
        host = {};
    if (host.empty())
        fail_input("PLIMSOLL_RENDEZVOUS is '{}', wanted host:port (an IPv6 address in brackets), where rank 0 listens",
                   brief(text));
    TcpLaunch launch;
    launch.host = host;
    launch.port = number_in(text.substr(colon + 1), "the port of PLIMSOLL_RENDEZVOUS", 1, 65535);
    launch.ranks = count_in({"PLIMSOLL_RANKS", "SLURM_NTASKS"}, 1, 1 << 16);
    launch.rank = count_in({"PLIMSOLL_RANK", "SLURM_PROCID"}, 0, launch.ranks - 1);
    std::string ignored;
    if (const char* key = std::getenv("PLIMSOLL_JOB_KEY")) {
        launch.job = key;
    } else if (const char* job = std::getenv("SLURM_JOB_ID")) {
        const char* restart = first_of({"SLURM_RESTART_COUNT"}, ignored);
        launch.job = fmt::format("{}.{}", job, restart ? restart : "0");
    }
    if (launch.job.size() > kLongestJob)
        fail_input("PLIMSOLL_JOB_KEY has {} bytes, at most {} fit", launch.job.size(), kLongestJob);
    return launch;
}

std::unique_ptr<Transport> tcp_transport(const TcpLaunch& launch) {
    std::vector<int> all(static_cast<size_t>(launch.ranks));
    for (int r = 0; r < launch.ranks; ++r) all[static_cast<size_t>(r)] = r;
    auto mesh = std::make_shared<tcp::Mesh>(launch.rank, tcp::meet(launch, tcp::Clock::now() + launch.deadline));
    return std::make_unique<TcpTransport>(std::move(mesh), kWorld, std::move(all));
}

}  // namespace plimsoll
