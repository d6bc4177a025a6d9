#include "train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "train/device.h"
#include "train/feed.h"

namespace plimsoll {
namespace {

// KL(oracle || model) of one position, whose logits are `logit`.
template <class T>
double divergence_of(std::span<const double> oracle, std::span<const T> logit) {
    double top = -std::numeric_limits<double>::infinity(), sum = 0;
    for (const T x : logit) top = std::max(top, static_cast<double>(x));
    for (const T x : logit) sum += std::exp(static_cast<double>(x) - top);
    const double lse = top + std::log(sum);
    double divergence = 0;
    for (size_t v = 0; v < oracle.size(); ++v)
        if (oracle[v] > 0) divergence += oracle[v] * (std::log(oracle[v]) - (static_cast<double>(logit[v]) - lse));
    return divergence;
}

// Sums of it over the positions of Bigram-Backcopy batches. Rows are shared among threads; positions are summed in
// their order, whatever the threads.
class RiskSums {
  public:
    double bigram = 0, copy = 0;
    int64_t bigram_positions = 0, copy_positions = 0;

    void add(const BigramBackcopy& task, const Batch& batch, Tensor logits, const Exec& exec) {
        positions_.resize(batch.tokens.size());
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
        for (int64_t row = 0; row < batch.B; ++row) {
            if (logits.dtype == DType::kF64)
                row_of<double>(task, batch, row, logits);
            else
                row_of<float>(task, batch, row, logits);
        }
        for (const Position& p : positions_) {
            if (p.kind == Kind::kNotScored) continue;
            (p.kind == Kind::kCopy ? copy : bigram) += p.divergence;
            ++(p.kind == Kind::kCopy ? copy_positions : bigram_positions);
        }
    }

  private:
    enum class Kind : uint8_t { kNotScored, kBigram, kCopy };
    struct Position {
        Kind kind;
        double divergence;
    };

    template <class T>
    void row_of(const BigramBackcopy& task, const Batch& batch, int64_t row, Tensor logits) {
        const auto V = static_cast<size_t>(logits.shape[1]);
        const std::span<const T> all = logits.span<T>();
        std::vector<double> oracle(static_cast<size_t>(task.vocab_size()));
        BackcopyState state;
        for (auto n = static_cast<size_t>(row * batch.T); n < static_cast<size_t>((row + 1) * batch.T); ++n) {
            positions_[n] = {Kind::kNotScored, 0};
            const bool placeholder = batch.tokens[n] >= task.vocab_size();
            if (placeholder) state = {};
            if (placeholder) continue;  // which is not scored either
            state = task.after(state, batch.tokens[n]);
            if (batch.targets[n] < 0) continue;
            task.oracle_row(state, oracle);
            positions_[n] = {task.is_trigger(state) ? Kind::kCopy : Kind::kBigram,
                             divergence_of<T>(oracle, all.subspan(n * V, V))};
        }
    }

    std::vector<Position> positions_;
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
                      HostCopy(model.logits(static_cast<int64_t>(input.tokens.size()), exec), exec).tensor(), exec);
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
