// For processors and compilers without AVX512_BF16: nothing here is called, as available() says no.
#include "kernels/cpu/avx512_bf16/activations.h"
#include "kernels/cpu/avx512_bf16/adam_rows.h"
#include "kernels/cpu/avx512_bf16/attention_rows.h"
#include "kernels/cpu/avx512_bf16/blocks.h"
#include "kernels/cpu/avx512_bf16/cross_entropy_rows.h"
#include "kernels/cpu/avx512_bf16/gate_rows.h"
#include "kernels/cpu/avx512_bf16/head_rows.h"
#include "kernels/cpu/avx512_bf16/norm_rows.h"
#include "kernels/cpu/avx512_bf16/thin_rows.h"

#include <cstdlib>

namespace plimsoll::cpu::avx512_bf16 {

bool available() {
    return false;
}
bool has_tiles() {
    return false;
}
bool is_fast() {
    return false;
}
TileScope::TileScope() = default;
TileScope::~TileScope() = default;
void pack_right(bf16*, int64_t, const bf16*, int64_t, int64_t, int64_t) {
    std::abort();
}
void pack_right_turned(bf16*, int64_t, const bf16*, int64_t, int64_t, int64_t) {
    std::abort();
}
void pack_left(bf16*, int64_t, const bf16*, int64_t, int64_t, int64_t) {
    std::abort();
}
void pack_left_turned(bf16*, int64_t, const bf16*, int64_t, int64_t, int64_t, float*) {
    std::abort();
}
void pack_left(bf16*, int64_t, const float*, int64_t, int64_t, int64_t) {
    std::abort();
}
void pack_left_turned(bf16*, int64_t, const float*, int64_t, int64_t, int64_t) {
    std::abort();
}
void finish(const Finish&) {
    std::abort();
}
void multiply(float*, int64_t, const Left&, const Right&, int64_t, bool, const Finish*) {
    std::abort();
}
void gelu_forward(bf16*, const bf16*, int64_t) {
    std::abort();
}
void gelu_backward(bf16*, const bf16*, const bf16*, int64_t) {
    std::abort();
}
void swiglu_forward(bf16*, const bf16*, const bf16*, int64_t) {
    std::abort();
}
void swiglu_backward(bf16*, bf16*, const bf16*, const bf16*, const bf16*, int64_t) {
    std::abort();
}
void elu1_forward(bf16*, const bf16*, int64_t) {
    std::abort();
}
template <class V>
void weigh(float*, int64_t, float, const float*, const float*, float*) {
    std::abort();
}
template <class V>
void weigh_gradients(bf16*, bf16*, int64_t, const float*, float*, int64_t, float, const float*, const float*,
                     const float*) {
    std::abort();
}
#define PLIMSOLL_VARIANT(Trait, header) PLIMSOLL_INSTANTIATE_ATTENTION_ROWS(Trait)
#include "kernels/attention/variants.def"
#undef PLIMSOLL_VARIANT
void store_scaled(bf16*, const float*, int64_t, float, float) {
    std::abort();
}
float dot(const bf16*, const bf16*, int64_t) {
    std::abort();
}
template <class T>
void add_logits(float*, float*, const T*, int64_t) {
    std::abort();
}
template <class T>
void softmax_gradient(T*, int64_t, float, float) {
    std::abort();
}
template void add_logits(float*, float*, const float*, int64_t);
template void add_logits(float*, float*, const bf16*, int64_t);
template void softmax_gradient(float*, int64_t, float, float);
template void softmax_gradient(bf16*, int64_t, float, float);
template <class Out, class Branch>
void norm_forward(Out*, float*, float*, float*, const float*, const Branch*, const float*, const float*, int64_t,
                  int64_t, float) {
    std::abort();
}
template <class Out>
void norm_backward(float*, Out*, float*, float*, const Out*, const float*, const float*, const float*, const float*,
                   bool, int64_t, int64_t) {
    std::abort();
}
PLIMSOLL_INSTANTIATE_NORM_ROWS
template <class Function, class Combination>
void gate_forward(bf16*, const bf16*, const bf16*, int64_t) {
    std::abort();
}
template <class Function, class Combination>
void gate_backward(bf16*, bf16*, const bf16*, const bf16*, const bf16*, int64_t) {
    std::abort();
}
PLIMSOLL_INSTANTIATE_GATE_ROWS
void widen_pairs(float*, const bf16*, int64_t) {
    std::abort();
}
void write_pairs(float*, const float*, int64_t, bool) {
    std::abort();
}
template <class C>
void thin_depth(C*, int64_t, const bf16*, int64_t, const float*, int64_t, int64_t, int64_t, bool) {
    std::abort();
}
template <class C>
void thin_columns(C*, int64_t, const bf16*, int64_t, const bf16*, int64_t, const float*, int64_t, int64_t, int64_t,
                  bool) {
    std::abort();
}
PLIMSOLL_INSTANTIATE_THIN(float)
PLIMSOLL_INSTANTIATE_THIN(bf16)
void thin_rows(float*, const float*, const bf16*, int64_t, int64_t, int64_t, int64_t) {
    std::abort();
}
void scale(bf16*, const bf16*, float, int64_t) {
    std::abort();
}
float scale_and_dot(bf16*, const bf16*, const bf16*, float, int64_t) {
    std::abort();
}
void adamw(float*, float*, float*, const float*, bf16*, int64_t, const AdamFactors<float>&, bool) {
    std::abort();
}

}  // namespace plimsoll::cpu::avx512_bf16
