#include "kernels/cuda/attention_wide.h"

#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kAlignment = 256;
constexpr int kTensors = 8;  // at most, in the workspace

struct Rows {
    int64_t first, count;
};

// Outputs of heads (rows, NKV, group, 2, HS), rows a stride apart, and their halves (rows, NKV, 2, group, HS): one from
// the other.
struct Halves {
    bf16 *whole, *halves;
    int64_t whole_stride;
    int32_t width, group, HS;  // width: of a row
};
template <bool kSplit>
__global__ void __launch_bounds__(kThreads) halves_kernel(Halves t, int64_t first, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const int64_t row = first + i / t.width;
    const int c = static_cast<int>(i % t.width), map = c / (2 * t.HS);
    const int head = (map / t.group * 2 + c / t.HS % 2) * t.group + map % t.group;
    bf16 &whole = t.whole[row * t.whole_stride + c], &half = t.halves[row * t.width + head * t.HS + c % t.HS];
    if constexpr (kSplit)
        half = whole;
    else
        whole = half;
}

// Statistics of heads (NKV, group, N), and of their halves (NKV, 2, group, N): both get a head's, or the second gets 0;
// and back, from the first.
struct Statistics {
    float *whole, *halves;
    int64_t N;
    int32_t group;

    PLIMSOLL_DEVICE float& half(int64_t head, int which, int64_t n) const {
        return halves[((head / group * 2 + which) * group + head % group) * N + n];
    }
};
__global__ void __launch_bounds__(kThreads) split_statistics_kernel(Statistics t, int64_t count, bool both) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const float x = t.whole[i];
    t.half(i / t.N, 0, i % t.N) = x;
    t.half(i / t.N, 1, i % t.N) = both ? x : 0.0f;
}
__global__ void __launch_bounds__(kThreads)
    first_statistics_kernel(Statistics t, int64_t first, int64_t rows, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const int64_t head = i / rows, n = first + i % rows;
    t.whole[head * t.N + n] = t.half(head, 0, n);
}

void check_wide(const AttentionTensors& t, const AttentionSpec& spec) {
    check(t.v.shape[2] == 2 * t.q.shape[2], "attention on CUDA: values of {} channels, wanted {} or {}", t.v.shape[2],
          t.q.shape[2], 2 * t.q.shape[2]);
    check(!t.gate && !t.sink_logit && !t.score_bias && !t.key_bias && !spec.alibi,
          "attention on CUDA: values wider than keys go without gate, learned column, learned bias, biases of keys and "
          "ALiBi");
}

