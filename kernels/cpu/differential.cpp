#include "kernels/differential.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/row_slots.h"

namespace plimsoll::cpu {
namespace {

// One pair of maps of one row: z_c = y_2p,c - lambda y_2p+1,c.
template <class T>
class Pair {
    using R = Accumulator<T>;

  public:
    Pair(const DifferentialTensors& t, const DifferentialSpec& spec, int64_t n, int64_t p)
        : t_(t), spec_(spec), n_(n), p_(p) {
        lambda = t.lambda.shape.rank() == 1 ? t.lambda.ptr<R>()[0]
                                            : sigmoid_fast(static_cast<R>(t.lambda.ptr<T>()[n * t.out.shape[1] + p]));
    }
    R lambda;

    // Half a of the pair's first or second map, in t.y or in its gradient.
    T* half(Tensor y, int64_t which, int64_t a) const {
        const int64_t map = 2 * p_ + which;
        return head_row<T>(y, n_, (map / spec_.group * spec_.halves + a) * spec_.group + map % spec_.group);
    }
    // The mean of z^2.
    R mean_square() const {
        const int64_t HS = t_.y.shape[2];
        R sum = 0;
        for (int64_t a = 0; a < spec_.halves; ++a) {
            const T *first = half(t_.y, 0, a), *second = half(t_.y, 1, a);
            sum += lane_sum<R>(HS, [&](int64_t c) { return z(first, second, c) * z(first, second, c); });
        }
        return sum / static_cast<R>(spec_.halves * HS);
    }
    R z(const T* first, const T* second, int64_t c) const {
        return static_cast<R>(first[c]) - lambda * static_cast<R>(second[c]);
    }

  private:
    const DifferentialTensors& t_;
    const DifferentialSpec& spec_;
    int64_t n_, p_;
};

}  // namespace

void differential_forward(const DifferentialTensors& t, const DifferentialSpec& spec, const Exec& exec) {
    const int64_t N = t.out.shape[0], P = t.out.shape[1], HS = t.y.shape[2];
    dispatch_float(t.y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        for_each_head(N, P, t.y.elements(), exec, [&](int64_t n, int64_t p) {
            const Pair<T> pair(t, spec, n, p);
            R scale = 1;
            if (t.gain) {
                const R rstd = 1 / std::sqrt(pair.mean_square() + static_cast<R>(spec.eps));
                t.rstd.ptr<R>()[n * P + p] = rstd;
                scale = rstd * static_cast<R>(spec.factor);
            }
            for (int64_t a = 0; a < spec.halves; ++a) {
                const T *first = pair.half(t.y, 0, a), *second = pair.half(t.y, 1, a);
                T* to = head_row<T>(t.out, n, p) + a * HS;
                const R* gain = t.gain ? t.gain.ptr<R>() + a * HS : nullptr;
                for (int64_t c = 0; c < HS; ++c)
                    store(to[c], pair.z(first, second, c) * scale * (gain ? gain[c] : R(1)));
            }
        });
    });
}

