// A thread makes a part of c at a time, whose sums stay in its second-level cache while K passes. The right operand is
// packed once, by all threads, unless only one part of c wants it; the left one is read where it lies, or packed 32
// rows at a time if its rows are not contiguous.
#include "kernels/cpu/avx512_bf16/gemm.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/avx512_bf16/thin_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

constexpr int kLeastHeight = 64, kLeastWidth = 128;  // of a part of c
constexpr int64_t kPass = 256;            // of K before the next columns: 32 rows and 32 columns of that are in L1
constexpr int64_t kWidth = 512;           // columns of c at a time, of rows of one thread
constexpr int64_t kShort = 2048;          // of K in a part where there are several
constexpr int64_t kShared = 4 << 20;      // elements of b packed at once for all threads
constexpr int64_t kMostSums = 256 << 10;  // elements of a part of c whose sums wait for the next pass
constexpr int64_t kResident = 512 << 10;  // elements of b that stay in the second-level cache beside parts of a and c
constexpr int64_t kStreamed = 512 << 10;  // elements of an fp32 c from which on it is written past the caches
constexpr int64_t kBlockElements = kBlock * kBlock;

class Product {
  public:
    Product(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, const GradientSums& sums,
            const Exec& exec, const Then& then)
        : c_(c),
          a_(a),
          b_(b),
          accumulate_(accumulate),
          bias_(bias),
          row_sums_(sums.of_rows),
          squares_(sums.squares),
          threads_(exec.threads),
          then_(then) {
        const int64_t M = c.rows, N = c.columns, K = a.columns;
        choose_parts();
        streams_ = c.dtype == DType::kF32 && M * N >= kStreamed;
        depth_ = K <= kLongest ? K : kShort;
        shares_ = parts(M, height_) > 1;
        columns_ = shares_ ? std::min(round_up(N, width_), std::max(width_, kShared / padded(depth_) / width_ * width_))
                           : round_up(N, width_);
        if (shares_) shared_ = workspace<struct Shared, bf16>(PackedRight::elements(columns_, depth_));
        if (c.dtype != DType::kF32 && depth_ < K) sums_ = workspace<struct Sums, float>(M * N);
    }

    // Rows of c of the calling thread, b packed before.
    Product(Matrix c, Matrix a, const float* bias, const Then& then)
        : c_(c),
          a_(a),
          b_{},
          accumulate_(false),
          bias_(bias),
          row_sums_(nullptr),
          squares_(nullptr),
          threads_(1),
          then_(then),
          streams_(false),
          height_(c.rows),
          width_(std::min(kWidth, padded(c.columns))),
          columns_(c.columns),
          depth_(a.columns),
          shares_(true) {}
    void run(const PackedRight& right) const {
        for (int64_t n = 0; n < c_.columns; n += width_)
            make({0, c_.rows}, {n, std::min(width_, c_.columns - n)}, right);
    }

    void run() const {
        const int64_t M = c_.rows, N = c_.columns, K = a_.columns;
#pragma omp parallel num_threads(threads_) if (worth_threads(M * N * K / 1024))
        {
            const TileScope scope;
            for (int64_t k = 0; k < parts(K, depth_); ++k)
                for (int64_t n = 0; n < parts(N, columns_); ++n) {
                    const Range columns = range(n, columns_, N);
                    const PackedRight right(b_, shared_, columns, range(k, depth_, K));
                    if (shares_) {
#pragma omp for schedule(static)
                        for (int64_t i = 0; i < right.units(); ++i) right.pack(i);
                    }
                    const int64_t down = parts(M, height_), across = parts(columns.count, width_);
                    const auto make_part = [&](int64_t row, int64_t column) {
                        const Range here = range(column, width_, columns.count);
                        make(range(row, height_, M), {columns.begin + here.begin, here.count}, right);
                    };
                    // A small b stays in cache: then threads keep to their rows, which other ops have left there. Else
                    // parts that share columns of b follow each other.
                    if (columns_ * depth_ <= kResident) {
#pragma omp for schedule(static)
                        for (int64_t i = 0; i < down * across; ++i) make_part(i / across, i % across);
                    } else {
#pragma omp for schedule(dynamic)
                        for (int64_t i = 0; i < down * across; ++i) make_part(i % down, i / down);
                    }
                }
        }
    }

