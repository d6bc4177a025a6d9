#include "train/evaluate.h"

#include <algorithm>
#include <cmath>

#include "train/device.h"
#include "train/feed.h"

namespace plimsoll {
namespace {

// Sums of KL(oracle || model) over the positions of a Bigram-Backcopy batch.
struct RiskSums {
    double bigram = 0, copy = 0;
    int64_t bigram_positions = 0, copy_positions = 0;

    void add(const BigramBackcopy& task, const Batch& batch, Tensor logits) {
        const int64_t V = logits.shape[1];
        std::vector<double> oracle(static_cast<size_t>(task.vocab_size()));
        BackcopyState state;
        for (size_t n = 0; n < batch.tokens.size(); ++n) {
            const bool placeholder = batch.tokens[n] >= task.vocab_size();
            if (placeholder || n % static_cast<size_t>(batch.T) == 0) state = {};
            if (placeholder) continue;  // which is not scored either
            state = task.after(state, batch.tokens[n]);
            if (batch.targets[n] < 0) continue;
            task.oracle_row(state, oracle);
            const auto logit = [&](int64_t v) {
                const int64_t at = static_cast<int64_t>(n) * V + v;
                return logits.dtype == DType::kF64 ? logits.ptr<double>()[at]
                                                   : static_cast<double>(logits.ptr<float>()[at]);
            };
            double top = -std::numeric_limits<double>::infinity(), sum = 0;
            for (int64_t v = 0; v < V; ++v) top = std::max(top, logit(v));
            for (int64_t v = 0; v < V; ++v) sum += std::exp(logit(v) - top);
            const double lse = top + std::log(sum);
            double divergence = 0;
            for (size_t v = 0; v < oracle.size(); ++v)
                if (oracle[v] > 0)
                    divergence += oracle[v] * (std::log(oracle[v]) - (logit(static_cast<int64_t>(v)) - lse));
            const bool trigger = task.is_trigger(state);
            (trigger ? copy : bigram) += divergence;
            ++(trigger ? copy_positions : bigram_positions);
        }
    }
};

}  // namespace

Evaluation evaluate(Transformer& model, CoreAttention& core, const Loader& validation, int64_t samples, int64_t rows,
                    ScoredTokens scored_tokens, const Exec& exec, const BatchObserver& observe) {
    const int64_t available = validation.samples_available();
    const int64_t total = samples && (available < 0 || samples < available) ? samples : available;
    check(total > 0, "no validation rows to evaluate on");
    LossSums sums;
    RiskSums risks;
    BatchFeed feed(validation, std::min(rows, total), exec);
    for (int64_t first = 0; first < total; first += rows) {
        const ModelInput input = feed.next(first, std::min(rows, total - first));
        const LossSums batch_sums = model.evaluate(core, input, exec);
        sums.nll += batch_sums.nll;
        sums.scored += batch_sums.scored;
        observe(feed.batch(), model);
        if (validation.bigram_backcopy())
            risks.add(*validation.bigram_backcopy(), feed.batch(),
                      HostCopy(model.logits(static_cast<int64_t>(input.tokens.size()), exec), exec).tensor());
    }
    Evaluation result{.loss = sums.scored ? sums.nll / static_cast<double>(sums.scored) : 0,
                      .scored = sums.scored,
                      .bigram_risk = {},
                      .copy_risk = {}};
    if (const BigramBackcopy* task = validation.bigram_backcopy()) {
        const BigramBackcopy::Floors floors = task->floors(scored_tokens.end, scored_tokens.begin);
        if (risks.bigram_positions)
            result.bigram_risk = floors.bigram + risks.bigram / static_cast<double>(risks.bigram_positions);
        if (risks.copy_positions)
            result.copy_risk = floors.copy + risks.copy / static_cast<double>(risks.copy_positions);
    }
    return result;
}

}  // namespace plimsoll
