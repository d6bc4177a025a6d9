// Opens what a DataConfig names.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/bigram_backcopy.h"
#include "data/config.h"
#include "data/dataset.h"
#include "data/tokenizer.h"

namespace plimsoll {

enum class Split { kTrain, kValidation };

struct SourceRequest {
    Split split = Split::kTrain;
    int64_t T = 0;       // tokens in a sample, without the last target
    int64_t stride = 0;  // validation of text and shards: tokens from one window to the next
    uint64_t seed = 0;
};

struct OpenedSources {
    std::vector<std::unique_ptr<const Dataset>> datasets;
    std::vector<double> weights;                 // one per dataset
    std::shared_ptr<const Tokenizer> tokenizer;  // null for bigram_backcopy and for shards without a tokenizer file
    const BigramBackcopy* bigram_backcopy = nullptr;  // the one dataset, if that is what it is
};

// Opens the files of a split. All sources share one vocabulary.
// Throws Error (78) for files and values that cannot be used, each naming its key or file.
OpenedSources open_sources(const DataConfig& config, const SourceRequest& request);

}  // namespace plimsoll
