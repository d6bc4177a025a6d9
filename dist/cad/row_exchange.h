// Rows of tensors between ranks, as one all-to-all.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "dist/cad/round.h"
#include "dist/communicator.h"

namespace plimsoll {

// Memory of a device that grows and is kept.
class GrowingMemory {
  public:
    // A contiguous tensor of this shape; what was in it is lost where the memory has to grow.
    Tensor tensor(Shape shape, DType dtype, const Exec& exec);

  private:
    Memory memory_;
    int64_t bytes_ = 0;
};

// One kind of rows in every message. Rows of `from` leave, by the route's `out`; what arrives lands in rows of `to`, by
// its `in`. Without `from` the caller fills outgoing(), without `to` it reads incoming().
struct RowPart {
    const RowRoute* route;
    Tensor from, to;
    int64_t row_elements;
    DType dtype;
    bool columns;  // rows are columns of (heads, N) tensors, and travel as (heads, rows)

    // Rows of (N, ...) tensors of one shape but for N, each with a row stride or not; one of the two may be absent.
    static RowPart rows(const RowRoute& route, Tensor from, Tensor to);
    static RowPart columns_of(const RowRoute& route, Tensor from, Tensor to);
    // Both ends in the caller's hands.
    static RowPart by_caller(const RowRoute& route, int64_t row_elements, DType dtype) {
        return {&route, {}, {}, row_elements, dtype, false};
    }
};

// Messages between every two ranks: for each part in turn its rows. A message to the rank itself is no message:
// copy_own() does that.
class RowExchange {
  public:
    explicit RowExchange(Communicator& group) : group_(group) {}

    // Lays out the messages of these parts and copies what leaves. Tensors and routes must live until end(). Parts of a
    // wider dtype come first, so that all are aligned.
    void pack(std::vector<RowPart> parts, const Exec& exec);
    // The messages go; their memory belongs to them until end().
    void begin();
    // Waits, and copies what arrived.
    void end(const Exec& exec);

    // Rows of a part in the message to a rank, and in the message from one.
    Tensor outgoing(size_t part, int peer, int64_t row, int64_t count) const;
    Tensor incoming(size_t part, int peer, int64_t row, int64_t count) const;

  private:
    struct Side {
        GrowingMemory memory;
        Tensor bytes;
        std::vector<int64_t> offset, size;              // [peer]
        std::vector<std::vector<int64_t>> part_offset;  // [part][peer]
    };
    void lay_out(Side& side, bool out, const Exec& exec);
    Tensor view(const Side& side, size_t part, int peer, int64_t row, int64_t count) const;
    void add_rects(const RowPart& part, size_t index, bool out);

    Communicator& group_;
    std::vector<RowPart> parts_;
    Side send_, receive_;
    std::vector<CopyRect> rects_;
    Work work_;
};

// Rows that a route has from this rank to itself.
void copy_own(const RowPart& part, int rank, const Exec& exec);

}  // namespace plimsoll
