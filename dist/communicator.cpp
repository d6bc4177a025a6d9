#include "dist/communicator.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "kernels/error.h"

namespace plimsoll {
namespace {

std::span<std::byte> bytes_of(Tensor data) {
    return {static_cast<std::byte*>(data.data), static_cast<size_t>(data.bytes())};
}

std::span<std::byte> bytes_of(Tensor data, ElementRange range) {
    const int64_t size = size_of(data.dtype);
    return {static_cast<std::byte*>(data.data) + range.begin * size, static_cast<size_t>(range.size() * size)};
}

void check_shards(const char* op, Tensor data, std::span<const ElementRange> shards, int ranks) {
    check(data.device == Device::kCpu && data.shape.rank() == 1 && data.contiguous(),
          "{}: data {} must be flat, in host memory", op, data.shape);
    check(shards.size() == static_cast<size_t>(ranks), "{}: {} shards for {} ranks", op, shards.size(), ranks);
    for (const ElementRange& shard : shards)
        check(0 <= shard.begin && shard.begin <= shard.end && shard.end <= data.shape[0],
              "{}: shard {} .. {} of {} elements", op, shard.begin, shard.end, data.shape[0]);
}

// own += the parts of the ranks before and after, in rank order: ((0 + 1) + 2) + ...
template <class T>
void add_in_order(std::span<T> own, const std::vector<std::byte>& others, int rank, int ranks) {
    const auto part = [&](int r) {
        const int index = r < rank ? r : r - 1;
        return reinterpret_cast<const T*>(others.data()) + static_cast<size_t>(index) * own.size();
    };
    for (size_t i = 0; i < own.size(); ++i) {
        T sum = rank == 0 ? own[i] : part(0)[i];
        for (int r = 1; r < ranks; ++r) sum += r == rank ? own[i] : part(r)[i];
        own[i] = sum;
    }
}

}  // namespace

std::string_view name_of(CommKind kind) {
    constexpr std::array<std::string_view, kCommKinds> kNames{"all_to_all_v", "reduce_scatter", "all_gather",
                                                              "broadcast",    "send",           "control"};
    return kNames[static_cast<size_t>(kind)];
}

void Work::wait() {
    if (!exchange_) return;
    const auto start = std::chrono::steady_clock::now();
    if (!exchange_->wait(owner_->timeout_)) {
        const std::string reason =
            fmt::format("{} number {} of group '{}' ({} bytes from rank {}): nothing from ranks {} for {:.0f} s",
                        name_of(kind_), number_, owner_->name_, bytes_, owner_->rank(),
                        fmt::join(exchange_->silent(), ", "), std::chrono::duration<double>(owner_->timeout_).count());
        owner_->transport_->abort(reason);
        exchange_.reset();
        throw Error(ExitCode::kTransient, reason);
    }
    exchange_.reset();
    if (finish_) finish_();
    owner_->stats_[static_cast<size_t>(kind_)].wait_seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Communicator::Communicator(std::unique_ptr<Transport> transport, std::string name)
    : transport_(std::move(transport)), name_(std::move(name)) {}

Work Communicator::start(CommKind kind, std::span<const SendTo> sends, std::span<const ReceiveFrom> receives,
                         std::function<void()> finish) {
    Work work;
    work.owner_ = this;
    work.kind_ = kind;
    work.number_ = next_number_++;
    for (const SendTo& send : sends) work.bytes_ += static_cast<int64_t>(send.bytes.size());
    work.finish_ = std::move(finish);
    CommStats& stats = stats_[static_cast<size_t>(kind)];
    stats.calls += 1, stats.bytes += work.bytes_;
    work.exchange_ = transport_->exchange(sends, receives);
    return work;
}

Work Communicator::reduce_scatter(Tensor data, std::span<const ElementRange> shards) {
    check_shards("reduce_scatter", data, shards, size());
    check(data.dtype == DType::kF32 || data.dtype == DType::kF64, "reduce_scatter: sums are fp32 or fp64, not {}",
          name_of(data.dtype));
    const std::span<std::byte> own = bytes_of(data, shards[static_cast<size_t>(rank())]);
    const auto others = std::make_shared<std::vector<std::byte>>(own.size() * static_cast<size_t>(size() - 1));
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        const std::span<std::byte> theirs = bytes_of(data, shards[static_cast<size_t>(r)]);
        if (!theirs.empty()) sends.push_back({r, theirs});
        const size_t index = static_cast<size_t>(r < rank() ? r : r - 1);
        if (!own.empty()) receives.push_back({r, std::span(*others).subspan(index * own.size(), own.size())});
    }
    return start(CommKind::kReduceScatter, sends, receives, [own, others, dtype = data.dtype, me = rank(), n = size()] {
        if (dtype == DType::kF64)
            add_in_order(std::span(reinterpret_cast<double*>(own.data()), own.size() / sizeof(double)), *others, me, n);
        else
            add_in_order(std::span(reinterpret_cast<float*>(own.data()), own.size() / sizeof(float)), *others, me, n);
    });
}

Work Communicator::all_gather(Tensor data, std::span<const ElementRange> shards) {
    check_shards("all_gather", data, shards, size());
    const std::span<std::byte> own = bytes_of(data, shards[static_cast<size_t>(rank())]);
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        const std::span<std::byte> theirs = bytes_of(data, shards[static_cast<size_t>(r)]);
        if (!own.empty()) sends.push_back({r, own});
        if (!theirs.empty()) receives.push_back({r, theirs});
    }
    return start(CommKind::kAllGather, sends, receives);
}

