// A virtual key beside those of core attention, and biases of heads: a warp per head of a token.
#include "kernels/extra_key.h"

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/row_sums.cuh"

namespace plimsoll::cuda {
namespace {

// What a head's rows share: (NH, HS), or one for all.
struct PerHead {
    const float* data;
    bool shared;
    PLIMSOLL_DEVICE const float* of(int64_t head, int HS) const { return data + (shared ? 0 : head * HS); }
};
PerHead per_head(const Tensor& t) {
    return {optional<float>(t), t && t.shape[0] == 1};
}

// (N, NH), one per token and head, and (NH, N).
template <class T>
struct Rows {
    const T* gate;
    float* lse;
    float* score;
    int64_t N;
    int NH;

    PLIMSOLL_DEVICE float gate_at(int64_t index) const {
        return gate ? sigmoid(static_cast<float>(gate[index])) : 1.0f;
    }
    PLIMSOLL_DEVICE float& lse_at(int64_t index) const { return lse[index % NH * N + index / NH]; }
    PLIMSOLL_DEVICE float weight(int64_t index) const { return DeviceMath::exp(score[index] - lse_at(index)); }
};
template <class T>
Rows<T> rows_of_call(const AttentionTensors& t, const Tensor& score) {
    return {optional<T>(t.gate), t.lse.ptr<float>(), score.ptr<float>(), t.q.shape[0], static_cast<int>(t.q.shape[1])};
}

template <class T, class U>
PLIMSOLL_DEVICE float warp_dot(const T* a, const U* b, int HS) {
    float sum = 0;
    for (int c = threadIdx.x % kWarp; c < HS; c += kWarp) sum += static_cast<float>(a[c]) * static_cast<float>(b[c]);
    return warp_sum(sum);
}

template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    extra_key_forward_kernel(Heads<T> out, Rows<T> rows, Heads<const T> q, PerHead key, PerHead value, float scale,
                             int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const int HS = q.HS;
    const float e = scale * warp_dot(q.head(index), key.of(index % q.H, HS), HS);
    const float lse = rows.lse_at(index);
    const float top = fmaxf(lse, e), sum = top + log1pf(DeviceMath::exp(fminf(lse, e) - top));
    const float kept = DeviceMath::exp(lse - sum), weight = DeviceMath::exp(e - sum) * rows.gate_at(index);
    __syncwarp();  // every lane has read lse before one replaces it
    if (threadIdx.x % kWarp == 0) rows.score[index] = e, rows.lse_at(index) = sum;
    T* to = out.head(index);
    const float* v = value.data ? value.of(index % q.H, HS) : nullptr;
    for (int c = threadIdx.x % kWarp; c < HS; c += kWarp)
        to[c] = static_cast<T>(static_cast<float>(to[c]) * kept + (v ? weight * v[c] : 0.0f));
}

template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    extra_key_dscore_kernel(float* dscore, Heads<const T> dout, Heads<const T> out, Rows<T> rows, PerHead value,
                            int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    float ds = -warp_dot(dout.head(index), out.head(index), dout.HS);
    if (value.data) ds += rows.gate_at(index) * warp_dot(dout.head(index), value.of(index % dout.H, dout.HS), dout.HS);
    if (threadIdx.x % kWarp == 0) dscore[index] = rows.weight(index) * ds;
}

template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    extra_key_query_kernel(Heads<T> dq, const float* dscore, PerHead key, float scale, int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    T* to = dq.head(index);
    const float* k = key.of(index % dq.H, dq.HS);
    const float scaled = scale * dscore[index];
    for (int c = threadIdx.x % kWarp; c < dq.HS; c += kWarp)
        to[c] = static_cast<T>(static_cast<float>(to[c]) + scaled * k[c]);
}

template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    head_bias_kernel(Heads<T> out, Heads<const T> x, PerHead bias, int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const T* from = x.head(index);
    T* to = out.head(index);
    const float* add = bias.of(index % x.H, x.HS);
    for (int c = threadIdx.x % kWarp; c < x.HS; c += kWarp)
        to[c] = static_cast<T>(static_cast<float>(from[c]) + add[c]);
}

// Element c of row `row` of a sum over rows: a row is a token with all its heads, or where heads share a head of a
// token.
struct Place {
    int64_t token;
    int at;  // in the token's NH * HS elements
};
PLIMSOLL_DEVICE Place place_of(int64_t row, int64_t c, bool shared, int NH, int HS) {
    if (!shared) return {row, static_cast<int>(c)};
    const int64_t token = row / NH;
    return {token, static_cast<int>(row - token * NH) * HS + static_cast<int>(c)};
}

template <class T>
struct KeyTerm {
    Heads<const T> q;
    const float* dscore;
    float scale;
    bool shared;
    PLIMSOLL_DEVICE float operator()(int64_t row, int64_t c) const {
        const Place p = place_of(row, c, shared, q.H, q.HS);
        return scale * dscore[p.token * q.H + p.at / q.HS] * static_cast<float>(q.data[p.token * q.row_stride + p.at]);
    }
};
// Sizes as int: with 64 bits each the loop around it runs out of registers.
template <class T>
struct ValueTerm {
    const T *dout, *gate;
    const float *lse, *score;
    int row_stride, N, NH, HS;
    bool shared;
    PLIMSOLL_DEVICE float operator()(int64_t row, int64_t c) const {
        const int first = static_cast<int>(row), token = shared ? first / NH : first;
        const int at = static_cast<int>(c) + (shared ? (first - token * NH) * HS : 0), head = at / HS;
        const int64_t index = static_cast<int64_t>(token) * NH + head;
        float term = DeviceMath::exp(score[index] - lse[static_cast<int64_t>(head) * N + token]) *
                     static_cast<float>(dout[static_cast<int64_t>(token) * row_stride + at]);
        if (gate) term *= sigmoid(static_cast<float>(gate[index]));
        return term;
    }
};
template <class T>
struct BiasTerm {
    Heads<const T> dout;
    bool shared;
    PLIMSOLL_DEVICE float operator()(int64_t row, int64_t c) const {
        const Place p = place_of(row, c, shared, dout.H, dout.HS);
        return static_cast<float>(dout.data[p.token * dout.row_stride + p.at]);
    }
};

// to (NH, HS) or (1, HS) = (or +=) the sum of the term over N tokens of NH heads.
template <class Term>
void sums_of_heads(Tensor to, const Term& term, int64_t heads, Write write, const Exec& exec) {
    row_sums(to.ptr<float>(), term, heads / to.shape[0], to.elements(), write, exec);
}

}  // namespace

void extra_key_forward(const AttentionTensors& t, const ExtraKey& key, double scale, const Exec& exec) {
    const int64_t heads = t.q.shape[0] * t.q.shape[1];
    if (heads == 0) return;
    dispatch_device_float(t.q.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(extra_key_forward_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                        heads_of<T>(t.out), rows_of_call<T>(t, key.score), heads_of<const T>(t.q), per_head(key.k),
                        per_head(key.v), static_cast<float>(scale), heads);
        launch_check("extra_key_forward");
    });
}

