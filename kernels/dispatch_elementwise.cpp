// Checks at the door, and the choice of device, for every op that is neither a matrix product, a norm nor attention.
#include "kernels/dispatch.h"

namespace plimsoll {
namespace {

// fp32 or fp64: what a residual stream, a parameter or a sum may be.
void check_wide(Tensor x, const char* op, const char* name) {
    check(x.dtype == DType::kF32 || x.dtype == DType::kF64, "{}: {} is {}, must be fp32 or fp64", op, name,
          name_of(x.dtype));
}

void check_like(Tensor x, DType dtype, Shape shape, const char* op, const char* name) {
    check(x.dtype == dtype && x.shape == shape && x.contiguous(),
          "{}: {} must be {} {}, contiguous; got {} {}, row stride {}", op, name, name_of(dtype), shape,
          name_of(x.dtype), x.shape, x.row_stride);
}

void check_length(std::span<const int32_t> values, int64_t N, const char* op, const char* name) {
    check(static_cast<int64_t>(values.size()) == N, "{}: {} {} for {} rows", op, values.size(), name, N);
}

void check_ids(std::span<const int32_t> ids, int64_t rows, const char* op, const char* name) {
    for (size_t n = 0; n < ids.size(); ++n)
        if (ids[n] < 0 || ids[n] >= rows)
            check(false, "{}: {}[{}] is {}, its table has {} rows", op, name, n, ids[n], rows);
}

void check_embedding(Tensor rows, std::span<const int32_t> tokens, std::span<const int32_t> positions,
                     Tensor token_table, Tensor position_table, const char* op, const Exec& exec) {
    check(rows.shape.rank() == 2 && token_table.shape.rank() == 2, "{}: wants (N, C) and a table (V, C), got {} and {}",
          op, rows.shape, token_table.shape);
    check_wide(rows, op, "the output or its gradient");
    const int64_t N = rows.shape[0], C = rows.shape[1];
    check_like(rows, rows.dtype, {N, C}, op, "the output or its gradient");
    check_like(token_table, rows.dtype, {token_table.shape[0], C}, op, "the token table");
    check_length(tokens, N, op, "tokens");
    if (ids_are_readable(exec)) check_ids(tokens, token_table.shape[0], op, "tokens");
    if (!position_table) return;
    check_like(position_table, rows.dtype, {position_table.shape[0], C}, op, "the position table");
    check_length(positions, N, op, "positions");
    if (ids_are_readable(exec)) check_ids(positions, position_table.shape[0], op, "positions");
}

void check_rope(Tensor x, std::span<const int32_t> positions, const char* op, const Exec& exec) {
    check(x.shape.rank() == 3 && x.shape[2] > 0 && x.shape[2] % 2 == 0, "{}: x must be (N, H, HS) with HS even, got {}",
          op, x.shape);
    check_length(positions, x.shape[0], op, "positions");
    if (!ids_are_readable(exec)) return;
    for (size_t n = 0; n < positions.size(); ++n)
        if (positions[n] < 0) check(false, "{}: positions[{}] is {}, must not be negative", op, n, positions[n]);
}

// `out`: the output, or its gradient. Row strides are free.
void check_qk_norm(Tensor out, Tensor rstd, Tensor x, Tensor gain, const char* op) {
    check(x.shape.rank() == 3 && out.shape == x.shape && out.dtype == x.dtype,
          "{}: x and the output or its gradient must be (N, H, HS) of one dtype, got {} {} and {} {}", op,
          name_of(x.dtype), x.shape, name_of(out.dtype), out.shape);
    const DType sums = accumulator_of(x.dtype);
    check_like(rstd, sums, {x.shape[0], x.shape[1]}, op, "rstd");
    check_like(gain, sums, {x.shape[2]}, op, "gain");
}

void check_activation(Tensor out, Tensor x, Activation kind, const char* op) {
    check(out.shape.rank() == 2, "{}: the output or its gradient must be (N, F), got {}", op, out.shape);
    check_like(out, x.dtype, out.shape, op, "the output or its gradient");
    check_like(x, x.dtype, {out.shape[0], inputs_per_output(kind) * out.shape[1]}, op, "x");
}

void check_residual(Tensor out, Tensor x, Tensor branch, const char* op) {
    check(x.shape.rank() == 2, "{}: x must be (N, C), got {}", op, x.shape);
    check_wide(x, op, "x");
    check_like(x, x.dtype, x.shape, op, "x");
    check_like(out, x.dtype, x.shape, op, "the sum");
    check_like(branch, branch.dtype == DType::kBF16 && x.dtype == DType::kF32 ? DType::kBF16 : x.dtype, x.shape, op,
               "the branch");
}

void check_state(const CrossEntropyState& state, int64_t N, DType sums, const char* op) {
    check_like(state.max, sums, {N}, op, "state.max");
    check_like(state.sum, sums, {N}, op, "state.sum");
    check_like(state.target_logit, sums, {N}, op, "state.target_logit");
}

void check_logits(Tensor logits, int64_t v0, std::span<const int32_t> targets, const char* op) {
    check(logits.shape.rank() == 2 && v0 >= 0, "{}: logits must be (N, Vc) from a column >= 0, got {} from {}", op,
          logits.shape, v0);
    check_length(targets, logits.shape[0], op, "targets");
}

void check_update(Tensor param, Tensor grad, Tensor working, std::initializer_list<Tensor> states,
                  const UpdateSpans& spans, const char* op, const Exec& exec) {
    check(param.shape.rank() == 1, "{}: wants 1-D parameters, got {}", op, param.shape);
    check_wide(param, op, "param");
    check_like(param, param.dtype, param.shape, op, "param");
    check_like(grad, param.dtype, param.shape, op, "grad");
    if (working) check_like(working, DType::kBF16, param.shape, op, "working");
    const Shape elements = states.begin()->shape;
    for (const Tensor& state : states) check_like(state, param.dtype, elements, op, "state");
    if (!ids_are_readable(exec)) return;
    for (int64_t i = 0; i < spans.count; ++i) {
        const UpdateSpan& span = spans.at[i];
        check(span.begin >= 0 && span.state >= 0 && span.count >= 0 && span.begin + span.count <= param.shape[0] &&
                  span.state + span.count <= elements[0],
              "{}: {} elements from {} on of {}, with states from {} on of {}", op, span.count, span.begin, param.shape,
              span.state, elements);
    }
}

}  // namespace

void embedding_forward(Tensor out, std::span<const int32_t> tokens, std::span<const int32_t> positions,
                       Tensor token_table, Tensor position_table, const Exec& exec) {
    check_device(exec, "embedding_forward");
    check_embedding(out, tokens, positions, token_table, position_table, "embedding_forward", exec);
    PLIMSOLL_RUN(exec, embedding_forward(out, tokens, positions, token_table, position_table, exec));
}

void embedding_backward(Tensor dtoken_table, Tensor dposition_table, Tensor dout, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions, const Exec& exec) {
    check_device(exec, "embedding_backward");
    check_embedding(dout, tokens, positions, dtoken_table, dposition_table, "embedding_backward", exec);
    PLIMSOLL_RUN(exec, embedding_backward(dtoken_table, dposition_table, dout, tokens, positions, exec));
}

void rope_forward(Tensor x, std::span<const int32_t> positions, double theta, const Exec& exec) {
    check_device(exec, "rope_forward");
    check_rope(x, positions, "rope_forward", exec);
    PLIMSOLL_RUN(exec, rope_forward(x, positions, theta, exec));
}

void rope_forward(Tensor x, std::span<const int32_t> positions, std::span<const double> frequencies, const Exec& exec) {
    check_on_cpu(exec, "rope_forward");
    check_rope(x, positions, "rope_forward", exec);
    check(static_cast<int64_t>(frequencies.size()) == x.shape[2] / 2, "rope_forward: {} frequencies for x {}",
          frequencies.size(), x.shape);
    const TraceRange range(exec, __func__);
    cpu::rope_forward(x, positions, frequencies, exec);
}

void rope_backward(Tensor dx, std::span<const int32_t> positions, double theta, const Exec& exec) {
    check_device(exec, "rope_backward");
    check_rope(dx, positions, "rope_backward", exec);
    PLIMSOLL_RUN(exec, rope_backward(dx, positions, theta, exec));
}

void qk_norm_forward(Tensor out, Tensor rstd, Tensor x, Tensor gain, double eps, const Exec& exec) {
    check_device(exec, "qk_norm_forward");
    check_qk_norm(out, rstd, x, gain, "qk_norm_forward");
    PLIMSOLL_RUN(exec, qk_norm_forward(out, rstd, x, gain, eps, exec));
}

void qk_norm_backward(Tensor dx, Tensor dgain, Tensor dout, Tensor x, Tensor gain, Tensor rstd, Write write,
                      const Exec& exec) {
    check_device(exec, "qk_norm_backward");
    check_qk_norm(dout, rstd, x, gain, "qk_norm_backward");
    check(dx.shape == x.shape && dx.dtype == x.dtype, "qk_norm_backward: dx {} {} for x {} {}", name_of(dx.dtype),
          dx.shape, name_of(x.dtype), x.shape);
    check_like(dgain, gain.dtype, gain.shape, "qk_norm_backward", "dgain");
    PLIMSOLL_RUN(exec, qk_norm_backward(dx, dgain, dout, x, gain, rstd, write, exec));
}

void activation_forward(Tensor out, Tensor x, Activation kind, const Exec& exec) {
    check_device(exec, "activation_forward");
    check_activation(out, x, kind, "activation_forward");
    PLIMSOLL_RUN(exec, activation_forward(out, x, kind, exec));
}

void activation_backward(Tensor dx, Tensor dout, Tensor x, Activation kind, const Exec& exec) {
    check_device(exec, "activation_backward");
    check_activation(dout, x, kind, "activation_backward");
    check_like(dx, x.dtype, x.shape, "activation_backward", "dx");
    PLIMSOLL_RUN(exec, activation_backward(dx, dout, x, kind, exec));
}

void residual_forward(Tensor out, Tensor x, Tensor branch, const Exec& exec) {
    check_device(exec, "residual_forward");
    check_residual(out, x, branch, "residual_forward");
    PLIMSOLL_RUN(exec, residual_forward(out, x, branch, exec));
}

void residual_norm_forward(Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor gain,
                           Tensor bias, NormSpec spec, const Exec& exec) {
    constexpr const char* kOp = "residual_norm_forward";
    check_device(exec, kOp);
    check_residual(sum, x, branch, kOp);
    const int64_t N = x.shape[0], C = x.shape[1];
    check_like(out, out.dtype == DType::kBF16 && x.dtype == DType::kF32 ? DType::kBF16 : x.dtype, x.shape, kOp, "out");
    check_like(rstd, x.dtype, {N}, kOp, "rstd");
    check_like(gain, x.dtype, {C}, kOp, "gain");
    if (bias) check_like(bias, x.dtype, {C}, kOp, "bias");
    if (mean) check_like(mean, x.dtype, {N}, kOp, "mean");
    check(static_cast<bool>(mean) == (spec.kind == NormKind::kLayer), "{}: LayerNorm keeps a mean, RMSNorm has none",
          kOp);
    PLIMSOLL_RUN(exec, residual_norm_forward(sum, out, mean, rstd, x, branch, gain, bias, spec, exec));
}

void convert(Tensor out, Tensor x, const Exec& exec) {
    check_device(exec, "convert");
    check(x.shape == out.shape && x.contiguous() && out.contiguous(),
          "convert: x {} and out {} must be equal and contiguous", x.shape, out.shape);
    PLIMSOLL_RUN(exec, convert(out, x, exec));
}

void cross_entropy_begin(const CrossEntropyState& state, const Exec& exec) {
    check_device(exec, "cross_entropy_begin");
    check_wide(state.max, "cross_entropy_begin", "state.max");
    check_state(state, state.max.shape[0], state.max.dtype, "cross_entropy_begin");
    PLIMSOLL_RUN(exec, cross_entropy_begin(state, exec));
}

void cross_entropy_accumulate(const CrossEntropyState& state, Tensor logits, int64_t v0,
                              std::span<const int32_t> targets, const Exec& exec) {
    check_device(exec, "cross_entropy_accumulate");
    check_logits(logits, v0, targets, "cross_entropy_accumulate");
    check_state(state, logits.shape[0], accumulator_of(logits.dtype), "cross_entropy_accumulate");
    PLIMSOLL_RUN(exec, cross_entropy_accumulate(state, logits, v0, targets, exec));
}

void cross_entropy_finish(Tensor nll, Tensor lse, const CrossEntropyState& state, std::span<const int32_t> targets,
                          const Exec& exec) {
    check_device(exec, "cross_entropy_finish");
    check_wide(nll, "cross_entropy_finish", "nll");
    const auto N = static_cast<int64_t>(targets.size());
    check_like(nll, nll.dtype, {N}, "cross_entropy_finish", "nll");
    check_like(lse, nll.dtype, {N}, "cross_entropy_finish", "lse");
    check_state(state, N, nll.dtype, "cross_entropy_finish");
    PLIMSOLL_RUN(exec, cross_entropy_finish(nll, lse, state, targets, exec));
}

void cross_entropy_sums(Tensor sums, Tensor nll, Tensor lse, std::span<const int32_t> targets, Write write,
                        const Exec& exec) {
    check_device(exec, "cross_entropy_sums");
    check_wide(nll, "cross_entropy_sums", "nll");
    check_like(nll, nll.dtype, {static_cast<int64_t>(targets.size())}, "cross_entropy_sums", "nll");
    check_like(lse, nll.dtype, nll.shape, "cross_entropy_sums", "lse");
    check_like(sums, DType::kF64, {3}, "cross_entropy_sums", "sums");
    PLIMSOLL_RUN(exec, cross_entropy_sums(sums, nll, lse, targets, write, exec));
}

void cross_entropy_gradient(Tensor logits, int64_t v0, Tensor lse, std::span<const int32_t> targets, double scale,
                            double z_loss, const Exec& exec) {
    check_device(exec, "cross_entropy_gradient");
    check_logits(logits, v0, targets, "cross_entropy_gradient");
    check_like(lse, accumulator_of(logits.dtype), {logits.shape[0]}, "cross_entropy_gradient", "lse");
    PLIMSOLL_RUN(exec, cross_entropy_gradient(logits, v0, lse, targets, scale, z_loss, exec));
}

void cross_entropy_whole(Tensor nll, Tensor lse, Tensor logits, const CrossEntropyState& state,
                         std::span<const int32_t> targets, double scale, double z_loss, const Exec& exec) {
    constexpr const char* kOp = "cross_entropy_whole";
    check_device(exec, kOp);
    check_logits(logits, 0, targets, kOp);
    const int64_t N = logits.shape[0];
    const DType sums = accumulator_of(logits.dtype);
    check_state(state, N, sums, kOp);
    check_like(nll, sums, {N}, kOp, "nll");
    check_like(lse, sums, {N}, kOp, "lse");
    PLIMSOLL_RUN(exec, cross_entropy_whole(nll, lse, logits, state, targets, scale, z_loss, exec));
}

void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const UpdateSpans& spans,
                const Exec& exec) {
    check_device(exec, "adamw_step");
    check_update(param, grad, working, {m, v}, spans, "adamw_step", exec);
    PLIMSOLL_RUN(exec, adamw_step(param, m, v, grad, working, spans, exec));
}

