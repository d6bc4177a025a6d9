// What a trained model is evaluated on.
#pragma once

#include "data/loader.h"
#include "train/trained_model.h"

namespace plimsoll {

// Real tokens in a row, and what follows each.
struct EvalStream {
    std::vector<int32_t> tokens;
    std::vector<int32_t> targets;  // as many; -1 behind the last one of a source that ended
};

class EvalData {
  public:
    // The run's validation split, or a text in the model's vocabulary. Throws Error (78) if the files are not there, or
    // the split has other ids than the model.
    EvalData(const TrainedModel& model, const std::string& text);

    // Validation rows as in training.
    Loader rows() const;
    // Rows of `length` real tokens of the concatenated split, without placeholders; the last may hold fewer, whose
    // targets are -1. `document_mask` is off: a row is one document.
    Loader rows_of(int64_t length) const;
    // The first `count` tokens of the concatenated split, or as many as there are.
    EvalStream stream(int64_t count) const;
    // Bytes of text behind an id; 0 for ids without text.
    int64_t bytes_of(int32_t id) const;
    bool has_bytes() const { return model_.tokenizer() != nullptr; }

  private:
    Loader open(const DataConfig& data, LoaderOptions options) const;

    const TrainedModel& model_;
    DataConfig data_;
};

}  // namespace plimsoll