  private:
    // The height and width of what a thread makes at a time that take least time, in measured cycles per element of K:
    // 512 products take 1.7 with the way from the second-level cache, a walk over a row of a 0.05 where it lies and
    // 0.33 if it is packed, a column of b 0.33 where the thread packs it, else 0.1, and 0.4 of all threads before. Sums
    // over several passes stay in half of that cache. Bits do not depend on them.
    void choose_parts() {
        const int64_t M = c_.rows, N = c_.columns;
        const double left = a_.column == 1 ? 0.05 : 0.33;
        double least = std::numeric_limits<double>::infinity();
        for (const int64_t height : {512, 384, 256, 128, kLeastHeight})
            for (const int64_t width : {768, 512, 384, 256, kLeastWidth}) {
                const int64_t h = std::min(height, padded(M)), w = std::min(width, padded(N));
                if (h * w > kMostSums && a_.columns > kPass) continue;
                const bool shares = M > h;
                const auto turns = static_cast<double>(parts(parts(M, h) * parts(N, w), threads_));
                const double part = 1.7 * static_cast<double>(h * w) / 512 + left * static_cast<double>(h) +
                                    (shares ? 0.1 : 0.33) * static_cast<double>(w);
                // Threads wait for the last: a tenth of a part, say.
                const double time = (turns + 0.1) * part + (shares ? 0.4 * static_cast<double>(N) / threads_ : 0);
                if (time < least) least = time, height_ = h, width_ = w;
            }
    }

    // A part of c over the part of K that `right` has. Sums lie in blocks of 32 x 32, so that no two rows of one share
    // a set of the first-level cache.
    void make(Range rows, Range columns, const PackedRight& right) const {
        const Range depth = right.depth();
        const int64_t across = parts(columns.count, kBlock);
        // Sums of one pass go straight to c: two blocks in turns, as the next is made while the last one is stored.
        const bool once = depth.count <= kPass;
        float* const of_rows = row_sums_ && columns.begin == 0 ? zeros(padded(rows.count)) : nullptr;
        float* const sums =
            workspace<struct BlockSums, float>((once ? 2 : parts(rows.count, kBlock) * across) * kBlockElements);
        Finish made = made_of(depth);  // the block before, that waits for the next product
        bool waits = false;
        for (int64_t k = 0; k < depth.count; k += kPass) {
            const Range pass{depth.begin + k, std::min(kPass, depth.count - k)};
            PackedRight here = right;
            if (!shares_) {
                here = PackedRight(b_, workspace<struct OwnRight, bf16>(width_ * kPass), columns, pass);
                for (int64_t i = 0; i < here.units(); ++i) here.pack(i);
            }
            if (a_.column != 1) pack_turned(rows, pass, of_rows);
            for (int64_t r = 0; r < rows.count; r += kBlock) {
                const Range lines{rows.begin + r, std::min(kBlock, rows.count - r)};
                const Left left = left_of(rows, r, pass);
                for (int64_t s = 0; s < columns.count; s += kBlock) {
                    const int64_t index = r / kBlock * across + s / kBlock, block = once ? index % 2 : index;
                    float* const sum = sums + block * kBlockElements;
                    multiply(sum, kBlock, left, here.at(columns.begin + s, pass.begin), parts(pass.count, kTileDepth),
                             k > 0, waits ? &made : nullptr);
                    waits = k + kPass >= depth.count;
                    if (waits) aim(made, sum, depth, lines, {columns.begin + s, std::min(kBlock, columns.count - s)});
                }
            }
        }
        if (waits) finish(made);
        for (int64_t r = 0; of_rows && r < rows.count; ++r) {
            float& to = row_sums_[rows.begin + r];
            to = (accumulate_ || !is_first(depth) ? to : 0.0f) + of_rows[r];
        }
    }

