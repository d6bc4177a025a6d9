#include "kernels/differential.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/row_slots.h"
#include "kernels/cpu/workspace.h"

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

    // The pair's first or second map, in t.y or in its gradient.
    T* map(Tensor y, int64_t which) const { return head_row<T>(y, n_, 2 * p_ + which); }
    // The mean of z^2.
    R mean_square(const T* first, const T* second) const {
        const int64_t VS = t_.y.shape[2];
        return lane_sum<R>(VS, [&](int64_t c) { return z(first, second, c) * z(first, second, c); }) /
               static_cast<R>(VS);
    }
    R z(const T* first, const T* second, int64_t c) const {
        return static_cast<R>(first[c]) - lambda * static_cast<R>(second[c]);
    }

    // dz from the gradient of out = factor gain xhat, xhat = rstd z: rstd (g - xhat mean(g xhat)), g = xhat's gradient.
    // Adds the gain's.
    void norm_gradient(R* dz, R* dgain, const T* grad, R rstd) const {
        const int64_t VS = t_.y.shape[2];
        const R factor = static_cast<R>(spec_.factor);
        const R* const gain = t_.gain.ptr<R>();
        R* const xhat = workspace<Pair, R>(VS);
        const T *first = map(t_.y, 0), *second = map(t_.y, 1);
#pragma omp simd
        for (int64_t c = 0; c < VS; ++c) xhat[c] = rstd * z(first, second, c);
        const auto g = [&](int64_t c) { return static_cast<R>(grad[c]) * factor * gain[c]; };
        const R mean = lane_sum<R>(VS, [&](int64_t c) { return g(c) * xhat[c]; }) / static_cast<R>(VS);
#pragma omp simd
        for (int64_t c = 0; c < VS; ++c) {
            dgain[c] += static_cast<R>(grad[c]) * factor * xhat[c];
            dz[c] = rstd * (g(c) - xhat[c] * mean);
        }
    }

  private:
    const DifferentialTensors& t_;
    const DifferentialSpec& spec_;
    int64_t n_, p_;
};

}  // namespace

void differential_forward(const DifferentialTensors& t, const DifferentialSpec& spec, const Exec& exec) {
    const int64_t N = t.out.shape[0], P = t.out.shape[1], VS = t.out.shape[2];
    dispatch_float(t.y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        for_each_head(N, P, t.y.elements(), exec, [&](int64_t n, int64_t p) {
            const Pair<T> pair(t, spec, n, p);
            const T *first = pair.map(t.y, 0), *second = pair.map(t.y, 1);
            T* const to = head_row<T>(t.out, n, p);
            if (t.gain) {
                const R rstd = 1 / std::sqrt(pair.mean_square(first, second) + static_cast<R>(spec.eps));
                t.rstd.ptr<R>()[n * P + p] = rstd;
                const R scale = rstd * static_cast<R>(spec.factor);
                const R* gain = t.gain.ptr<R>();
#pragma omp simd
                for (int64_t c = 0; c < VS; ++c) store(to[c], pair.z(first, second, c) * scale * gain[c]);
            } else {
#pragma omp simd
                for (int64_t c = 0; c < VS; ++c) store(to[c], pair.z(first, second, c));
            }
        });
    });
}

void differential_backward(const DifferentialTensors& d, const DifferentialTensors& t, const DifferentialSpec& spec,
                           Write write, const Exec& exec) {
    const int64_t N = t.out.shape[0], P = t.out.shape[1], VS = t.out.shape[2];
    const bool one_lambda = t.lambda.shape.rank() == 1;
    dispatch_float(t.y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        // Sums of the gain's gradient, then of lambda's.
        const R* const sums = sum_rows<R>(N, P, VS + 1, t.y.elements(), exec, [&](int64_t n, int64_t p, R* own) {
            const Pair<T> pair(t, spec, n, p);
            const T* grad = head_row<T>(d.out, n, p);
            R* const dz = workspace<struct PairGradient, R>(VS);
            if (t.gain) {
                pair.norm_gradient(dz, own, grad, t.rstd.ptr<R>()[n * P + p]);
            } else {
#pragma omp simd
                for (int64_t c = 0; c < VS; ++c) dz[c] = static_cast<R>(grad[c]);
            }
            const T* second = pair.map(t.y, 1);
            T *dfirst = pair.map(d.y, 0), *dsecond = pair.map(d.y, 1);
            const R dlambda = -lane_sum<R>(VS, [&](int64_t c) { return dz[c] * static_cast<R>(second[c]); });
#pragma omp simd
            for (int64_t c = 0; c < VS; ++c) store(dfirst[c], dz[c]), store(dsecond[c], -pair.lambda * dz[c]);
            own[VS] += dlambda;
            if (!one_lambda) store(d.lambda.ptr<T>()[n * P + p], dlambda * pair.lambda * (R(1) - pair.lambda));
        });
        if (t.gain) write_sums(d.gain, sums, write);
        if (one_lambda) write_sums(d.lambda, sums + VS, Write::kOverwrite);
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
