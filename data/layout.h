// Lays samples out as rows of T positions: placeholders, documents, positions, and which targets are scored.
#pragma once

#include <cstdint>

#include "data/batch.h"
#include "data/dataset.h"

namespace plimsoll {

// The rule, in full. A row has T positions whatever the variant.
//
// - Documents: a row starts a document; with document_mask a further one starts at each of the sample's
//   document_starts. Positions count from 0 in each. With document_mask the last token of a document has no target,
//   since the next token belongs to another document.
// - Placeholders: with k of them each document begins with the ids vocab_size .. vocab_size + k - 1. So the row holds
//   the same real tokens as without, cut by k at the end (by k for each document that begins in it).
// - A placeholder is never a target, and no position holding a placeholder is scored. In particular the last
//   placeholder, whose next token is the first real one, is not: without placeholders nothing predicts that token.
// - Shared targets: a comparison of variants with different k must score the same tokens. `shared_placeholders` is the
//   largest k of the comparison: a target is scored only if the row would still hold the token before it with that
//   many placeholders. Equal samples and equal shared_placeholders therefore give equal scored targets, whatever k is.
//   0 scores everything this row holds; the value counts as at least k.
// - Prefix: with `prefix` p the first p positions of a document see one another (a prefix-LM), so a token among them is
//   known to the position before it. It is no target: position p - 1 of a document is the first that is scored.
// - A sample shorter than T + 1 (the end of a validation split) is filled up with id 0, unscored.
struct RowLayout {
    int64_t T = 0;
    int64_t vocab_size = 0;
    int64_t placeholders = 0;
    int64_t shared_placeholders = 0;
    bool document_mask = false;
    int64_t prefix = 0;  // positions, placeholders included
};

// Of a row's real tokens, counted from 0, those whose positions are scored: begin .. end - 1.
struct ScoredTokens {
    int64_t begin = 0, end = 0;
};

// Makes `batch` B empty rows of T.
void clear_batch(Batch& batch, int64_t B, int64_t T);
// Writes row b. Rows are written in ascending order, since documents are appended to cu_seqlens; after the last row
// call close_batch.
void place_sample(const Sample& sample, const RowLayout& layout, int64_t row, Batch& batch);
void close_batch(Batch& batch);

}  // namespace plimsoll