int64_t round_up(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

// The same memory, with heads of HS channels.
Tensor in_heads_of(Tensor t, int64_t HS) {
    t.shape = {t.shape[0], t.shape[1] * t.shape[2] / HS, HS};
    return t;
}

// The beginning of the workspace, left to the op that gets narrow heads: for documents, for tasks.
int64_t bytes_before(int64_t N, int64_t NH) {
    return round_up(attention_bytes(N, 2 * NH), kAlignment);
}
int64_t bytes_before(const AttentionTasks& tasks) {
    return round_up(table_words(tasks) * size_of(DType::kI32), kAlignment);
}
// Behind it.
int64_t bytes_of_narrow(int64_t N, int64_t M, int64_t NH, int64_t NKV, int64_t HS) {
    // Queries, outputs and the gradients of both in bf16, keys in bf16 and their gradients in fp32; lse and delta.
    const int64_t queries = 4 * size_of(DType::kBF16), keys = size_of(DType::kBF16) + size_of(DType::kF32);
    return 2 * HS * (N * NH * queries + M * NKV * keys) + 2 * 2 * NH * N * size_of(DType::kF32) + kTensors * kAlignment;
}

// Heads of one width for those of `t`, in the workspace behind the bytes `before`.
class NarrowHeads {
  public:
    NarrowHeads(const AttentionTensors& t, const AttentionSpec& spec, int64_t before, const Exec& exec)
        : t_(t), exec_(exec), HS_(t.q.shape[2]), group_(t.q.shape[1] / t.k.shape[1]) {
        check_wide(t, spec);
        const int64_t bytes = before + bytes_of_narrow(t.q.shape[0], t.k.shape[0], t.q.shape[1], t.k.shape[1], HS_);
        exec.cuda->reserve(bytes);  // planned, but for tasks, whose rows nobody knows before
        at_ = exec.cuda->workspace<std::byte>(bytes) + before;
        narrow_.q = doubled(t.q.shape, DType::kBF16), narrow_.k = doubled(t.k.shape, DType::kBF16);
        cuda::repeat_heads_forward(narrow_.q, t.q, group_, exec);
        cuda::repeat_heads_forward(narrow_.k, t.k, 1, exec);
        narrow_.v = in_heads_of(t.v, HS_);
        if (is_normalized(spec.weighting)) narrow_.lse = statistics();
    }

    // What forward reads and writes; then out and lse of some rows from it.
    const AttentionTensors& for_forward() {
        narrow_.out = halves(t_.out);
        return narrow_;
    }
    void take_outputs(const Rows& rows) const {
        if (group_ > 1) move_halves<false>(t_.out, narrow_.out, rows);
        if (!narrow_.lse) return;
        const int64_t count = t_.lse.shape[0] * rows.count;
        PLIMSOLL_LAUNCH(first_statistics_kernel, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, stream(),
                        statistics_of(t_.lse, narrow_.lse), rows.first, rows.count, count);
        launch_check("attention of wide values");
    }

    // What backward reads, with outputs if it makes delta of them.
    const AttentionTensors& for_backward() {
        if (t_.out) narrow_.out = split(t_.out);
        if (narrow_.lse) split_statistics(narrow_.lse, t_.lse, true);
        return narrow_;
    }
    // A row's delta is the sum of its halves'.
    Tensor delta(Tensor of_heads) {
        if (!of_heads) return {};
        const Tensor to = statistics();
        split_statistics(to, of_heads, false);
        return to;
    }
    // What backward writes; then dq of some rows, and dk of others.
    const AttentionTensors& gradients(const AttentionTensors& d) {
        d_ = d;
        gradients_.q = doubled(d.q.shape, d.q.dtype), gradients_.k = doubled(d.k.shape, d.k.dtype);
        gradients_.v = in_heads_of(d.v, HS_);
        gradients_.out = split(d.out);
        return gradients_;
    }
    void take_query_gradients(const Rows& rows) const {
        cuda::repeat_heads_backward(rows_of(d_.q, rows), rows_of(gradients_.q, rows), group_, exec_);
    }
    void take_key_gradients(const Rows& rows) const {
        cuda::repeat_heads_backward(rows_of(d_.k, rows), rows_of(gradients_.k, rows), 1, exec_);
    }

  private:
    static Tensor rows_of(const Tensor& t, const Rows& rows) { return t.slice_rows(rows.first, rows.count); }
    cudaStream_t stream() const { return exec_.cuda->stream(); }

    Tensor take(Shape shape, DType dtype) {
        const Tensor t(at_, dtype, shape, Device::kCuda);
        at_ += round_up(t.bytes(), kAlignment);
        return t;
    }
    Tensor doubled(Shape shape, DType dtype) { return take({shape[0], 2 * shape[1], shape[2]}, dtype); }
    Tensor statistics() { return take({2 * t_.q.shape[1], t_.q.shape[0]}, DType::kF32); }

    // Where the halves of `whole` are, or are to be: there, if a key head has one query head.
    Tensor halves(const Tensor& whole) {
        const Tensor there = in_heads_of(whole, HS_);
        return group_ == 1 ? there : take(there.shape, DType::kBF16);
    }
    Tensor split(const Tensor& whole) {
        const Tensor to = halves(whole);
        if (group_ > 1) move_halves<true>(whole, to, {0, whole.shape[0]});
        return to;
    }
    template <bool kSplit>
    void move_halves(const Tensor& whole, const Tensor& halves, const Rows& rows) const {
        const int64_t width = whole.row_elements(), count = rows.count * width;
        if (count == 0) return;
        const Halves t{whole.ptr<bf16>(),           halves.ptr<bf16>(),           whole.row_stride,
                       static_cast<int32_t>(width), static_cast<int32_t>(group_), static_cast<int32_t>(HS_)};
        PLIMSOLL_LAUNCH(halves_kernel<kSplit>, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, stream(), t,
                        rows.first, count);
        launch_check("attention of wide values");
    }
    Statistics statistics_of(const Tensor& whole, const Tensor& halves) const {
        return {whole.ptr<float>(), halves.ptr<float>(), whole.shape[1], static_cast<int32_t>(group_)};
    }
    void split_statistics(const Tensor& to, const Tensor& from, bool both) const {
        const int64_t count = from.elements();
        if (count == 0) return;
        PLIMSOLL_LAUNCH(split_statistics_kernel, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, stream(),
                        statistics_of(from, to), count, both);
        launch_check("attention of wide values");
    }

    const AttentionTensors& t_;
    const Exec& exec_;
    int64_t HS_, group_;
    std::byte* at_;
    AttentionTensors narrow_, gradients_, d_;
};

// Calls f(rows) for the rows of queries or keys of tasks, adjoining ones together.
template <class Parts, class RowsOf, class F>
void for_each_run(const Parts& parts, RowsOf&& rows_of, F&& f) {
    Rows run{0, 0};
    for (const auto& part : parts) {
        const Rows next = rows_of(part);
        if (next.count == 0) continue;
        if (run.count > 0 && next.first != run.first + run.count) f(run), run.count = 0;
        run = {run.count ? run.first : next.first, run.count + next.count};
    }
    if (run.count > 0) f(run);
}
template <class F>
void for_each_run(std::span<const AttentionTask> tasks, F&& f) {
    for_each_run(
        tasks,
        [](const AttentionTask& t) {
            return Rows{t.row, t.count};
        },
        f);
}
template <class F>
void for_each_run(std::span<const KeyRange> keys, F&& f) {
    for_each_run(
        keys,
        [](const KeyRange& k) {
            return Rows{k.row, k.rows()};
        },
        f);
}

}  // namespace

