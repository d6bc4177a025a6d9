#include "train/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace plimsoll {

Sampler::Sampler(const SamplingOptions& options, int64_t ids) : options_(options), ids_(ids) {
    if (!(options.temperature >= 0) || !std::isfinite(options.temperature))
        fail_input("--temperature is {}, must be at least 0", options.temperature);
    if (options.top_k < 0) fail_input("--top-k is {}, must be at least 0 (0 = all)", options.top_k);
    if (!(options.top_p > 0 && options.top_p <= 1))
        fail_input("--top-p is {}, must lie above 0 and at most be 1", options.top_p);
    check(ids > 0, "no ids to draw from");
    logits_.resize(static_cast<size_t>(ids)), weights_ = logits_;
    order_.resize(logits_.size());
}

// Of the first `candidates` entries of order_ (any order), how many the nucleus takes, which then come first: the most
// likely ones, found in growing sorted parts, since a nucleus is short and a vocabulary long.
int64_t Sampler::nucleus(int64_t candidates, double total) {
    const auto likelier = [&](int32_t a, int32_t b) {
        const double x = logits_[static_cast<size_t>(a)], y = logits_[static_cast<size_t>(b)];
        return x > y || (x == y && a < b);
    };
    double sum = 0;
    int64_t sorted = 0;
    for (int64_t part = 64; sorted < candidates; part *= 4) {
        const int64_t end = std::min(candidates, sorted + part);
        std::partial_sort(order_.begin() + sorted, order_.begin() + end, order_.begin() + candidates, likelier);
        for (; sorted < end; ++sorted) {
            sum += weights_[static_cast<size_t>(order_[static_cast<size_t>(sorted)])];
            if (sum >= options_.top_p * total) return sorted + 1;
        }
    }
    return candidates;
}

int32_t Sampler::draw(Tensor logits, double uniform) {
    check(logits.elements() >= ids_, "logits {} for {} ids", logits.shape, ids_);
    dispatch_float(logits.dtype, [&]<class R>() {
        const R* from = logits.ptr<R>();
        std::transform(from, from + ids_, logits_.begin(),
                       [](R value) { return static_cast<double>(static_cast<Accumulator<R>>(value)); });
    });
    for (const double logit : logits_)
        if (!std::isfinite(logit)) throw Error(ExitCode::kInternal, "the model's logits are not finite");
    const auto best = std::max_element(logits_.begin(), logits_.end());  // the first of equal ones
    if (options_.temperature == 0) return static_cast<int32_t>(best - logits_.begin());
    for (size_t i = 0; i < logits_.size(); ++i) weights_[i] = std::exp((logits_[i] - *best) / options_.temperature);
    if ((options_.top_k > 0 && options_.top_k < ids_) || options_.top_p < 1) {
        std::iota(order_.begin(), order_.end(), 0);
        int64_t kept = ids_;
        if (options_.top_k > 0 && options_.top_k < ids_) {
            kept = options_.top_k;
            std::nth_element(order_.begin(), order_.begin() + (kept - 1), order_.end(), [&](int32_t a, int32_t b) {
                const double x = logits_[static_cast<size_t>(a)], y = logits_[static_cast<size_t>(b)];
                return x > y || (x == y && a < b);
            });
        }
        if (options_.top_p < 1) {
            double total = 0;
            for (int64_t i = 0; i < kept; ++i) total += weights_[static_cast<size_t>(order_[static_cast<size_t>(i)])];
            kept = nucleus(kept, total);
        }
        for (auto i = static_cast<size_t>(kept); i < order_.size(); ++i) weights_[static_cast<size_t>(order_[i])] = 0;
    }
    double total = 0;
    for (const double weight : weights_) total += weight;
    double left = uniform * total;
    int32_t last = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
        if (weights_[i] == 0) continue;
        last = static_cast<int32_t>(i);
        left -= weights_[i];
        if (left < 0) return last;
    }
    return last;  // the sum of the differences fell short of the total by rounding
}

}  // namespace plimsoll
