// Attention by the definition, in double, with the whole (T, T) matrix: written from the papers, sharing nothing with
// the kernels but the structs that say what to compute.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/attention.h"

namespace plimsoll {

struct AttentionCase {
    std::string weighting = "softmax";
    ExtraColumn extra = ExtraColumn::kNone;
    double extra_logit = 0;
    ScoreBias bias = ScoreBias::kConstant;
    double bias_value = 0;
    int64_t window = 0, pinned = 0;
    bool alibi = false;
    int64_t NH = 1, NKV = 1, HS = 8;
    std::vector<int32_t> cu_seqlens = {0, 5};
    double spread = 1;      // of queries and keys
    double sink_shift = 0;  // added to learned sink logits
    bool gate = false;      // one per head

    int64_t N() const { return cu_seqlens.back(); }
    AttentionSpec spec() const {
        AttentionSpec s;
        for (size_t i = 0; i < variants().size(); ++i)
            if (variants()[i].name == weighting) s.weighting = static_cast<Weighting>(i);
        s.scale = 1 / std::sqrt(static_cast<double>(HS));
        s.extra_column = extra, s.extra_logit = extra_logit, s.bias_kind = bias, s.score_bias = bias_value;
        s.window = window, s.pinned = pinned, s.alibi = alibi;
        return s;
    }
};

// How a failing case is named.
inline void PrintTo(const AttentionCase& c, std::ostream* out) {
    *out << c.weighting << " N=" << c.N() << " documents=" << c.cu_seqlens.size() - 1 << " heads=" << c.NH << "/"
         << c.NKV << " HS=" << c.HS << " window=" << c.window << " pinned=" << c.pinned << (c.alibi ? " alibi" : "")
         << (c.gate ? " gate" : "") << " extra=" << static_cast<int>(c.extra) << " bias=" << static_cast<int>(c.bias);
}

// Weights of a row from its visible scores. A weighting without an entry here fails its tests: add its formula.
inline std::vector<double> oracle_row(const AttentionCase& c, const std::vector<double>& scores, double sink_logit,
                                      double& lse) {
    std::vector<double> p;
    lse = 0;
    if (c.weighting == "softmax") {  // exp(s_j) / (exp(e) + sum exp(s))
        double top = -std::numeric_limits<double>::infinity(), sum = 0;
        const double e = c.extra == ExtraColumn::kConstant ? c.extra_logit : sink_logit;
        if (c.extra != ExtraColumn::kNone) top = e;
        for (const double s : scores) top = std::max(top, s);
        if (c.extra != ExtraColumn::kNone) sum = std::exp(e - top);
        for (const double s : scores) sum += std::exp(s - top);
        for (const double s : scores) p.push_back(std::exp(s - top) / sum);
        lse = top + std::log(sum);
    } else if (c.weighting == "sigmoid") {  // 1 / (1 + exp(-(s + b)))
        const double b = c.bias == ScoreBias::kPerRow ? -std::log(static_cast<double>(scores.size())) : c.bias_value;
        for (const double s : scores) p.push_back(1 / (1 + std::exp(-(s + b))));
    } else {
        ADD_FAILURE() << "tests/support/attention_oracle.h has no formula for weighting '" << c.weighting << "'";
    }
    return p;
}

// out (N, NH, HS) and lse (NH, N) from q (N, NH, HS), k, v (N, NKV, HS), dense.
inline void attention_oracle(const AttentionCase& c, const std::vector<double>& q, const std::vector<double>& k,
                             const std::vector<double>& v, const std::vector<double>& sink,
                             const std::vector<double>& gate, std::vector<double>& out, std::vector<double>& lse) {
    const int64_t N = c.N();
    out.assign(static_cast<size_t>(N * c.NH * c.HS), 0);
    lse.assign(static_cast<size_t>(c.NH * N), 0);
    const auto at = [&](int64_t n, int64_t heads, int64_t h, int64_t x) {
        return static_cast<size_t>((n * heads + h) * c.HS + x);
    };
    for (size_t d = 0; d + 1 < c.cu_seqlens.size(); ++d)
        for (int64_t h = 0; h < c.NH; ++h)
            for (int64_t i = c.cu_seqlens[d]; i < c.cu_seqlens[d + 1]; ++i) {
                const int64_t g = h / (c.NH / c.NKV), first = c.cu_seqlens[d];
                std::vector<double> scores;
                std::vector<int64_t> keys;
                for (int64_t j = first; j <= i; ++j) {
                    if (c.window > 0 && j <= i - c.window && j - first >= c.pinned) continue;
                    double dot = 0;
                    for (int64_t x = 0; x < c.HS; ++x) dot += q[at(i, c.NH, h, x)] * k[at(j, c.NKV, g, x)];
                    double s = dot / std::sqrt(static_cast<double>(c.HS));
                    if (c.alibi)
                        s -= std::pow(2.0, -8.0 * static_cast<double>(h + 1) / static_cast<double>(c.NH)) *
                             static_cast<double>(i - j);
                    scores.push_back(s);
                    keys.push_back(j);
                }
                const std::vector<double> p = oracle_row(c, scores, sink.empty() ? 0 : sink[static_cast<size_t>(h)],
                                                         lse[static_cast<size_t>(h * N + i)]);
                for (size_t n = 0; n < p.size(); ++n)
                    for (int64_t x = 0; x < c.HS; ++x) out[at(i, c.NH, h, x)] += p[n] * v[at(keys[n], c.NKV, g, x)];
                if (gate.empty()) continue;
                const double open = 1 / (1 + std::exp(-gate[static_cast<size_t>(i * c.NH + h)]));
                for (int64_t x = 0; x < c.HS; ++x) out[at(i, c.NH, h, x)] *= open;
            }
}

}  // namespace plimsoll