    // Where the tiles of a turned a are: those of 32 rows follow each other along K, as two rows of tiles.
    bf16* packed_left() const {
        return workspace<struct PackedLeft, bf16>(height_ * kPass);
    }

    static float* zeros(int64_t count) {
        float* const sums = workspace<struct RowSums, float>(count);
        std::fill_n(sums, count, 0.0f);
        return sums;
    }

    // All rows of a part of c, in the order of memory. Their sums are added to `sums`, if it is not null.
    void pack_turned(Range rows, Range pass, float* sums) const {
        const int64_t apart = parts(pass.count, kTileDepth) * kTileElements;
        for (int64_t k = 0; k < pass.count; k += kTileDepth)
            for (int64_t r = 0; r < rows.count; r += kBlock)
                pack_left_turned(packed_left() + r / kBlock * 2 * apart + k / kTileDepth * kTileElements, apart,
                                 element(a_, rows.begin + r, pass.begin + k), a_.column,
                                 std::min(kTileDepth, pass.count - k), std::min(kBlock, rows.count - r),
                                 sums ? sums + r : nullptr);
    }

    // 32 rows of a, from row r of a part on: where they lie, or packed, if K is not contiguous or a tile would read
    // past them.
    Left left_of(Range rows, int64_t r, Range pass) const {
        const int64_t apart = parts(pass.count, kTileDepth) * kTileElements, count = std::min(kBlock, rows.count - r);
        if (a_.column != 1) return {packed_left() + r / kBlock * 2 * apart, kTileDepth, apart, kTileElements};
        const bf16* const from = element(a_, rows.begin + r, pass.begin);
        if (count == kBlock && pass.count % kTileDepth == 0) return {from, a_.row, kTileRows * a_.row, kTileDepth};
        for (int64_t k = 0; k < pass.count; k += kTileDepth)
            pack_left(packed_left() + k / kTileDepth * kTileElements, apart, from + k, a_.row, count,
                      std::min(kTileDepth, pass.count - k));
        return {packed_left(), kTileDepth, apart, kTileElements};
    }

    static bool is_first(Range depth) {
        return depth.begin == 0;
    }
    bool is_last(Range depth) const {
        return depth.begin + depth.count == a_.columns;
    }

    // What becomes of all blocks of sums over a part of K: they are added to what those before have left, the last ones
    // go to c.
    Finish made_of(Range depth) const {
        const bool last = is_last(depth);
        Finish made;
        if (sums_ && !last) {
            made.to_row = c_.columns;
            made.how = is_first(depth) ? BlockStore::kWrite : BlockStore::kAdd;
            return made;
        }
        made.to_row = c_.row;
        made.how = accumulate_ || (!sums_ && !is_first(depth)) ? BlockStore::kAdd
                   : streams_                                  ? BlockStore::kStream
                                                               : BlockStore::kWrite;
        if (last) made.following = then_.following, made.other_row = then_.other.row;
        return made;
    }

    // One block of them.
    void aim(Finish& made, float* sums, Range depth, Range rows, Range columns) const {
        const bool last = is_last(depth);
        made.rows = rows.count, made.columns = columns.count;
        made.sums = sums, made.sums_row = kBlock;
        if (sums_) {
            float* const kept = sums_ + rows.begin * c_.columns + columns.begin;
            made.wide = last ? nullptr : kept;
            if (!last) return;
            Finish added;
            added.rows = made.rows, added.columns = made.columns, added.sums = sums;
            added.wide = kept, added.to_row = c_.columns, added.how = BlockStore::kAdd;
            finish(added);
            made.sums = kept, made.sums_row = c_.columns;
        }
        made.bias = bias_ && (sums_ || is_first(depth)) ? bias_ + columns.begin : nullptr;
        if (squares_ && last)
            made.squares = squares_ + rows.begin / kBlock * parts(c_.columns, kBlock) + columns.begin / kBlock;
        const int64_t at = rows.begin * c_.row + columns.begin;
        if (c_.dtype == DType::kF32)
            made.wide = static_cast<float*>(c_.data) + at;
        else
            made.narrow = static_cast<bf16*>(c_.data) + at;
        if (made.following != Following::kNothing)
            made.other = static_cast<bf16*>(then_.other.data) + rows.begin * then_.other.row + columns.begin;
    }

