// Compiled for AMX and AVX-512, as tiles.cpp is.
#include "kernels/cpu/avx512_bf16/blocks.h"

#include "kernels/cpu/avx512_bf16/activation_lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

// Tiles 0 to 3 are sums, 4 and 5 left operands, 6 and 7 right ones. GCC 12's own functions for these instructions do
// not say that they read and write memory, so that stores may be moved past them.
template <int kRegister>
void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kRegister));
}
template <int kRegister>
void load_tile(const void* from, int64_t stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(kRegister) : "memory");
}
template <int kRegister>
void store_tile(void* to, int64_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(kRegister) : "memory");
}
template <int kSum, int kLeft, int kRight>
void multiply_add() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kLeft), "i"(kRight));
}

// No block: nothing to finish between steps.
struct Nothing {
    void pairs(int64_t) {}
    void end() {}
};

// Returns what it stores, and zeros for the other lanes.
__m512 store_sums(float* to, __m512 value, __mmask16 mask, BlockStore how) {
    value = _mm512_maskz_mov_ps(mask, value);
    if (how == BlockStore::kAdd) value = _mm512_add_ps(load(to, 0, mask), value);
    if (how == BlockStore::kStream && mask == 0xffff && reinterpret_cast<uintptr_t>(to) % 64 == 0)
        _mm512_stream_ps(to, value);
    else
        store(to, 0, mask, value);
    return value;
}

// A sum of squares in fp64, of 16 lanes at a time.
class Squares {
  public:
    void add(__m512 values) {
        const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(values));
        const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(values, 1));
        low_ = _mm512_fmadd_pd(low, low, low_);
        high_ = _mm512_fmadd_pd(high, high, high_);
    }
    double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(low_, high_)); }

  private:
    __m512d low_ = _mm512_setzero_pd(), high_ = _mm512_setzero_pd();
};

// Finishes a block's rows in order, as many at a time as there is time for; kWhole are 32 x 32.
template <bool kWhole, bool kWide, BlockStore kHow, Following kFollowing, bool kSquares = false>
class Rows {
  public:
    // Member by member: a copy of the whole would wait for the tiles stored before it.
    explicit Rows(const Finish& f)
        : sums_(f.sums),
          sums_row_(f.sums_row),
          rows_(f.rows),
          wide_(f.wide),
          narrow_(f.narrow),
          to_row_(f.to_row),
          other_(f.other),
          other_row_(f.other_row),
          squares_(f.squares),
          mask_(pair_lanes(f.columns)) {
        const __m512 zero = _mm512_setzero_ps();
        low_bias_ = f.bias ? load(f.bias, 0, low()) : zero;
        high_bias_ = f.bias && high() ? load(f.bias, kLanes, high()) : zero;
    }
    // Of two rows each.
    void pairs(int64_t count) {
        for (; count > 0 && row_ < kBlock; --count, row_ += 2) finish_row(), finish_row();
    }
    void rest() {
        for (; row_ < rows_; ++row_) finish_row();
        end();
    }
    // After the last row.
    void end() {
        if constexpr (kSquares) *squares_ = sums_of_squares_.total();
    }

  private:
    __mmask32 all() const { return kWhole ? ~__mmask32{0} : mask_; }
    __mmask16 low() const { return static_cast<__mmask16>(all()); }
    __mmask16 high() const { return static_cast<__mmask16>(all() >> kLanes); }

