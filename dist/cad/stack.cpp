#include "dist/cad/stack.h"

namespace plimsoll {

bool is_small(const CaSegment& segment, const CaOptions& options) {
    return segment.end - segment.begin < kSmallBlocks * options.block;
}

void PieceStack::add(int server, int64_t pairs) {
    size_t at = 0;
    while (at < pieces_.size() && pieces_[at].server != server) ++at;
    if (at == pieces_.size()) pieces_.push_back({server, 0});
    pieces_[at].pairs += pairs;
    for (; at > 0 && pieces_[at - 1].pairs < pieces_[at].pairs; --at) std::swap(pieces_[at - 1], pieces_[at]);
}

double PieceStack::bytes_at(const CaProblem& problem, const HeldKeys& held, int64_t segment, int64_t end) const {
    const CaSegment& s = problem.segment(segment);
    const int64_t document = problem.documents.of(segment);
    double bytes = 0;
    for (const Piece& piece : pieces_) {
        const int64_t begin = std::max(s.begin, problem.pairs.begin_of(end, piece.pairs));
        const int64_t keys = end > begin ? held.missing(document, piece.server, begin, end) : 0;
        bytes += problem.query_bytes * static_cast<double>(end - begin) + problem.key_bytes * static_cast<double>(keys);
        end = begin;
    }
    return bytes;
}

int64_t PieceStack::best_end(const CaProblem& problem, const HeldKeys& held, int64_t segment, int64_t precision) const {
    const CaSegment& s = problem.segment(segment);
    if (pieces_.empty() || problem.options.window > 0) return s.end;
    int64_t pairs = 0;
    for (const Piece& piece : pieces_) pairs += piece.pairs;
    int64_t low = std::min(s.end, problem.pairs.end_of(s.begin, pairs)), high = s.end;
    const auto bytes = [&](int64_t end) { return bytes_at(problem, held, segment, end); };
    while (high - low > std::max<int64_t>(precision, 2)) {  // thirds of at least one row
        const int64_t third = (high - low) / 3;
        if (bytes(low + third) < bytes(high - third))
            high -= third;
        else
            low += third;
    }
    const int64_t middle = low + (high - low) / 2;
    return bytes(middle) < bytes(s.end) ? middle : s.end;
}

}  // namespace plimsoll
