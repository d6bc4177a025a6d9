// Cuts a stream of tokens into samples of T + 1 tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "data/dataset.h"
#include "data/token_stream.h"

namespace plimsoll {

enum class WindowOrder {
    // Training: windows that do not overlap, in an order permuted anew each epoch; from the second epoch on they start
    // at a shifted offset, so that other tokens meet. All epochs have the same number of windows: with N tokens,
    // max(1, floor(N / T) - 1), which leaves room for every shift below T.
    kShuffled,
    // Training: the start of each window is drawn, keyed by the sample index, from every place where T + 1 tokens fit
    // (nanoGPT's get_batch). There are no epochs: samples() is -1.
    kRandom,
    // Validation: windows in order, `stride` apart, until every token but the first has been a target. The last window
    // is as short as what remains.
    kInOrder,
};

struct WindowOptions {
    std::string name = {};  // names the random streams: two sources with equal names draw alike
    int64_t begin = 0;      // the part of the stream to cut, [begin, end): nothing outside is ever read
    int64_t end = 0;
    int64_t T = 0;
    int64_t stride = 0;  // kInOrder only: tokens from one window's start to the next, 1 .. T
    WindowOrder order = WindowOrder::kShuffled;
    uint64_t seed = 0;
    bool document_mask = false;  // report document starts, at eot tokens or, with eot_token = -1, from the stream
    int64_t eot_token = -1;
};

class WindowDataset final : public Dataset {
  public:
    // `label_of` decodes ids for reports and may be null (labels are then the numbers).
    // Throws Error (78) if the part holds fewer than T + 1 tokens, or if nothing tells where documents start.
    WindowDataset(std::unique_ptr<const TokenStream> stream, std::shared_ptr<const Tokenizer> label_of,
                  WindowOptions options);

    int64_t vocab_size() const override { return stream_->vocab_size(); }
    int64_t samples() const override { return samples_; }
    void sample(int64_t index, Sample& sample) const override;
    std::string describe() const override;
    uint64_t content_hash() const override;
    std::string label(int32_t id) const override;

    // Offset in the stream of the first token of a sample.
    int64_t start_of(int64_t index) const;

  private:
    std::unique_ptr<const TokenStream> stream_;
    std::shared_ptr<const Tokenizer> label_of_;
    WindowOptions options_;
    int64_t samples_ = 0;
};

}  // namespace plimsoll