void differential_backward(const DifferentialTensors& d, const DifferentialTensors& t, const DifferentialSpec& spec,
                           Write write, const Exec& exec) {
    const int64_t N = t.out.shape[0], P = t.out.shape[1], HS = t.y.shape[2], W = spec.halves * HS;
    const bool one_lambda = t.lambda.shape.rank() == 1;
    dispatch_float(t.y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        // Sums of the gain's gradient, then of lambda's.
        const R* const sums = sum_rows<R>(N, P, W + 1, t.y.elements(), exec, [&](int64_t n, int64_t p, R* own) {
            const Pair<T> pair(t, spec, n, p);
            const T* grad = head_row<T>(d.out, n, p);
            const R rstd = t.gain ? t.rstd.ptr<R>()[n * P + p] : R(1);
            // g = the gradient of xhat = rstd z; dz = rstd (g - xhat mean(g xhat)).
            const auto g = [&](int64_t at) {
                const R dout = static_cast<R>(grad[at]);
                return t.gain ? dout * static_cast<R>(spec.factor) * t.gain.ptr<R>()[at] : dout;
            };
            R mean = 0;
            for (int64_t a = 0; t.gain && a < spec.halves; ++a) {
                const T *first = pair.half(t.y, 0, a), *second = pair.half(t.y, 1, a);
                mean += lane_sum<R>(HS, [&](int64_t c) { return g(a * HS + c) * rstd * pair.z(first, second, c); });
            }
            mean /= static_cast<R>(W);
            R dlambda = 0;
            for (int64_t a = 0; a < spec.halves; ++a) {
                const T *first = pair.half(t.y, 0, a), *second = pair.half(t.y, 1, a);
                T *dfirst = pair.half(d.y, 0, a), *dsecond = pair.half(d.y, 1, a);
                for (int64_t c = 0; c < HS; ++c) {
                    const int64_t at = a * HS + c;
                    const R xhat = rstd * pair.z(first, second, c), dz = rstd * (g(at) - xhat * mean);
                    if (t.gain) own[at] += static_cast<R>(grad[at]) * static_cast<R>(spec.factor) * xhat;
                    dlambda -= dz * static_cast<R>(second[c]);
                    store(dfirst[c], dz);
                    store(dsecond[c], -pair.lambda * dz);
                }
            }
            own[W] += dlambda;
            if (!one_lambda) store(d.lambda.ptr<T>()[n * P + p], dlambda * pair.lambda * (R(1) - pair.lambda));
        });
        if (t.gain) write_sums(d.gain, sums, write);
        if (one_lambda) write_sums(d.lambda, sums + W, Write::kOverwrite);
    });
}

void differential_lambda_forward(Tensor lambda, Tensor vectors, double start, const Exec& /*exec*/) {
    const int64_t HS = vectors.shape[1];
    dispatch_float(vectors.dtype, [&]<class R>() {
        if constexpr (std::is_same_v<R, Accumulator<R>>) {
            const R* v = vectors.ptr<R>();
            const auto power = [&](int64_t row) {
                return std::exp(lane_sum<R>(HS, [&](int64_t c) { return v[row * HS + c] * v[(row + 1) * HS + c]; }));
            };
            lambda.ptr<R>()[0] = power(0) - power(2) + static_cast<R>(start);
        }
    });
}

void differential_lambda_backward(Tensor dvectors, Tensor dlambda, Tensor vectors, Write write, const Exec& /*exec*/) {
    const int64_t HS = vectors.shape[1];
    dispatch_float(vectors.dtype, [&]<class R>() {
        if constexpr (std::is_same_v<R, Accumulator<R>>) {
            const R* v = vectors.ptr<R>();
            R* to = dvectors.ptr<R>();
            for (const int64_t row : {0, 2}) {
                const R* pair = v + row * HS;
                const R d = std::exp(lane_sum<R>(HS, [&](int64_t c) { return pair[c] * pair[HS + c]; })) *
                            dlambda.ptr<R>()[0] * (row ? R(-1) : R(1));
                for (int64_t c = 0; c < 2 * HS; ++c) {
                    R& out = to[row * HS + c];
                    out = (write == Write::kAccumulate ? out : R(0)) + d * pair[(c + HS) % (2 * HS)];
                }
            }
        }
    });
}

void repeat_heads_forward(Tensor out, Tensor x, int64_t block, const Exec& exec) {
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2];
    dispatch_float(x.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(out.elements()))
        for (int64_t n = 0; n < N; ++n)
            for (int64_t b = 0; b < H / block; ++b)
                for (int64_t a = 0; a < 2; ++a)
                    std::copy_n(head_row<T>(x, n, b * block), block * HS, head_row<T>(out, n, (2 * b + a) * block));
    });
}

void repeat_heads_backward(Tensor dx, Tensor dout, int64_t block, const Exec& exec) {
    const int64_t N = dx.shape[0], H = dx.shape[1], HS = dx.shape[2];
    dispatch_float(dx.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(dout.elements()))
        for (int64_t n = 0; n < N; ++n)
            for (int64_t b = 0; b < H / block; ++b) {
                const T *first = head_row<T>(dout, n, 2 * b * block), *second = first + block * HS;
                T* to = head_row<T>(dx, n, b * block);
#pragma omp simd
                for (int64_t c = 0; c < block * HS; ++c)
                    store(to[c], static_cast<R>(first[c]) + static_cast<R>(second[c]));
            }
    });
}

}  // namespace plimsoll::cpu