void extra_key_backward(const ExtraKey& d, Tensor dout, const AttentionTensors& t, const ExtraKey& key, double scale,
                        Write write, const Exec& exec) {
    const int64_t heads = t.q.shape[0] * t.q.shape[1];
    const bool shared = key.k.shape[0] == 1;
    dispatch_device_float(t.q.dtype, [&]<class T>() {
        const Rows<T> rows = rows_of_call<T>(t, key.score);
        if (heads)
            PLIMSOLL_LAUNCH(extra_key_dscore_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0,
                            exec.cuda->stream(), d.score.ptr<float>(), heads_of<const T>(dout),
                            heads_of<const T>(t.out), rows, per_head(key.v), heads);
        launch_check("extra_key_backward");
        sums_of_heads(d.k, KeyTerm<T>{heads_of<const T>(t.q), d.score.ptr<float>(), static_cast<float>(scale), shared},
                      heads, write, exec);
        if (!key.v) return;
        const ValueTerm<T> term{.dout = dout.ptr<T>(),
                                .gate = rows.gate,
                                .lse = rows.lse,
                                .score = rows.score,
                                .row_stride = static_cast<int>(dout.row_stride),
                                .N = static_cast<int>(rows.N),
                                .NH = rows.NH,
                                .HS = static_cast<int>(dout.shape[2]),
                                .shared = shared};
        sums_of_heads(d.v, term, heads, write, exec);
    });
}

void extra_key_backward_query(Tensor dq, Tensor dscore, Tensor k, double scale, const Exec& exec) {
    const int64_t heads = dq.shape[0] * dq.shape[1];
    if (heads == 0) return;
    dispatch_device_float(dq.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(extra_key_query_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                        heads_of<T>(dq), dscore.ptr<float>(), per_head(k), static_cast<float>(scale), heads);
        launch_check("extra_key_backward_query");
    });
}

void head_bias_forward(Tensor out, Tensor x, Tensor bias, const Exec& exec) {
    const int64_t heads = x.shape[0] * x.shape[1];
    if (heads == 0) return;
    dispatch_device_float(x.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(head_bias_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                        heads_of<T>(out), heads_of<const T>(x), per_head(bias), heads);
        launch_check("head_bias_forward");
    });
}

void head_bias_backward(Tensor dbias, Tensor dout, Write write, const Exec& exec) {
    dispatch_device_float(dout.dtype, [&]<class T>() {
        sums_of_heads(dbias, BiasTerm<T>{heads_of<const T>(dout), dbias.shape[0] == 1}, dout.shape[0] * dout.shape[1],
                      write, exec);
    });
}

}  // namespace plimsoll::cuda
