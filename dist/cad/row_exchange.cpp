#include "dist/cad/row_exchange.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int64_t kMessageAlignment = 64;  // of each rank's message in the buffers: a cache line

char* address(const Tensor& tensor, int64_t element) {
    return static_cast<char*>(tensor.data) + element * size_of(tensor.dtype);
}

// Rows run.row .. of a tensor (or columns of a (heads, N) one) as a rectangle.
struct Rect {
    char* data;
    int64_t pitch, width, height;
};
Rect rect_of(const RowPart& part, const Tensor& tensor, RowRun run) {
    const int64_t size = size_of(part.dtype);
    if (part.columns) return {address(tensor, run.row), tensor.row_stride * size, run.count * size, tensor.rows()};
    return {address(tensor, run.row * tensor.row_stride), tensor.row_stride * size, part.row_elements * size,
            run.count};
}

}  // namespace

Tensor GrowingMemory::tensor(Shape shape, DType dtype, const Exec& exec) {
    const int64_t bytes = std::max<int64_t>(shape.elements() * size_of(dtype), 1);  // no rows are not no tensor
    if (bytes > bytes_) {
        wait_for(exec);  // somebody may still read the old memory
        memory_.reset();
        memory_ = allocate_memory(exec.device, bytes, "core attention of other ranks");
        bytes_ = bytes;
    }
    return Tensor(memory_.get(), dtype, shape, exec.device);
}

RowPart RowPart::rows(const RowRoute& route, Tensor from, Tensor to) {
    const Tensor& any = from ? from : to;
    return {&route, from, to, any ? any.row_elements() : 0, any.dtype, false};
}

RowPart RowPart::columns_of(const RowRoute& route, Tensor from, Tensor to) {
    const Tensor& any = from ? from : to;
    return {&route, from, to, any ? any.rows() : 0, any.dtype, true};
}

void RowExchange::lay_out(Side& side, bool out, const Exec& exec) {
    const auto ranks = static_cast<size_t>(group_.size());
    side.offset.assign(ranks, 0), side.size.assign(ranks, 0);
    side.part_offset.assign(parts_.size(), std::vector<int64_t>(ranks, 0));
    int64_t end = 0;
    for (int peer = 0; peer < group_.size(); ++peer) {
        const auto r = static_cast<size_t>(peer);
        side.offset[r] = end;
        if (peer == group_.rank()) continue;
        for (size_t p = 0; p < parts_.size(); ++p) {
            const RowRoute& route = *parts_[p].route;
            side.part_offset[p][r] = side.offset[r] + side.size[r];
            side.size[r] += (out ? route.out : route.in).rows(peer) * parts_[p].row_elements * size_of(parts_[p].dtype);
        }
        end = (side.offset[r] + side.size[r] + kMessageAlignment - 1) / kMessageAlignment * kMessageAlignment;
    }
    constexpr int64_t kWord = size_of(DType::kI32);
    side.bytes = side.memory.tensor({std::max<int64_t>(end, kWord) / kWord}, DType::kI32, exec);
}

Tensor RowExchange::view(const Side& side, size_t part, int peer, int64_t row, int64_t count) const {
    const RowPart& p = parts_[part];
    char* data = static_cast<char*>(side.bytes.data) + side.part_offset[part][static_cast<size_t>(peer)] +
                 row * p.row_elements * size_of(p.dtype);
    return Tensor(data, p.dtype, {count, p.row_elements}, side.bytes.device);
}

Tensor RowExchange::outgoing(size_t part, int peer, int64_t row, int64_t count) const {
    return view(send_, part, peer, row, count);
}

Tensor RowExchange::incoming(size_t part, int peer, int64_t row, int64_t count) const {
    return view(receive_, part, peer, row, count);
}

void RowExchange::add_rects(const RowPart& part, size_t index, bool out) {
    const Tensor& tensor = out ? part.from : part.to;
    if (!tensor) return;
    for (int peer = 0; peer < group_.size(); ++peer) {
        if (peer == group_.rank()) continue;
        const RowLists& lists = out ? part.route->out : part.route->in;
        const int64_t rows = lists.rows(peer), size = size_of(part.dtype);
        char* message = static_cast<char*>(view(out ? send_ : receive_, index, peer, 0, 0).data);
        int64_t row = 0;
        for (const RowRun& run : lists.of(peer)) {
            const Rect rect = rect_of(part, tensor, run);
            char* here = message + row * (part.columns ? size : rect.width);
            const int64_t pitch = part.columns ? rows * size : rect.width;
            rects_.push_back(out ? CopyRect{here, pitch, rect.data, rect.pitch, rect.width, rect.height}
                                 : CopyRect{rect.data, rect.pitch, here, pitch, rect.width, rect.height});
            row += run.count;
        }
    }
}

void RowExchange::pack(std::vector<RowPart> parts, const Exec& exec) {
    check(!work_.pending(), "rows are on their way already");
    parts_ = std::move(parts);
    lay_out(send_, true, exec);
    lay_out(receive_, false, exec);
    rects_.clear();
    for (size_t p = 0; p < parts_.size(); ++p) add_rects(parts_[p], p, true);
    copy_rects(rects_, exec);
}

void RowExchange::begin() {
    work_ = group_.all_to_all_v(send_.bytes, send_.size, send_.offset, receive_.bytes, receive_.size, receive_.offset);
}

void RowExchange::end(const Exec& exec) {
    work_.wait();
    rects_.clear();
    for (size_t p = 0; p < parts_.size(); ++p) add_rects(parts_[p], p, false);
    copy_rects(rects_, exec);
}

void copy_own(const RowPart& part, int rank, const Exec& exec) {
    const std::span<const RowRun> out = part.route->out.of(rank), in = part.route->in.of(rank);
    std::vector<CopyRect> rects;
    RowRun from{}, to{};
    for (size_t o = 0, i = 0; o < out.size() || from.count;) {
        if (!from.count) from = out[o++];
        if (!to.count) to = in[i++];
        const int64_t count = std::min(from.count, to.count);
        const Rect source = rect_of(part, part.from, {from.row, count}),
                   target = rect_of(part, part.to, {to.row, count});
        rects.push_back({target.data, target.pitch, source.data, source.pitch, source.width, source.height});
        from = {from.row + count, from.count - count}, to = {to.row + count, to.count - count};
    }
    copy_rects(rects, exec);
}

}  // namespace plimsoll
