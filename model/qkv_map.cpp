#include "model/qkv_map.h"

#include "kernels/global_norm.h"
#include "kernels/matmul.h"
#include "kernels/residual.h"
#include "model/part.h"

namespace plimsoll {

QkvMap::QkvMap(const NetworkConfig& config)
    : merged_(config.attention.query_key == "merged"),
      symmetric_(config.attention.query_key == "symmetric"),
      NH_(config.model.heads),
      NKV_(config.model.key_heads()),
      HS_(config.model.head_channels()),
      mapped_(merged_ || symmetric_ ? NH_ : NH_ + NKV_) {}

std::vector<int64_t> QkvMap::rows() const {
    if (merged_ || symmetric_) return {NH_ * HS_, NKV_ * HS_};
    return {NH_ * HS_, NKV_ * HS_, NKV_ * HS_};
}

Tensor QkvMap::heads(Tensor qkv, int64_t first, int64_t count) const {
    return qkv.reshape({qkv.shape[0], (NH_ + 2 * NKV_) * HS_}).slice_columns(first * HS_, count * HS_);
}

Tensor QkvMap::of_source(Tensor rows) const {
    return rows ? rows.slice_rows(0, mapped_ * HS_) : rows;
}

Tensor QkvMap::of_values(Tensor rows) const {
    return rows ? rows.slice_rows(mapped_ * HS_, NKV_ * HS_) : rows;
}

void QkvMap::forward(Tensor qkv, Tensor x, Tensor source, Tensor weight, Tensor bias, const Exec& exec) const {
    if (!source && !merged_ && !symmetric_) return matmul_forward(heads(qkv, 0, NH_ + 2 * NKV_), x, weight, bias, exec);
    const Tensor s = source ? source : x;
    matmul_forward(mapped(qkv), s, of_source(weight), of_source(bias), exec);
    matmul_forward(values(qkv), x, of_values(weight), of_values(bias), exec);
    if (merged_) copy_rows(keys(qkv), s, exec);
    if (symmetric_) copy_rows(keys(qkv), queries(qkv), exec);
}

void QkvMap::backward_weight(Tensor dweight, Tensor dbias, Tensor squares, Tensor dqkv, Tensor x, Tensor source,
                             Write write, const Exec& exec) const {
    if (!source && !merged_ && !symmetric_)
        return matmul_backward_weight(dweight, dbias, heads(dqkv, 0, NH_ + 2 * NKV_), x, write, exec, squares);
    const Tensor s = source ? source : x;
    matmul_backward_weight(of_source(dweight), of_source(dbias), mapped(dqkv), s, write, exec);
    if (symmetric_)
        matmul_backward_weight(of_source(dweight), of_source(dbias), keys(dqkv), s, Write::kAccumulate, exec);
    matmul_backward_weight(of_values(dweight), of_values(dbias), values(dqkv), x, write, exec);
    if (squares) block_squares(squares, dweight, exec);
}

void QkvMap::source_gradient(Tensor ds, Tensor dqkv, Tensor weight, const Exec& exec) const {
    if (merged_) copy_rows(ds, keys(dqkv), exec);
    matmul_backward_input(ds, mapped(dqkv), of_source(weight), merged_ ? Write::kAccumulate : Write::kOverwrite, exec);
    if (symmetric_) matmul_backward_input(ds, keys(dqkv), of_source(weight), Write::kAccumulate, exec);
}

void QkvMap::backward_input(Tensor dx, Tensor dsource, bool sourced, Tensor dqkv, Tensor weight,
                            const Exec& exec) const {
    if (!sourced && !merged_ && !symmetric_)
        return matmul_backward_input(dx, heads(dqkv, 0, NH_ + 2 * NKV_), weight, Write::kOverwrite, exec);
    if (!sourced || dsource) source_gradient(dx, dqkv, weight, exec);
    if (dsource) residual_forward(dsource, dsource, dx, exec);
    matmul_backward_input(dx, values(dqkv), of_values(weight), sourced ? Write::kOverwrite : Write::kAccumulate, exec);
}

}  // namespace plimsoll