    Matrix c_, a_, b_;
    bool accumulate_;
    const float* bias_;
    float* row_sums_;
    double* squares_;
    int threads_;
    Then then_;
    bool streams_;  // whether c, if it is written once, goes past the caches: gradients of large weights
    int64_t height_ = kBlock, width_ = kBlock;  // of what a thread makes at a time
    int64_t columns_, depth_;                   // of a part of b
    bool shares_;  // whether all threads pack b together; else each packs what it needs, which no other does
    bf16* shared_ = nullptr;
    float* sums_ = nullptr;  // (M, N), where c cannot keep sums of parts of K
};

// Calls f(its first row of c, rows) for parts of c, C what c is.
template <class F>
void for_rows(const Matrix& c, int threads, F&& f) {
    constexpr int64_t kRows = 64;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(c.rows * c.columns * kThin))
    for (int64_t part = 0; part < parts(c.rows, kRows); ++part) {
        const Range rows = range(part, kRows, c.rows);
        if (c.dtype == DType::kF32)
            f(static_cast<float*>(c.data) + rows.begin * c.row, rows);
        else
            f(static_cast<bf16*>(c.data) + rows.begin * c.row, rows);
    }
}

// c = a b, or +=, for few elements of K.
void multiply_thin_depth(Matrix c, Matrix a, Matrix b, bool accumulate, int threads) {
    const int64_t N = c.columns, K = a.columns;
    float* const wide = workspace<struct ThinRight, float>(K * padded(N));
    for (int64_t k = 0; k < K; ++k) widen_pairs(wide + k * padded(N), element(b, k, 0), N);
    for_rows(c, threads, [&](auto* to, Range rows) {
        thin_depth(to, c.row, element(a, rows.begin, 0), a.row, wide, rows.count, N, K, accumulate);
    });
}

// c = a b + bias, or +=, for few columns of c; bias may be null.
void multiply_thin_columns(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, int threads) {
    for_rows(c, threads, [&](auto* to, Range rows) {
        thin_columns(to, c.row, element(a, rows.begin, 0), a.row, element(b, 0, 0), b.column, bias, rows.count,
                     c.columns, a.columns, accumulate);
    });
}

// c = a b, or +=, for few rows of c, K contiguous nowhere; row_sums as in GradientSums. A thread makes some columns, of
// all rows: it walks over K a few rows of b at a time, while they are in cache.
void multiply_thin_rows(Matrix c, float* row_sums, Matrix a, Matrix b, bool accumulate, int threads) {
    constexpr int64_t kTogether = 32;
    const int64_t M = c.rows, N = c.columns, K = a.columns, blocks = parts(N, kThinPart);
    const bool shared = worth_threads(N * K);
    const int64_t shares = shared ? threads : 1;
#pragma omp parallel for num_threads(threads) schedule(static) if (shared)
    for (int64_t share = 0; share < shares; ++share) {
        const int64_t begin = blocks * share / shares * kThinPart;
        const int64_t end = std::min(N, blocks * (share + 1) / shares * kThinPart), apart = padded(end - begin);
        const bool sums_rows = row_sums && share == 0;
        if (begin >= end && !sums_rows) continue;
        float* const sums = workspace<struct ThinSums, float>(kThin * apart);
        std::fill_n(sums, kThin * apart, 0.0f);
        float of_rows[kThin] = {}, left[kTogether * kThin] = {};
        for (int64_t k = 0; k < K; k += kTogether) {
            const int64_t count = std::min(kTogether, K - k);
            for (int64_t i = 0; i < count; ++i)
                for (int64_t m = 0; m < M; ++m) left[i * kThin + m] = *element(a, m, k + i);
            thin_rows(sums, left, element(b, k, begin), b.row, M, end - begin, count);
            for (int64_t i = 0; sums_rows && i < count; ++i)
                for (int64_t m = 0; m < M; ++m) of_rows[m] += left[i * kThin + m];
        }
        for (int64_t m = 0; m < M; ++m)
            write_pairs(static_cast<float*>(c.data) + m * c.row + begin, sums + m * apart, end - begin, accumulate);
        for (int64_t m = 0; sums_rows && m < M; ++m) row_sums[m] = (accumulate ? row_sums[m] : 0.0f) + of_rows[m];
    }
}

