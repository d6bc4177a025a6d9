#include "dist/communicator.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "dist/machine_name.h"
#include "kernels/error.h"
#include "kernels/gpu.h"
#include "kernels/rank_sum.h"

namespace plimsoll {
namespace {

std::span<std::byte> bytes_of(Tensor data, ElementRange range) {
    const int64_t size = size_of(data.dtype);
    return {static_cast<std::byte*>(data.data) + range.begin * size, static_cast<size_t>(range.size() * size)};
}

void check_shards(const char* op, Tensor data, std::span<const ElementRange> shards, int ranks) {
    check(data.shape.rank() == 1 && data.contiguous(), "{}: data {} must be flat", op, data.shape);
    check(shards.size() == static_cast<size_t>(ranks), "{}: {} shards for {} ranks", op, shards.size(), ranks);
    for (const ElementRange& shard : shards)
        check(0 <= shard.begin && shard.begin <= shard.end && shard.end <= data.shape[0],
              "{}: shard {} .. {} of {} elements", op, shard.begin, shard.end, data.shape[0]);
}

std::span<std::byte> bytes_of(const char* op, Tensor tensor) {
    check(tensor.contiguous(), "{}: {} is not contiguous, row stride {}", op, tensor.shape, tensor.row_stride);
    return {static_cast<std::byte*>(tensor.data), static_cast<size_t>(tensor.bytes())};
}

// Text of one size for every rank, to compare.
using Place = std::array<char, 128>;

Place name_of_machine() {
    Place name{};
    machine_name().copy(name.data(), name.size() - 1);
    return name;
}

// Whether no two ranks use one GPU.
bool gpus_differ(Communicator& world, const Exec& exec) {
    Place own{};
    fmt::format_to_n(own.data(), own.size() - 1, "{} {}", gpu_address(*exec.cuda), name_of_machine().data());
    std::vector<Place> all = world.gather_each(own);
    std::ranges::sort(all);
    return std::ranges::adjacent_find(all) == all.end();
}

}  // namespace

std::string_view name_of(CommKind kind) {
    constexpr std::array<std::string_view, kCommKinds> kNames{"all_to_all_v", "reduce_scatter", "all_gather",
                                                              "broadcast",    "send",           "control"};
    return kNames[static_cast<size_t>(kind)];
}

std::unique_ptr<Exchange> Transport::exchange_on_device(std::span<const SendTo> /*sends*/,
                                                        std::span<const ReceiveFrom> /*receives*/,
                                                        const Operation& operation) {
    throw Error(ExitCode::kInternal, fmt::format("{}: in a GPU's memory, no GPU was bound", operation.name));
}

std::string Work::name() const {
    return fmt::format("{} number {} of group '{}' ({} bytes from rank {})", name_of(kind_), number_, owner_->name_,
                       bytes_, owner_->rank());
}

constexpr double kLook = 0.25;  // seconds between a wait's looks whether it may go on

void Work::wait() {
    if (!exchange_) return;
    const auto start = std::chrono::steady_clock::now();
    const auto waited = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    const double timeout = std::chrono::duration<double>(owner_->timeout_).count();
    const Patience& patience = *owner_->patience_;
    while (!exchange_->wait(
        std::chrono::nanoseconds(static_cast<int64_t>(1e9 * std::clamp(timeout - waited(), 0.0, kLook))))) {
        const bool ending = patience.seconds > 0 && patience.is_ending && patience.is_ending();
        if (waited() < (ending ? std::min(patience.seconds, timeout) : timeout)) continue;
        const std::string reason =
            fmt::format("{}: nothing from ranks {} for {:.0f} s{}", name(), fmt::join(exchange_->silent(), ", "),
                        waited(), ending ? ", and a signal to end has come" : "");
        owner_->abort(reason);
        exchange_.reset();
        throw Error(ExitCode::kTransient, reason);
    }
    exchange_.reset();
    owner_->record_->end(ticket_);
    if (finish_) finish_();
    finish_ = {};
    owner_->stats_[static_cast<size_t>(kind_)].wait_seconds += waited();
}

void Communicator::abort(const std::string& reason, ExitCode code) {
    record_->aborting(reason);
    transport_->abort(reason, code);
}

Communicator::Communicator(std::unique_ptr<Transport> transport, std::string name)
    : transport_(std::move(transport)), name_(std::move(name)) {}

void Communicator::bind(const Exec& exec, DeviceTransport make) {
    if (exec.device == Device::kCpu) return;
    check(exec_.device == Device::kCpu, "group '{}' is bound to a GPU already", name_);
    if (!make && size() > 1 && has_nccl() && gpus_differ(*this, exec)) make = nccl_transport;
    transport_ = make ? make(transport_, exec, timeout_) : staged_transport(transport_, exec);
    exec_ = exec;
    idle_scratch_ = std::make_shared<std::multimap<int64_t, Memory>>();
}

void Communicator::check_device(const char* op, Tensor tensor) const {
    check(tensor.device == Device::kCpu || exec_.device == tensor.device,
          "{}: {} lies in a GPU's memory, group '{}' was not bound to a GPU", op, tensor.shape, name_);
}

Work Communicator::start(CommKind kind, Device device, std::span<const SendTo> sends,
                         std::span<const ReceiveFrom> receives, std::function<void()> finish) {
    Work work;
    work.owner_ = this;
    work.kind_ = kind;
    work.number_ = next_number_++;
    for (const SendTo& send : sends) work.bytes_ += static_cast<int64_t>(send.bytes.size());
    work.finish_ = std::move(finish);
    CommStats& stats = stats_[static_cast<size_t>(kind)];
    stats.calls += 1, stats.bytes += work.bytes_;
    work.ticket_ = record_->begin(work.name());
    work.exchange_ =
        device == Device::kCpu
            ? transport_->exchange(sends, receives)
            : transport_->exchange_on_device(
                  sends, receives, {.name = work.name(), .timeout = timeout_, .one_way = kind == CommKind::kSend});
    return work;
}

// On a GPU it is kept for the next operation that needs as much: allocating waits for the device. The stream's order
// makes that safe, the last use of what is given back was submitted before.
std::shared_ptr<void> Communicator::scratch(Device device, int64_t bytes) {
    if (device == Device::kCpu) {
        const auto memory = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(bytes));
        return {memory, memory->data()};
    }
    Memory memory;
    if (const auto found = idle_scratch_->find(bytes); found != idle_scratch_->end())
        memory = std::move(idle_scratch_->extract(found).mapped());
    else
        memory = allocate_memory(device, bytes, "parts of other ranks");
    return {memory.release(), [idle = idle_scratch_, bytes, device](void* data) {
                if (data) idle->emplace(bytes, Memory(data, {device}));
            }};
}