    void finish_row() {
        const __m512 low_sums = _mm512_add_ps(_mm512_loadu_ps(sums_), low_bias_);
        const __m512 high_sums = _mm512_add_ps(_mm512_loadu_ps(sums_ + kLanes), high_bias_);
        sums_ += sums_row_;
        if constexpr (kWide) {
            const __m512 low_stored = store_sums(wide_, low_sums, low(), kHow);
            if constexpr (kSquares) sums_of_squares_.add(low_stored);
            if (high()) {
                const __m512 high_stored = store_sums(wide_ + kLanes, high_sums, high(), kHow);
                if constexpr (kSquares) sums_of_squares_.add(high_stored);
            }
            wide_ += to_row_;
        } else {
            finish_narrow(low_sums, high_sums);
            to_ += to_row_, follows_ += other_row_;
        }
    }
    void finish_narrow(__m512 low_sums, __m512 high_sums) const {
        if (kHow == BlockStore::kAdd) {
            low_sums = _mm512_add_ps(load(narrow_, to_, low()), low_sums);
            if (high()) high_sums = _mm512_add_ps(load(narrow_, to_ + kLanes, high()), high_sums);
        }
        const __m512i rounded = in_order(low_sums, high_sums);
        if constexpr (kFollowing == Following::kGeluGradient || kFollowing == Following::kReluGradient) {
            const Pair x = load_pair(other_, follows_, all()), d = pair(rounded);
            return store_pair(narrow_, to_, all(), {gradient(d.even, x.even), gradient(d.odd, x.odd)});
        }
        if constexpr (kFollowing == Following::kReluInPlace) {
            const Pair x = pair(rounded);
            return store_pair(narrow_, to_, all(), {value(x.even), value(x.odd)});
        }
        store_bits(narrow_, to_, all(), rounded);
        if constexpr (kFollowing == Following::kGelu || kFollowing == Following::kRelu) {
            const Pair x = pair(rounded);
            store_pair(other_, follows_, all(), {value(x.even), value(x.odd)});
        }
    }
    static __m512 value(__m512 x) {
        if (kFollowing == Following::kGelu) return gelu(x);
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), x);
    }
    static __m512 gradient(__m512 d, __m512 x) {
        if (kFollowing == Following::kGeluGradient) return gelu_gradient(d, x);
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), d);
    }

    const float* sums_;
    int64_t sums_row_, rows_;
    float* wide_;
    bf16* narrow_;
    int64_t to_row_;
    bf16* other_;
    int64_t other_row_;
    double* squares_;
    __mmask32 mask_;
    __m512 low_bias_, high_bias_;
    int64_t row_ = 0, to_ = 0, follows_ = 0;  // of the next row: its number, and its first elements
    Squares sums_of_squares_;
};

template <class Meanwhile>
void multiply_tiles(float* c, int64_t c_row, const Left& a, const Right& b, int64_t depth, bool accumulate,
                    Meanwhile meanwhile) {
    const int64_t c_bytes = 4 * c_row, a_bytes = 2 * a.row;
    float* const below = c + 16 * c_row;
    if (accumulate) {
        load_tile<0>(c, c_bytes), load_tile<1>(c + 16, c_bytes);
        load_tile<2>(below, c_bytes), load_tile<3>(below + 16, c_bytes);
    } else {
        zero<0>(), zero<1>(), zero<2>(), zero<3>();
    }
    const auto* left = reinterpret_cast<const uint16_t*>(a.data);
    const auto* right = reinterpret_cast<const uint16_t*>(b.data);
    const int64_t a_down = a.down, a_next = a.next, b_across = b.across, b_next = b.next;
    const int64_t pairs = depth >= 8 ? 1 : (8 + depth - 1) / depth;  // of rows, finished between two pairs of products
    for (int64_t k = 0; k < depth; ++k, left += a_next, right += b_next) {
        load_tile<4>(left, a_bytes);
        load_tile<6>(right, 64);
        multiply_add<0, 4, 6>();
        load_tile<7>(right + b_across, 64);
        multiply_add<1, 4, 7>();
        meanwhile.pairs(pairs);
        load_tile<5>(left + a_down, a_bytes);
        multiply_add<2, 5, 6>();
        multiply_add<3, 5, 7>();
        meanwhile.pairs(pairs);
    }
    meanwhile.end();
    store_tile<0>(c, c_bytes), store_tile<1>(c + 16, c_bytes);
    store_tile<2>(below, c_bytes), store_tile<3>(below + 16, c_bytes);
}

// Some rows of c by vectors: 16 sums stay in registers, each row's pair of K meets 32 columns.
constexpr int64_t kRowsTogether = 8;
void multiply_rows(float* c, int64_t c_row, const uint16_t* left, int64_t left_row, int64_t left_next,
                   const uint16_t* right, int64_t across, int64_t right_next, int64_t depth, bool accumulate) {
    __m512 sums[kRowsTogether][2];
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRowsTogether; ++r) {
        sums[r][0] = accumulate ? _mm512_loadu_ps(c + r * c_row) : _mm512_setzero_ps();
        sums[r][1] = accumulate ? _mm512_loadu_ps(c + r * c_row + kLanes) : _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < depth; ++k, left += left_next, right += right_next)
