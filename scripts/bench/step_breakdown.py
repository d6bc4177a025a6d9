"""Where a training step's time goes on an H200, class by class, beside what the hardware allows.

`plimsoll bench --step NAME --breakdown --json` gives the time of every op with the ranges around it; this module sorts
them into classes and computes each class's floor from the shape, so that a floor is a formula and not a table to keep.
"""

# Sustained, to be replaced by measured figures: HBM of the 4.8 TB/s on the data sheet, products of these shapes of the
# 989 TFLOP/s, core attention at head size 64.
BYTES_PER_SECOND = 4.2e12
GEMM_FLOPS = 680e12
PEAK_FLOPS = 989.4e12
ATTENTION_FLOPS = {"attention forward": 400e12, "attention backward": 350e12}
GRAPH_GAPS_MS = 0.2  # of some 300 kernels in a CUDA graph

CLASSES = ("body GEMM", "head GEMM", "attention forward", "attention backward", "norms and elementwise", "classifier",
           "optimizer", "other")
_STARTS = (
    ("attention_forward", "attention forward"), ("attention_backward", "attention backward"),
    ("cross_entropy", "classifier"),
    ("adamw", "optimizer"), ("sgd", "optimizer"), ("sum_of_squares", "optimizer"),
    ("norm_", "norms and elementwise"), ("residual_", "norms and elementwise"), ("convert", "norms and elementwise"),
    ("activation_", "norms and elementwise"), ("rope_", "norms and elementwise"), ("qk_norm", "norms and elementwise"),
    ("fill_zero", "norms and elementwise"),
)


def class_of(path):
    """The class of an op, from "range/range/op"."""
    *ranges, op = path.split("/")
    if op.startswith("matmul_"):
        return "head GEMM" if any(name.endswith("head") for name in ranges) else "body GEMM"
    return next((name for start, name in _STARTS if op.startswith(start)), "other")


def is_llama(shape):
    return "kv_heads" in shape


def body_parameters(shape):
    """Elements of the blocks' matrices."""
    C = shape["channels"]
    F = shape.get("ffn", 4 * C)
    heads, kv = shape["heads"], shape.get("kv_heads", shape["heads"])
    qkv = C * C // heads * (heads + 2 * kv)
    return shape["layers"] * (qkv + C * C + (3 if is_llama(shape) else 2) * C * F)


def parameters(shape):
    tables = (2 if is_llama(shape) else 1) * shape["vocab"] * shape["channels"]
    return body_parameters(shape) + tables + (0 if is_llama(shape) else shape["T"] * shape["channels"])


def model_flops(shape):
    """Of a step: 6 P + 6 L C T per token (llm.c's formula; attention of a causal sequence)."""
    per_token = 6 * (body_parameters(shape) + shape["vocab"] * shape["channels"]
                     + shape["layers"] * shape["channels"] * shape["T"])
    return per_token * shape["B"] * shape["T"]


def mfu(shape, ms):
    """Share of the card's peak that a step of `ms` milliseconds uses."""
    return model_flops(shape) / (1e-3 * ms) / PEAK_FLOPS


def floors(shape):
    """{class: ms} that the hardware allows."""
    tokens, L, C = shape["B"] * shape["T"], shape["layers"], shape["channels"]
    attention = 2 * tokens * shape["T"] * C * L  # forward, causal: half of two products
    # Passes over (tokens, C) in bf16: the stream is fp32, two passes. GELU hides in products, SwiGLU and RoPE do not.
    passes = 44.5 if is_llama(shape) else 18
    seconds = {
        "body GEMM": 6 * body_parameters(shape) * tokens / GEMM_FLOPS,
        "head GEMM": 6 * shape["vocab"] * C * tokens / GEMM_FLOPS,
        "attention forward": attention / ATTENTION_FLOPS["attention forward"],
        "attention backward": 2.5 * attention / ATTENTION_FLOPS["attention backward"],
        "norms and elementwise": passes * L * tokens * C * 2 / BYTES_PER_SECOND,
        "classifier": 2 * tokens * shape["vocab"] * 2 / BYTES_PER_SECOND,
        "optimizer": 34 * parameters(shape) / BYTES_PER_SECOND,  # AdamW 30 bytes per parameter, the norm reads 4
        "other": 20 * tokens * C * 4 / BYTES_PER_SECOND,         # embeddings, biases
    }
    return {name: 1e3 * value for name, value in seconds.items()}


def classes(ops):
    """{class: ms} of the measured ops."""
    sums = dict.fromkeys(CLASSES, 0.0)
    for op in ops:
        sums[class_of(op["path"])] += op["ms"]
    return sums


def table(name, shape, entry):
    """Markdown: each class, measured and floor; the gaps are what the step takes beyond its ops."""
    measured, least = classes(entry["ops"]), floors(shape)
    lines = [f"{name}: {entry['ms']:.1f} ms, {1e3 * shape['B'] * shape['T'] / entry['ms']:,.0f} tokens/s, "
             f"MFU {100 * mfu(shape, entry['ms']):.1f} %", "",
             "| class | ms | floor | times the floor | ms to gain |", "|---|---:|---:|---:|---:|"]
    rows = [(each, measured[each], least[each]) for each in CLASSES]
    rows.append(("launch gaps", entry["ms"] - sum(measured.values()), GRAPH_GAPS_MS))
    rows.append(("whole step", entry["ms"], sum(least.values()) + GRAPH_GAPS_MS))
    for each, ms, floor in rows:
        lines.append(f"| {each} | {ms:.2f} | {floor:.2f} | {ms / floor:.2f} | {ms - floor:.2f} |")
    return "\n".join(lines)