Work Communicator::reduce_scatter(Tensor data, std::span<const ElementRange> shards) {
    check_shards("reduce_scatter", data, shards, size());
    check_device("reduce_scatter", data);
    check(data.dtype == DType::kF32 || data.dtype == DType::kF64, "reduce_scatter: sums are fp32 or fp64, not {}",
          name_of(data.dtype));
    const std::span<std::byte> own = bytes_of(data, shards[static_cast<size_t>(rank())]);
    const std::shared_ptr<void> others = scratch(data.device, static_cast<int64_t>(own.size()) * (size() - 1));
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        const std::span<std::byte> theirs = bytes_of(data, shards[static_cast<size_t>(r)]);
        if (!theirs.empty()) sends.push_back({r, theirs});
        const size_t index = static_cast<size_t>(r < rank() ? r : r - 1);
        if (!own.empty())
            receives.push_back({r, {static_cast<std::byte*>(others.get()) + index * own.size(), own.size()}});
    }
    const int64_t count = shards[static_cast<size_t>(rank())].size();
    const Tensor sum(own.data(), data.dtype, {count}, data.device);
    const Tensor parts(others.get(), data.dtype, {size() - 1, count}, data.device);
    return start(CommKind::kReduceScatter, data.device, sends, receives,
                 [sum, parts, others, me = rank(), exec = data.device == Device::kCpu ? Exec{} : exec_] {
                     rank_sum(sum, parts, me, exec);
                 });
}

