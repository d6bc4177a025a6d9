// Loss on the validation split, and for the Bigram-Backcopy task the risks against its exact oracle.
#pragma once

#include <functional>
#include <optional>

#include "data/loader.h"
#include "model/transformer.h"

namespace plimsoll {

struct Evaluation {
    double loss = 0;  // mean NLL in nats over the scored targets
    int64_t scored = 0;
    // Bigram-Backcopy: expected cross-entropy under the oracle's own distribution, over non-trigger positions (exact
    // floor
    // + mean KL(oracle || model), so never below the floor), and over trigger positions (floor 0).
    std::optional<double> bigram_risk, copy_risk;
};

// Told of every batch of an evaluation, with the model that has just computed it.
using BatchObserver = std::function<void(const Batch&, Transformer&)>;

// Evaluates on validation rows 0 .. samples - 1 (0 = the whole split), `rows` at a time.
// `scored_tokens`: of a row, for the floor.
Evaluation evaluate(
    Transformer& model, CoreAttention& core, const Loader& validation, int64_t samples, int64_t rows,
    ScoredTokens scored_tokens, const Exec& exec, const BatchObserver& observe = [](const Batch&, Transformer&) {});

}  // namespace plimsoll