#pragma GCC unroll 2
        for (int64_t pair = 0; pair < kTileDepth; pair += 2) {
            const __m512bh low = as_pairs(_mm512_load_si512(right + pair * kLanes));
            const __m512bh high = as_pairs(_mm512_load_si512(right + across + pair * kLanes));
#pragma GCC unroll 8
            for (int64_t r = 0; r < kRowsTogether; ++r) {
                int32_t both = 0;
                std::memcpy(&both, left + r * left_row + pair, sizeof both);
                const __m512bh a = as_pairs(_mm512_set1_epi32(both));
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a, low);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], a, high);
            }
        }
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRowsTogether; ++r) {
        _mm512_storeu_ps(c + r * c_row, sums[r][0]);
        _mm512_storeu_ps(c + r * c_row + kLanes, sums[r][1]);
    }
}

template <class Meanwhile>
void multiply_vectors(float* c, int64_t c_row, const Left& a, const Right& b, int64_t depth, bool accumulate,
                      Meanwhile meanwhile) {
    const auto* left = reinterpret_cast<const uint16_t*>(a.data);
    const auto* right = reinterpret_cast<const uint16_t*>(b.data);
    for (int64_t r = 0; r < kBlock; r += kRowsTogether) {
        multiply_rows(c + r * c_row, c_row, left + r / kTileRows * a.down + r % kTileRows * a.row, a.row, a.next, right,
                      b.across, b.next, depth, accumulate);
        meanwhile.pairs(kRowsTogether / 2);
    }
    meanwhile.end();
}

// Calls f(rows) with what finishes this block.
template <bool kWhole, class F>
void with_rows(const Finish& block, F&& f) {
    using enum BlockStore;
    using enum Following;
    const auto wide = [&]<BlockStore kHow>() {
        if (block.squares) return f(Rows<kWhole, true, kHow, kNothing, true>(block));
        return f(Rows<kWhole, true, kHow, kNothing>(block));
    };
    if (block.wide) switch (block.how) {
            case kWrite:
                return wide.template operator()<kWrite>();
            case kAdd:
                return wide.template operator()<kAdd>();
            case kStream:
                return wide.template operator()<kStream>();
        }
    if (block.how == kAdd) return f(Rows<kWhole, false, kAdd, kNothing>(block));
    switch (block.following) {
        case kNothing:
            return f(Rows<kWhole, false, kWrite, kNothing>(block));
        case kRelu:
            return f(Rows<kWhole, false, kWrite, kRelu>(block));
        case kGelu:
            return f(Rows<kWhole, false, kWrite, kGelu>(block));
        case kReluInPlace:
            return f(Rows<kWhole, false, kWrite, kReluInPlace>(block));
        case kReluGradient:
            return f(Rows<kWhole, false, kWrite, kReluGradient>(block));
        case kGeluGradient:
            return f(Rows<kWhole, false, kWrite, kGeluGradient>(block));
    }
}

// Calls f(rows) with what finishes the block before meanwhile, if there is one and it is whole.
template <class F>
void with_last(const Finish* last, F&& f) {
    if (last && (last->rows < kBlock || last->columns < kBlock)) finish(*last), last = nullptr;
    if (!last) return f(Nothing());
    with_rows<true>(*last, f);
}

}  // namespace

void finish(const Finish& block) {
    with_rows<false>(block, [](auto rows) { rows.rest(); });
}

void multiply(float* c, int64_t c_row, const Left& a, const Right& b, int64_t depth, bool accumulate,
              const Finish* last) {
    static const bool tiles = has_tiles();
    if (tiles) return with_last(last, [&](auto rows) { multiply_tiles(c, c_row, a, b, depth, accumulate, rows); });
    with_last(last, [&](auto rows) { multiply_vectors(c, c_row, a, b, depth, accumulate, rows); });
}

}  // namespace plimsoll::cpu::avx512_bf16
