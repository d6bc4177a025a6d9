// Which calls of attention's backward the kernels of sm90/ take, and what these are told.
#include "kernels/cuda/attention_backward_sm90.h"

#include "kernels/cuda/sm90/attention_dkv.cuh"
#include "kernels/cuda/sm90/attention_dq.cuh"
#include "kernels/cuda/sm90/launch.cuh"

namespace plimsoll::cuda {

Backward90 takes_sm90_backward(const AttentionTensors& d, const AttentionTensors& t, const AttentionSpec& spec,
                               const Exec& exec) {
    if (!is_for_sm90(t, spec, exec)) return {};
    const int64_t HS = t.q.shape[2];
    return {.dq = query_gradient_tile(HS).exists(),
            .dkv = key_gradient_tile(HS).exists() && d.k.dtype == DType::kBF16 && d.v.dtype == DType::kBF16};
}

int64_t sm90_backward_words(const AttentionTensors& t) {
    return kRowNumbers * t.q.shape[1] * padded_rows(t.q.shape[0]);
}

float* sm90_backward_rows(Backward90 takes, const AttentionTensors& t, const BackwardCall& call, float* rows,
                          const AttentionTables& tables, const AttentionSpec& spec, const Exec& exec) {
    const int64_t N = t.q.shape[0], HS = t.q.shape[2];
    return dispatch_variant(spec.weighting, [&]<class V>() -> float* {
        if (!rows_differ<V>(call) && !(takes.dkv && wants_rows<V>(HS))) return nullptr;
        PLIMSOLL_LAUNCH(backward_rows_kernel<V>, dim3(blocks_for(padded_rows(N), kTileThreads), t.q.shape[1]),
                        dim3(kTileThreads), 0, exec.cuda->stream(), rows, call, tables.first, tables.end);
        launch_check("attention_backward rows");
        return rows;
    });
}

void run_sm90_backward(Backward90 takes, const AttentionTensors& d, const AttentionTensors& t, const BackwardCall& call,
                       const float* rows, const AttentionTables& tables, const AttentionSpec& spec, cudaStream_t beside,
                       const Exec& exec) {
    const int64_t N = t.q.shape[0], HS = t.q.shape[2];
    const int heads = static_cast<int>(t.q.shape[1]), key_heads = static_cast<int>(t.k.shape[1]);
    if (takes.dkv) {
        const KeyGradientTile tile = key_gradient_tile(HS);
        launch_sm90_dkv({call, map_heads(t.q, "q", tile.queries), map_heads(d.out, "dout", tile.queries),
                         map_heads(t.k, "k", kGroupRows), map_heads(t.v, "v", kGroupRows),
                         map_heads(d.k, "dk", kGroupRows), map_heads(d.v, "dv", kGroupRows), rows,
                         key_schedule(N, HS, key_heads, heads / key_heads, tile.keys), tables.first, tables.end},
                        spec.weighting, HS, beside, exec);
    }
    if (takes.dq) {
        const QueryGradientTile tile = query_gradient_tile(HS);
        launch_sm90_dq(
            {call, map_heads(t.q, "q", kGroupRows), map_heads(d.out, "dout", kGroupRows),
             map_heads(d.q, "dq", kGroupRows), map_heads(t.k, "k", tile.keys), map_heads(t.v, "v", tile.keys), rows,
             query_schedule(N, HS, heads, heads / key_heads, tile.queries), tables.first, tables.end},
            spec.weighting, HS, exec);
    }
}

}  // namespace plimsoll::cuda
