#include "data/layout.h"

#include <algorithm>
#include <limits>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// Calls visit(position, index, first_of_document) for each position of a row of T that `placeholders` leave room for;
// index is the place in the sample, or -1 - p for placeholder p.
template <class Visit>
void walk(const Sample& sample, const RowLayout& layout, int64_t placeholders, Visit&& visit) {
    const int64_t readable = static_cast<int64_t>(sample.tokens.size()) - 1;
    auto next_start = sample.document_starts.begin();
    bool first = true;
    int64_t position = 0;
    for (int64_t index = 0; index < readable && position < layout.T; ++index) {
        if (layout.document_mask && next_start != sample.document_starts.end() && *next_start == index) {
            first = true;
            ++next_start;
        }
        for (int64_t p = 0; first && p < placeholders && position < layout.T; ++p) visit(position++, -1 - p, p == 0);
        if (position < layout.T) visit(position++, index, first && placeholders == 0);
        first = false;
    }
}

}  // namespace

void clear_batch(Batch& batch, int64_t B, int64_t T) {
    check(B * T <= std::numeric_limits<int32_t>::max(), "a batch of {} x {} tokens does not fit 32-bit offsets", B, T);
    const size_t size = static_cast<size_t>(B * T);
    batch.B = B;
    batch.T = T;
    batch.tokens.assign(size, 0);
    batch.targets.assign(size, -1);
    batch.positions.assign(size, 0);
    batch.cu_seqlens.clear();
    batch.cu_seqlens.reserve(size + 1);  // every token may start a document
}

void place_sample(const Sample& sample, const RowLayout& layout, int64_t row, Batch& batch) {
    int64_t shared_end = 0;  // real tokens before this index are read in every variant of the comparison
    walk(sample, layout, std::max(layout.placeholders, layout.shared_placeholders),
         [&](int64_t, int64_t index, bool) { shared_end = std::max(shared_end, index + 1); });
    const auto starts_document = [&](int64_t index) {
        return layout.document_mask &&
               std::binary_search(sample.document_starts.begin(), sample.document_starts.end(), index);
    };
    const size_t base = static_cast<size_t>(row * layout.T);
    int64_t document_begin = 0, filled = 0;
    walk(sample, layout, layout.placeholders, [&](int64_t position, int64_t index, bool first) {
        const size_t at = base + static_cast<size_t>(position);
        if (first) {
            document_begin = position;
            batch.cu_seqlens.push_back(static_cast<int32_t>(at));
        }
        batch.positions[at] = static_cast<int32_t>(position - document_begin);
        filled = position + 1;
        if (index < 0) {
            batch.tokens[at] = static_cast<int32_t>(layout.vocab_size - 1 - index);
            return;
        }
        batch.tokens[at] = sample.tokens[static_cast<size_t>(index)];
        const bool known = position - document_begin + 1 < layout.prefix;  // the next token, to this position
        if (index < shared_end && !starts_document(index + 1) && !known) {
            batch.targets[at] = sample.tokens[static_cast<size_t>(index) + 1];
        }
    });
    for (int64_t position = filled; position < layout.T; ++position) {
        batch.positions[base + static_cast<size_t>(position)] = static_cast<int32_t>(position - document_begin);
    }
}

void close_batch(Batch& batch) {
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.B * batch.T));
}

}  // namespace plimsoll
