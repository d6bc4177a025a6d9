// Loss on the validation split, and for the Bigram-Backcopy task the risks against its exact oracle.
#pragma once

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

// Evaluates on validation rows 0 .. samples - 1 (0 = the whole split), `rows` at a time.
// `scored_tokens`: positions of a row that carry targets in every run compared (T less the placeholders), for the
// floor.
Evaluation evaluate(Transformer& model, CoreAttention& core, const Loader& validation, int64_t samples, int64_t rows,
                    int64_t scored_tokens, const Exec& exec);

}  // namespace plimsoll