Work Communicator::all_to_all_v(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                                std::span<const int64_t> send_offsets, std::span<std::byte> receive,
                                std::span<const int64_t> receive_bytes, std::span<const int64_t> receive_offsets) {
    const auto ranks = static_cast<size_t>(size());
    for (const auto& list : {send_bytes, send_offsets, receive_bytes, receive_offsets})
        check(list.size() == ranks, "all_to_all_v: {} sizes or offsets for {} ranks", list.size(), ranks);
    const auto inside = [](int64_t offset, int64_t bytes, size_t all) {
        return offset >= 0 && bytes >= 0 && offset + bytes <= static_cast<int64_t>(all);
    };
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (size_t r = 0; r < ranks; ++r) {
        check(inside(send_offsets[r], send_bytes[r], send.size()) &&
                  inside(receive_offsets[r], receive_bytes[r], receive.size()),
              "all_to_all_v: the part of rank {} lies outside its buffer", r);
        const auto part = [](auto buffer, int64_t offset, int64_t bytes) {
            return buffer.subspan(static_cast<size_t>(offset), static_cast<size_t>(bytes));
        };
        if (send_bytes[r]) sends.push_back({static_cast<int>(r), part(send, send_offsets[r], send_bytes[r])});
        if (receive_bytes[r])
            receives.push_back({static_cast<int>(r), part(receive, receive_offsets[r], receive_bytes[r])});
    }
    return start(CommKind::kAllToAll, sends, receives);
}

Work Communicator::send(std::span<const std::byte> bytes, int peer) {
    const std::array sends{SendTo{peer, bytes}};
    return start(CommKind::kSend, sends, {});
}

Work Communicator::receive(std::span<std::byte> bytes, int peer) {
    const std::array receives{ReceiveFrom{peer, bytes}};
    return start(CommKind::kSend, {}, receives);
}

Work Communicator::send(Tensor tensor, int peer) {
    return send(bytes_of(tensor), peer);
}

Work Communicator::receive(Tensor tensor, int peer) {
    return receive(bytes_of(tensor), peer);
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) {
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < size() && rank() == root; ++r)
        if (r != root) sends.push_back({r, bytes});
    if (rank() != root) receives.push_back({root, bytes});
    start(CommKind::kBroadcast, sends, receives).wait();
}

std::vector<std::byte> Communicator::gather(std::span<const std::byte> bytes) {
    std::vector<std::byte> all(bytes.size() * static_cast<size_t>(size()));
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < size(); ++r) {
        const std::span<std::byte> part = std::span(all).subspan(static_cast<size_t>(r) * bytes.size(), bytes.size());
        if (r == rank()) {
            std::ranges::copy(bytes, part.begin());
            continue;
        }
        sends.push_back({r, bytes});
        receives.push_back({r, part});
    }
    start(CommKind::kControl, sends, receives).wait();
    return all;
}

void Communicator::sum(std::span<double> values) {
    if (size() == 1) return;
    const std::vector<std::byte> all = gather(std::as_bytes(values));
    std::vector<double> parts(values.size() * static_cast<size_t>(size()));
    std::memcpy(parts.data(), all.data(), all.size());
    for (size_t i = 0; i < values.size(); ++i) {
        values[i] = parts[i];
        for (size_t r = 1; r < static_cast<size_t>(size()); ++r) values[i] += parts[r * values.size() + i];
    }
}

void Communicator::barrier() {
    const std::byte nothing{};
    gather({&nothing, 1});
}

Communicator Communicator::split(int color, int key, std::string name) {
    Communicator group(transport_->split(color, key), std::move(name));
    group.set_timeout(timeout_);
    return group;
}

}  // namespace plimsoll