Work Communicator::all_gather(Tensor data, std::span<const ElementRange> shards) {
    check_shards("all_gather", data, shards, size());
    check_device("all_gather", data);
    const std::span<std::byte> own = bytes_of(data, shards[static_cast<size_t>(rank())]);
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < size(); ++r) {
        if (r == rank()) continue;
        const std::span<std::byte> theirs = bytes_of(data, shards[static_cast<size_t>(r)]);
        if (!own.empty()) sends.push_back({r, own});
        if (!theirs.empty()) receives.push_back({r, theirs});
    }
    return start(CommKind::kAllGather, data.device, sends, receives);
}

Work Communicator::move_parts(Device device, std::span<const std::byte> send, std::span<const int64_t> send_bytes,
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
    return start(CommKind::kAllToAll, device, sends, receives);
}

Work Communicator::all_to_all_v(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                                std::span<const int64_t> send_offsets, std::span<std::byte> receive,
                                std::span<const int64_t> receive_bytes, std::span<const int64_t> receive_offsets) {
    return move_parts(Device::kCpu, send, send_bytes, send_offsets, receive, receive_bytes, receive_offsets);
}

Work Communicator::all_to_all_v(Tensor send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_offsets,
                                Tensor receive, std::span<const int64_t> receive_bytes,
                                std::span<const int64_t> receive_offsets) {
    check(send.device == receive.device, "all_to_all_v: sends from one device and receives on another");
    check_device("all_to_all_v", send);
    return move_parts(send.device, bytes_of("all_to_all_v", send), send_bytes, send_offsets,
                      bytes_of("all_to_all_v", receive), receive_bytes, receive_offsets);
}

Work Communicator::send(std::span<const std::byte> bytes, int peer) {
    const std::array sends{SendTo{peer, bytes}};
    return start(CommKind::kSend, Device::kCpu, sends, {});
}

Work Communicator::receive(std::span<std::byte> bytes, int peer) {
    const std::array receives{ReceiveFrom{peer, bytes}};
    return start(CommKind::kSend, Device::kCpu, {}, receives);
}

Work Communicator::send(Tensor tensor, int peer) {
    check_device("send", tensor);
    const std::array sends{SendTo{peer, bytes_of("send", tensor)}};
    return start(CommKind::kSend, tensor.device, sends, {});
}

Work Communicator::receive(Tensor tensor, int peer) {
    check_device("receive", tensor);
    const std::array receives{ReceiveFrom{peer, bytes_of("receive", tensor)}};
    return start(CommKind::kSend, tensor.device, {}, receives);
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) {
    if (size() == 1) return;
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    for (int r = 0; r < size() && rank() == root; ++r)
        if (r != root) sends.push_back({r, bytes});
    if (rank() != root) receives.push_back({root, bytes});
    start(CommKind::kBroadcast, Device::kCpu, sends, receives).wait();
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
    start(CommKind::kControl, Device::kCpu, sends, receives).wait();
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
    if (size() > 1) gather_each(std::byte{});
}

int Communicator::rank_on_machine() {
    if (size() == 1) return 0;
    const std::vector<Place> all = gather_each(name_of_machine());
    const auto before = all.begin() + rank();
    return static_cast<int>(std::count(all.begin(), before, *before));
}

Communicator Communicator::split(int color, int key, std::string name) {
    Communicator group(transport_->split(color, key), std::move(name));
    group.timeout_ = timeout_;
    group.record_ = record_;
    group.patience_ = patience_;
    group.exec_ = exec_;
    group.idle_scratch_ = idle_scratch_;
    return group;
}

}  // namespace plimsoll