// As Product(..).run() for so few elements of c that one thread would make them all, over parts of K: each is made by
// itself, and they are added in their order.
void multiply_in_parts(Matrix c, float* row_sums, Matrix a, Matrix b, bool accumulate, int threads) {
    const int64_t M = c.rows, N = c.columns, K = a.columns, each = M * (N + 1);
    float* const made = workspace<struct PartsOfDepth, float>(parts(K, kShort) * each);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts(K, kShort); ++part) {
        const Range depth = range(part, kShort, K);
        float* const own = made + part * each;
        const auto of = [&](const Matrix& m, int64_t first, int64_t rows, int64_t columns) {
            return Matrix{static_cast<bf16*>(m.data) + first, m.dtype, rows, columns, m.row, m.column};
        };
        Product({own, DType::kF32, M, N, N, 1}, of(a, depth.begin * a.column, M, depth.count),
                of(b, depth.begin * b.row, depth.count, N), false, nullptr,
                {.of_rows = row_sums ? own + M * N : nullptr}, {}, {})
            .run();
    }
    const auto add = [&](float* to, int64_t from, int64_t count) {
        for (int64_t part = 0; part < parts(K, kShort); ++part) {
            const float* own = made + part * each + from;
            const bool first = part == 0 && !accumulate;
#pragma omp simd
            for (int64_t i = 0; i < count; ++i) to[i] = first ? own[i] : to[i] + own[i];
        }
    };
    for (int64_t m = 0; m < M; ++m) add(static_cast<float*>(c.data) + m * c.row, m * N, N);
    if (row_sums) add(row_sums, M * N, M);
}

}  // namespace

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, const Exec& exec, const Then& then) {
    if (a.columns <= kThin && a.column == 1 && b.column == 1 && !bias && then.following == Following::kNothing)
        return multiply_thin_depth(c, a, b, accumulate, exec.threads);
    if (c.columns <= kThinColumns && a.column == 1 && b.row == 1 && then.following == Following::kNothing)
        return multiply_thin_columns(c, a, b, accumulate, bias, exec.threads);
    Product(c, a, b, accumulate, bias, {}, exec, then).run();
}

void gemm_rows(Matrix c, Matrix a, const PackedRight& b, const float* bias, const Then& then) {
    Product(c, a, bias, then).run(b);
}

void weight_gradient(Matrix c, const GradientSums& sums, Matrix a, Matrix b, bool accumulate, const Exec& exec) {
    if (c.rows <= kThin && b.column == 1 && c.dtype == DType::kF32 && !sums.squares)
        return multiply_thin_rows(c, sums.of_rows, a, b, accumulate, exec.threads);
    if (c.rows <= kLeastHeight && c.columns <= kLeastWidth && a.columns > kLongest && exec.threads > 1 &&
        c.dtype == DType::kF32 && !sums.squares)
        return multiply_in_parts(c, sums.of_rows, a, b, accumulate, exec.threads);
    Product(c, a, b, accumulate, nullptr, sums, exec, {}).run();
}

}  // namespace plimsoll::cpu::avx512_bf16
