// The table of weightings, and weights by the definition for probes.
#include "kernels/attention.h"

#include <array>
#include <vector>

#include "kernels/attention/row.h"
#include "kernels/attention/variants.h"
#include "kernels/widened_rows.h"

namespace plimsoll {
namespace {

constexpr std::array kVariants{
#define PLIMSOLL_VARIANT(Trait, header) Trait::kInfo,
#include "kernels/attention/variants.def"
#undef PLIMSOLL_VARIANT
};

}  // namespace

std::span<const VariantInfo> variants() {
    return kVariants;
}

const VariantInfo& info_of(Weighting weighting) {
    return kVariants[static_cast<size_t>(weighting)];
}

bool is_normalized(Weighting weighting) {
    return info_of(weighting).normalization != Normalization::kNone;
}

bool takes_bias(Weighting weighting) {
    return info_of(weighting).bias != BiasRole::kNone;
}

bool takes_extra_column(Weighting weighting) {
    return info_of(weighting).normalization == Normalization::kExp;
}

void attention_weights(std::span<double> weights, std::span<double> scores, Tensor q, Tensor k, double learned,
                       int64_t head, int64_t NH, const AttentionSpec& spec, std::span<const double> key_bias) {
    const int64_t T = q.shape[0], HS = q.shape[1];
    check(q.shape == k.shape && static_cast<int64_t>(weights.size()) == T * T &&
              (scores.empty() || scores.size() == weights.size()) &&
              (key_bias.empty() || static_cast<int64_t>(key_bias.size()) == T),
          "attention_weights: q {}, k {}, {} weights, {} biases of keys", q.shape, k.shape, weights.size(),
          key_bias.size());
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const std::vector<double> queries = widened_rows(q), keys = widened_rows(k);
    const Mask mask(spec);
    const double slope = alibi_slope(spec, head, NH), extra = extra_logit(spec, learned);
    dispatch_variant(spec.weighting, [&]<class V>() {
        std::vector<double> row(static_cast<size_t>(T));
        for (int64_t i = 0; i < T; ++i) {
            const int64_t end = std::min(T, mask.keys_end(i, i + 1));
            double top = extra;
            std::fill(row.begin(), row.end(), -kInfinity);
            for (int64_t j = 0; j < end; ++j) {
                if (!mask.visible(i, j)) continue;
                const double *a = queries.data() + i * HS, *b = keys.data() + j * HS;
                double dot = 0;
#pragma omp simd reduction(+ : dot)
                for (int64_t c = 0; c < HS; ++c) dot += a[c] * b[c];
                const double bias = key_bias.empty() ? 0 : key_bias[static_cast<size_t>(j)];
                const double s = spec.scale * dot + bias - slope * std::abs(static_cast<double>(i - j));
                row[static_cast<size_t>(j)] = s;
                top = std::max(top, s);
            }
            double lse = 0, total = 0;
            if constexpr (V::kInfo.normalization == Normalization::kExp) {
                double sum = extra == -kInfinity ? 0 : std::exp(extra - top);
                for (int64_t j = 0; j < end; ++j) sum += std::exp(row[static_cast<size_t>(j)] - top);
                lse = top + std::log(sum);
            }
            const RowState<double> state{.lse = lse, .bias = row_bias<V>(spec, mask, i, T, learned)};
            const std::span<double> here = weights.subspan(static_cast<size_t>(i * T), static_cast<size_t>(T));
            for (size_t j = 0; j < here.size(); ++j) {
                here[j] = row[j] == -kInfinity ? 0 : V::template weight<double>(row[j], state);
                total += here[j];
            }
            if constexpr (kHasFactor<V>)
                for (double& weight : here) weight *= weight_factor<V>(total, state);
            if (!scores.empty()) std::copy(row.begin(), row.end(), scores.begin() + i * T);
        }
    });
}

}  // namespace plimsoll
