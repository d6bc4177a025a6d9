// Where samples come from: a pure function from a sample index to tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace plimsoll {

// Up to T + 1 consecutive tokens: the first T are read, the last T are predicted.
struct Sample {
    std::vector<int32_t> tokens;           // T + 1 ids, fewer only in the last window of a validation split; never < 2
    std::vector<int64_t> document_starts;  // indices > 0 into `tokens` at which a document starts, ascending
};

class Dataset {
  public:
    virtual ~Dataset() = default;

    // Number of token ids, without placeholders: every id is in [0, vocab_size).
    virtual int64_t vocab_size() const = 0;
    // Samples in one epoch, or -1 when there is no end.
    virtual int64_t samples() const = 0;
    // Writes sample `index` (from 0, it may run past the first epoch) to `sample`, reusing its memory. A pure function
    // of the index and of what the dataset was made from; safe to call from several threads.
    // Throws Error (exit code 78) for data that cannot be used, such as an id out of range.
    virtual void sample(int64_t index, Sample& sample) const = 0;
    // One line for the log.
    virtual std::string describe() const = 0;
    // Changes when the samples change, whatever the file is called. For run.json.
    virtual uint64_t content_hash() const = 0;
    // A short printable name of a token for tables and axes ("e", "\n" as two characters, a blank as U+2423).
    virtual std::string label(int32_t id) const = 0;
};

}  // namespace plimsoll