void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const UpdateSpans& spans, const Exec& exec) {
    check_device(exec, "sgd_step");
    check_update(param, grad, working, {buffer}, spans, "sgd_step", exec);
    PLIMSOLL_RUN(exec, sgd_step(param, buffer, grad, working, spans, exec));
}

double sum_of_squares(Tensor x, const Exec& exec) {
    check_device(exec, "sum_of_squares");
    check_wide(x, "sum_of_squares", "x");
    check(x.shape.rank() == 1 && x.contiguous(), "sum_of_squares: x must be 1-D and contiguous, got {}, row stride {}",
          x.shape, x.row_stride);
    PLIMSOLL_RUN(exec, sum_of_squares(x, exec));
}

Shape squares_shape(Shape matrix) {
    const auto blocks = [](int64_t count) { return (count + kSquaresSide - 1) / kSquaresSide; };
    return {blocks(matrix[0]), blocks(matrix[1])};
}

void block_squares(Tensor squares, Tensor x, const Exec& exec) {
    check_on_cpu(exec, "block_squares");
    check_wide(x, "block_squares", "x");
    check_squares("block_squares", squares, x);
    PLIMSOLL_TRACE(exec, sum_of_squares(x, exec));
    cpu::block_squares(squares, x, exec);
}

void block_squares(Tensor squares, Tensor x, std::span<const int32_t> rows, const Exec& exec) {
    check_on_cpu(exec, "block_squares");
    check_wide(x, "block_squares", "x");
    check_squares("block_squares", squares, x);
    check_ids(rows, x.shape[0], "block_squares", "rows");
    const auto read = std::min(x.shape[0], kSquaresSide * static_cast<int64_t>(rows.size()));
    PLIMSOLL_TRACE(exec, sum_of_squares(x.slice_rows(0, read), exec));
    cpu::block_squares(squares, x, rows, exec);
}

void fill_zero(Tensor out, const Exec& exec) {
    check_device(exec, "fill_zero");
    check(out.contiguous(), "fill_zero: {} with row stride {} is not contiguous", out.shape, out.row_stride);
    PLIMSOLL_RUN(exec, fill_zero(out, exec));
}

}  // namespace plimsoll
