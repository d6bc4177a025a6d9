// The linear maps from a block's inputs to queries, keys and values: which rows of attn.qkv meet which vectors.
#pragma once

#include <vector>

#include "kernels/exec.h"
#include "model/config.h"

namespace plimsoll {

// q = s W_Q, k = s W_K, v = x W_V, biases besides, of the first norm's output x (N, C) and what queries and keys are
// mapped from, s (N, C): x itself or a source of its own (qk_source.h).
//   separate   W_Q and W_K
//   merged     W_K = 1, without a bias: scores s_i W_Q s_j^T, one matrix in place of the product W_Q W_K^T. A key head
//              has its own channels of s; with one that has them all this is the merged matrix of Bermeitinger et al.,
//              arXiv:2410.13732, with several the identity map of Karbevski and Mijoski, arXiv:2510.23912.
//   symmetric  W_K = W_Q: two tokens are as similar as they are the other way round. arXiv:2410.13732
// attn.qkv (rows, C) stacks W_Q, W_K where there is one, W_V.
class QkvMap {
  public:
    explicit QkvMap(const NetworkConfig& config);

    // Rows of the matrices that attn.qkv stacks, in their order.
    std::vector<int64_t> rows() const;

    // qkv (N, NH + 2 NKV, HS), all of it. An empty `source` is x.
    void forward(Tensor qkv, Tensor x, Tensor source, Tensor weight, Tensor bias, const Exec& exec) const;
    // dweight and dbias of the same, written or added; squares, if not empty, as matmul_backward_weight leaves them.
    void backward_weight(Tensor dweight, Tensor dbias, Tensor squares, Tensor dqkv, Tensor x, Tensor source,
                         Write write, const Exec& exec) const;
    // dx (N, C) is written. Of a source of its own (`sourced`) dsource (N, C), in the stream's dtype, is added to; it
    // may be empty.
    void backward_input(Tensor dx, Tensor dsource, bool sourced, Tensor dqkv, Tensor weight, const Exec& exec) const;

  private:
    // Columns of (N, NH + 2 NKV, HS) as those of a matrix.
    Tensor heads(Tensor qkv, int64_t first, int64_t count) const;
    Tensor mapped(Tensor qkv) const { return heads(qkv, 0, mapped_); }
    Tensor queries(Tensor qkv) const { return heads(qkv, 0, NH_); }
    Tensor keys(Tensor qkv) const { return heads(qkv, NH_, NKV_); }
    Tensor values(Tensor qkv) const { return heads(qkv, NH_ + NKV_, NKV_); }
    // Of a weight or a bias the rows that s meets, and those that x does.
    Tensor of_source(Tensor rows) const;
    Tensor of_values(Tensor rows) const;
    void source_gradient(Tensor ds, Tensor dqkv, Tensor weight, const Exec& exec) const;

    bool merged_, symmetric_;
    int64_t NH_, NKV_, HS_;
    int64_t mapped_;  // heads that s is mapped to: of queries, and of keys that have a matrix of their own
};

}  // namespace plimsoll
