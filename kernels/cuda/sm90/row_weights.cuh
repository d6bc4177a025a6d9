// From scores to weights in registers of a warpgroup (sm90/warpgroup.cuh), by the weighting's trait.
//
// Scores stay as tensor cores make them, q.k, until they are weighed: less ALiBi and mask, "raw". A score is then raw
// times RowWeights::unit(); for weightings that know scores only in exponentials (V::kOnlyExponentials) in units of log
// 2, so that 2^x needs no product: one multiply-add and one ex2 per weight of softmax.
#pragma once

#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {

// Math of variants whose scores and biases come times log2 e.
struct Base2Math {
    PLIMSOLL_DEVICE static float exp(float x) { return device::exp2_approx(x); }
    PLIMSOLL_DEVICE static float reciprocal(float x) { return device::rcp_approx(x); }
};

// Scores of a weighting as tensor cores make them, times unit(), are what it weighs.
template <class V>
struct ScoreUnit {
    static constexpr bool kBase2 = requires { V::kOnlyExponentials; };
    static constexpr float kUnit = kBase2 ? 1.4426950408889634f : 1.0f;
    using Math = std::conditional_t<kBase2, Base2Math, DeviceMath>;
    // Backward weighs scores while dP is being made, and forgets them.
    static constexpr bool kForgetsScores = requires { V::kGradientFromWeight; };
    static_assert(kForgetsScores || !kBase2);  // dscore has no idea of units

    // Two raw scores of queries whose rows have the same state. kInPairs: with one reciprocal, where that is possible.
    template <bool kInPairs>
    PLIMSOLL_DEVICE static void weigh(float& one, float& other, float unit, RowState<float, Math> state) {
        if constexpr (kInPairs && requires { V::weigh_pair(one, other, state); }) {
            one *= unit, other *= unit;
            V::weigh_pair(one, other, state);
        } else {
            one = V::weight(one * unit, state), other = V::weight(other * unit, state);
        }
    }
};

// This lane's two rows of a tile of queries, `row` and `row` + 8, and what of the keys they see.
struct QueryRows {
    const DeviceMask& mask;
    const int32_t* first;  // where the document of each row begins
    float raw_slope;       // ALiBi's, of raw scores
    int row, last_row;     // of the queries; of all

    // ALiBi: less the slope times the distance from key to query.
    template <int kCount>
    PLIMSOLL_DEVICE void bend(float (&raw)[kCount], int n0, int lane) const {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float nearest = -raw_slope * static_cast<float>(row + 8 * r - n0 - 2 * (lane % 4));
#pragma unroll
            for (int c = 0; c < kCount / 4; ++c)
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    raw[4 * c + 2 * r + e] += nearest + raw_slope * static_cast<float>(8 * c + e);
        }
    }
    // Writes over what a query does not see: keys behind it, before its document, and before its window if not pinned.
    // Keys are counted from the lane's first, so that each is compared with constants. What is needed of the rows is
    // read here: tiles that are cut are few.
    template <int kCount>
    PLIMSOLL_DEVICE void hide(float (&values)[kCount], int n0, int lane, float hidden) const {
        const int origin = n0 + 2 * (lane % 4);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int i = row + 8 * r, begin = first[i < last_row ? i : last_row] - origin;
            const int window = i - mask.window + 1 - origin, end = i + 1 - origin;
            const int dense = mask.window > 0 && window > begin ? window : begin, pinned = begin + mask.pinned;
#pragma unroll
            for (int c = 0; c < kCount / 4; ++c)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int key = 8 * c + e;
                    const bool seen = key < end && (key >= dense || (key >= begin && key < pinned));
                    float& value = values[4 * c + 2 * r + e];
                    value = seen ? value : hidden;
                }
        }
    }
};

// The same in the forward: what they have seen so far.
template <class V, int HS>
struct RowWeights : QueryRows {
    // One reciprocal for two weights. Wider heads give tensor cores enough to do meanwhile, and have no registers to
    // spare.
    static constexpr bool kInPairs = HS <= 128;
    static constexpr bool kExp = V::kInfo.normalization == Normalization::kExp;
    static constexpr float kUnit = ScoreUnit<V>::kUnit;
    using Math = typename ScoreUnit<V>::Math;

    float bias[2] = {};        // times kUnit
    float top[2] = {};         // of the raw scores seen so far, kExp
    float sum[2] = {};         // of the weights: this lane's part of its row's
    float factor[2] = {1, 1};  // by which what was added up before the last tile is to be multiplied, kExp

    PLIMSOLL_DEVICE float unit() const { return mask.scale * kUnit; }

    // Weighs raw scores of keys n0 .. n0 + 2 kCount - 1 in place. cut: some are hidden from their queries.
    template <int kCount>
    PLIMSOLL_DEVICE void weigh(float (&raw)[kCount], int n0, bool cut, int lane) {
        if (mask.alibi) bend(raw, n0, lane);
        if (kExp && cut) hide(raw, n0, lane, kLowest);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            if constexpr (kExp) raise_top(raw, r);
            // A row that has seen nothing yet has no top: its scores are -inf, their weights 0.
            const RowState<float, Math> state{kExp && top[r] == kLowest ? 0.0f : top[r] * unit(), bias[r]};
#pragma unroll
            for (int c = 0; c < kCount / 4; ++c) {
                ScoreUnit<V>::template weigh<kInPairs>(raw[4 * c + 2 * r], raw[4 * c + 2 * r + 1], unit(), state);
            }
        }
        if (!kExp && cut) hide(raw, n0, lane, 0.0f);
        if constexpr (kIsNormalized<V>) {
#pragma unroll
            for (int i = 0; i < kCount; ++i) sum[i / 2 % 2] += raw[i];
        }
    }

  private:
    template <int kCount>
    PLIMSOLL_DEVICE void raise_top(const float (&raw)[kCount], int r) {
        float highest = top[r];
#pragma unroll
        for (int c = 0; c < kCount / 4; ++c)
            highest = fmaxf(highest, fmaxf(raw[4 * c + 2 * r], raw[4 * c + 2 * r + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 2));
        factor[r] = top[r] == highest ? 1.0f : Math::exp((top[r] - highest) * unit());
        top[r] = highest;
        sum[r] *= factor[r];
    }
};

}  // namespace plimsoll::cuda
