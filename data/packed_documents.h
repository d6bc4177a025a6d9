// Rows packed with Bigram-Backcopy documents of very different lengths.
#pragma once

#include <memory>

#include "data/bigram_backcopy.h"
#include "data/document_lengths.h"

namespace plimsoll {

// Documents one after the other until a row is full; the last is cut. Lengths are those of a model of a corpus
// (DocumentLengths) times T / 128 Ki, at least 2: a row of any T has the balance of a row of 128 Ki tokens. Long
// documents come twice as often as in the corpus and short ones nine tenths, as in long-context training.
class PackedDocuments final : public Dataset {
  public:
    // `documents` makes the documents: its sequences, each as long as it is drawn. Throws Error (78) for a model that
    // is not known.
    PackedDocuments(std::unique_ptr<const BigramBackcopy> documents, const std::string& model, int64_t T, uint64_t seed,
                    int64_t samples);

    int64_t vocab_size() const override { return documents_->vocab_size(); }
    int64_t samples() const override { return samples_; }
    void sample(int64_t index, Sample& sample) const override;
    std::string describe() const override;
    uint64_t content_hash() const override;
    std::string label(int32_t id) const override { return documents_->label(id); }

  private:
    std::unique_ptr<const BigramBackcopy> documents_;
    std::string model_;
    int64_t T_, samples_;
    DocumentLengths lengths_;
};

}  // namespace plimsoll