int64_t attention_bytes(int64_t N, int64_t NH) {
    return (3 * N + 5 * NH * (N + 128) + 64) * size_of(DType::kI32);
}

int64_t wide_attention_bytes(int64_t N, int64_t M, int64_t NH, int64_t NKV, int64_t HS) {
    return bytes_before(N, NH) + bytes_of_narrow(N, M, NH, NKV, HS);
}

void wide_attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                            const Exec& exec) {
    NarrowHeads heads(t, spec, bytes_before(t.q.shape[0], t.q.shape[1]), exec);
    cuda::attention_forward(heads.for_forward(), cu_seqlens, spec, exec);
    heads.take_outputs({0, t.q.shape[0]});
}

void wide_attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                             const AttentionSpec& spec, Write write, const Exec& exec) {
    NarrowHeads heads(t, spec, bytes_before(t.q.shape[0], t.q.shape[1]), exec);
    const AttentionTensors& narrow = heads.for_backward();
    cuda::attention_backward(heads.gradients(d), narrow, cu_seqlens, spec, write, exec);
    heads.take_query_gradients({0, t.q.shape[0]});
    heads.take_key_gradients({0, t.k.shape[0]});
}

void wide_attention_tasks_forward(const AttentionTensors& t, const AttentionTasks& tasks, const AttentionSpec& spec,
                                  const Exec& exec) {
    NarrowHeads heads(t, spec, bytes_before(tasks), exec);
    cuda::attention_tasks_forward(heads.for_forward(), tasks, spec, exec);
    for_each_run(tasks.tasks, [&](const Rows& rows) { heads.take_outputs(rows); });
}

void wide_attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                                   const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& exec) {
    NarrowHeads heads(t, spec, bytes_before(tasks), exec);
    const AttentionTensors& narrow = heads.for_backward();
    const AttentionTensors& gradients = heads.gradients(d);
    cuda::attention_tasks_backward(gradients, narrow, heads.delta(delta), tasks, spec, exec);
    for_each_run(tasks.tasks, [&](const Rows& rows) { heads.take_query_gradients(rows); });
    for_each_run(tasks.keys, [&](const Rows& rows) { heads.take_key_gradients(rows); });
}

}  // namespace plimsoll::cuda
