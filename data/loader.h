// Batches by global sample index.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/batch.h"
#include "data/config.h"
#include "data/layout.h"
#include "data/mixture.h"
#include "data/sources.h"

namespace plimsoll {

struct LoaderOptions {
    int64_t T = 0;                    // positions in a row, placeholders included
    int64_t placeholders = 0;         // k of this run
    int64_t shared_placeholders = 0;  // the largest k among the runs to compare; see layout.h
    uint64_t seed = 0;
    int64_t prefix = 0;  // of a prefix-LM: see layout.h
};

// Keeps no position: what load() returns depends on the configuration and the global sample index alone, so the order
// of samples is the same for every number of ranks and micro batch, and after a resume.
//
// Training: sample i comes from the source that Mixture names; each source counts its own epochs. Samples are cut for
// T, not T - k, so that runs with and without placeholders see the same ones. Validation: every source once, in order.
// Text and shards are covered whole, by windows that lie T - max(placeholders, shared_placeholders) apart, so that the
// mean over all scored targets is the exact mean over the split: every token but the first of each source is a target
// once. (With document_mask, the first tokens of documents are not scored, and placeholders cut a row by k per document
// in it; with a prefix, tokens that stand in a document's prefix are not scored.)
class Loader {
  public:
    // Throws Error (78) for configuration or files that cannot be used.
    Loader(const DataConfig& config, Split split, LoaderOptions options);

    // Rows for samples first .. first + count - 1. Safe to call from several threads.
    // Throws Error (78) past the end of the data, or if a file holds an id out of range.
    Batch load(int64_t first_sample, int64_t count) const;
    // The same into `batch`, by way of `sample`: both keep their memory, so that nothing is allocated after a first
    // call for as many rows.
    void load(int64_t first_sample, int64_t count, Batch& batch, Sample& sample) const;

    // Batch::cu_seqlens of these rows, without their tokens where these do not say where documents start.
    std::vector<int32_t> document_bounds(int64_t first_sample, int64_t count) const;

    // How many samples there are: -1 = no end. With data.end = "stop", up to where the first source runs out.
    int64_t samples_available() const { return available_; }
    // Samples until every source was read at least once (the longest epoch of the mixture); -1 without epochs.
    int64_t samples_per_epoch() const { return per_epoch_; }
    // T, placeholders included.
    int64_t tokens_per_row() const { return layout_.T; }
    // Token ids of the data, and with the placeholders of this run.
    int64_t vocab_size() const { return layout_.vocab_size; }
    int64_t total_vocab_size() const { return layout_.vocab_size + layout_.placeholders; }
    // One line per source, for the log.
    std::string describe() const;
    uint64_t content_hash() const;
    // Printable name of an id; "<sink0>" and so on for placeholders.
    std::string label(int32_t id) const;
    // Null unless there is a tokenizer.
    const Tokenizer* tokenizer() const { return sources_.tokenizer.get(); }
    // Tokenizer::hash() of it; empty if there is none.
    std::string tokenizer_hash() const { return tokenizer() == nullptr ? "" : tokenizer()->hash(); }
    // Oracle, triggers and floors; null for other sources.
    const BigramBackcopy* bigram_backcopy() const { return sources_.bigram_backcopy; }

  private:
    Mixture::Place place(int64_t sample) const;
    int64_t exhausted_after(int64_t source) const;

    Split split_;
    RowLayout layout_;
    OpenedSources sources_;
    std::optional<Mixture> mixture_;
    int64_t available_ = -1;
    int64_t per_epoch_ = -1;
};

}  // namespace plimsoll
