#!/usr/bin/env python3
"""Writes the golden fixtures of this directory: a transformer written in PyTorch from the papers, in double precision.

    python3 tests/golden/make_fixtures.py

needs `torch` installed. It shares nothing with plimsoll: attention is a full (T, T) matrix, gradients are autograd's.
Softmax attention is compared with torch.nn.functional.scaled_dot_product_attention while the fixtures are made.
Written twice on one machine the files are equal byte for byte; README.md describes them.
"""

import json
import math
import zlib
from pathlib import Path

import gates_and_scales
import queries_and_keys
import torch
import torch.nn.functional as F
from fixtures import BASE, FIXTURES, NUMBERED, OPTIONAL, option

HERE = Path(__file__).resolve().parent
SEED = 20410

BIASED = ("sigmoid", "relu")  # weightings that attention.score_bias concerns
WITH_BLOCK_0 = ("gpt2_softmax", "llama_softmax_gqa_qknorm")
B = 2


def parameter_shapes(config):
    """Names and shapes in the order of plimsoll's parameter table; linear weights are (out, in)."""
    C, NH, NKV, HS, FFN = (config["model." + key] for key in ("channels", "heads", "kv_heads", "head_size", "ffn"))
    rows = config["vocab"] + config["attention.placeholders"]
    gated_up = 2 if config["model.activation"] == "swiglu" else 1
    shapes = {"wte.weight": (rows, C)}

    def norm(name):
        shapes[name + ".gain"] = (C,)
        if config["model.norm"] == "layer":
            shapes[name + ".bias"] = (C,)

    def linear(name, out, fan_in, bias=config["model.bias"]):
        shapes[name + ".weight"] = (out, fan_in)
        if bias:
            shapes[name + ".bias"] = (out,)

    if config["model.position"] == "learned":
        shapes["wpe.weight"] = (config["T"], C)
    for layer in range(config["model.layers"]):
        block = f"blocks.{layer}."
        norm(block + "norm1")
        linear(block + "attn.qkv", sum(queries_and_keys.mapped_heads(config)) * HS, C)
        if config["model.qk_norm"]:
            shapes[block + "attn.q_norm.gain"] = shapes[block + "attn.k_norm.gain"] = (HS,)
        if config["attention.extra_column"] == "learned":
            shapes[block + "attn.sink_logit"] = (NH,)
        if config["attention.score_bias"] == "learned":
            shapes[block + "attn.score_bias"] = (NH,)
        per_head = (1 if option(config, "attention.column_shared") else NH, HS)
        if option(config, "attention.feature_map") == "mlp":
            shapes[block + "attn.map.up.weight"] = shapes[block + "attn.map.down.weight"] = (HS, HS)
        shapes |= gates_and_scales.shapes(config, block)
        if option(config, "attention.key_bias") == "value":
            shapes[block + "attn.key_bias"] = (NH, HS)
        if config["attention.extra_column"] in ("key", "key_value"):
            shapes[block + "attn.extra_key"] = per_head
        if config["attention.extra_column"] == "key_value":
            shapes[block + "attn.extra_value"] = per_head
        if option(config, "attention.value_bias"):
            shapes[block + "attn.value_bias"] = per_head
        differential = option(config, "attention.differential")
        if differential == "v1":
            shapes[block + "attn.lambda"] = (4, HS)
            shapes[block + "attn.pair_norm.gain"] = (2 * HS,)
        if differential == "v2":
            linear(block + "attn.lambda", NH // 2, C, bias=False)
        linear(block + "attn.out", C, NH * HS // (2 if differential == "v2" else 1))
        if config["model.activation"] != "none":
            norm(block + "norm2")
            linear(block + "mlp.up", gated_up * FFN, C)
            linear(block + "mlp.down", C, FFN)
    norm("final_norm")
    if not config["model.tied"]:
        shapes["lm_head.weight"] = (rows, C)
    return shapes


def random_parameters(config, generator):
    """Values of trained, not initial, size: gains are not 1, biases and sink logits not 0, scores of order 1."""
    parameters = {}
    for name, shape in parameter_shapes(config).items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith(".gain"):
            value = 1 + 0.25 * value
        elif name.endswith((".bias", "wpe.weight")):
            value = 0.3 * value
        elif name.endswith("wte.weight"):
            value = 0.6 * value
        elif name.endswith(gates_and_scales.SMALL):
            pass
        elif name.endswith("attn.lambda"):
            value = 0.4 * value
        elif not name.endswith(("sink_logit", "score_bias", "key_bias", "extra_key", "extra_value",
                                "value_bias")):
            value = value * 1.3 / math.sqrt(shape[1])
        parameters[name] = value.requires_grad_()
    return parameters


def random_batch(config, generator):
    """tokens, targets (-1 = not scored), positions, each (B, T), and where documents start in the flat batch."""
    V, T, k = config["vocab"], config["T"], config["attention.placeholders"]
    text = torch.randint(0, V, (B, T + 1), generator=generator)
    tokens, targets = text[:, :-1].clone(), text[:, 1:].clone()
    positions = torch.arange(T).repeat(B, 1)
    targets[0, T // 2] = targets[1, 0] = -1
    cu_seqlens = [0, T, 2 * T]
    if k:
        # Three documents in two rows, each beginning with the placeholders. No placeholder is a target, nor is the first
        # token behind them; the last token of a document that ends inside a row has nothing to predict.
        cu_seqlens = [0, 7, T, 2 * T]
        tokens, targets, positions = tokens.view(-1), targets.view(-1), positions.view(-1)
        for start, stop in zip(cu_seqlens, cu_seqlens[1:]):
            tokens[start:start + k] = torch.arange(V, V + k)
            targets[start:start + k] = -1
            positions[start:stop] = torch.arange(stop - start)
            if stop % T:
                targets[stop - 1] = -1
        tokens, targets, positions = tokens.view(B, T), targets.view(B, T), positions.view(B, T)
    # A prefix sees itself in both directions: the tokens in it are given, not predicted.
    targets[positions + 1 < mask_key(config, "prefix")] = -1
    return tokens, targets, positions, cu_seqlens


def mask_key(config, name, layer=0):
    value = config.get("attention." + name, OPTIONAL["attention." + name])
    return value[layer % len(value)] if isinstance(value, list) else value


def visible(config, cu_seqlens, layer):
    """(B, T, T): may query i see key j? Causal but for the prefix, inside its document, in the pattern or pinned."""
    T = config["T"]
    flat = torch.arange(B * T)
    document = torch.bucketize(flat, torch.tensor(cu_seqlens[1:-1]), right=True).view(B, T)
    start = torch.tensor(cu_seqlens)[document] - T * torch.arange(B)[:, None]  # of the document, counted in the row
    i, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
    same = document[:, :, None] == document[:, None, :]
    query, key = i - start[:, :, None], j - start[:, :, None]  # positions in the query's document
    w, pattern = config["attention.window"], mask_key(config, "pattern", layer)
    near = i - j < w if w else torch.ones(T, T, dtype=torch.bool)
    if pattern == "dilated":
        step = mask_key(config, "dilation")
        seen = ((i - j) % step == 0) & (i - j < step * w if w else near)
    elif pattern == "strided":  # the strided pattern of arXiv:1904.10509, both heads of it in one
        seen = near | ((i - j) % w == 0)
    elif pattern == "blocked":
        seen = torch.div(query, w, rounding_mode="floor") == torch.div(key, w, rounding_mode="floor")
    else:
        seen = near
    mask = same & (j <= i) & (seen | (key < config["attention.pinned"]))
    prefix = mask_key(config, "prefix")
    return mask | (same & (query < prefix) & (key < prefix))


def normalize(x, gain, bias, config):
    """LayerNorm, arXiv:1607.06450, or RMSNorm, arXiv:1910.07467."""
    if config["model.norm"] == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + config["model.norm_eps"]) * gain
    return x if bias is None else x + bias


def rotate(x, positions, theta):
    """RoPE, arXiv:2104.09864, on halves. x (B, T, H, HS)."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = (positions[:, :, None] * frequency)[:, :, None, :]
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), -1)


def softmax_with_extra_key(q, k, v, mask, bias, extra_key, extra_value):
    """K bias and KV bias, arXiv:2410.10781: one more key for every query, not rotated; without a value it is zero."""
    NH, HS = q.shape[1], q.shape[3]

    def of_heads(row):
        return row.expand(NH, HS).view(1, NH, 1, HS).expand(B, NH, 1, HS)

    k = torch.cat((of_heads(extra_key), k), 2)
    v = torch.cat((torch.zeros_like(v[:, :, :1]) if extra_value is None else of_heads(extra_value), v), 2)
    allowed = torch.cat((torch.ones_like(mask[:, :, :1]), mask), 2)
    bias = torch.cat((torch.zeros_like(bias[..., :1]), bias), 3) if bias.shape[-1] > 1 else bias
    scores = torch.where(allowed[:, None], q @ k.transpose(-1, -2) / math.sqrt(HS) + bias, -math.inf)
    out = torch.softmax(scores, -1) @ v
    compare_with_sdpa(out, q, k, v, bias, allowed, None)
    return out


def compare_with_sdpa(out, q, k, v, bias, mask, extra):
    """Softmax attention again through PyTorch; an extra column is a key of zeros whose additive mask is its logit."""
    additive = torch.where(mask[:, None], bias, -math.inf).expand(-1, q.shape[1], -1, -1)
    if extra is not None:
        additive = torch.cat((extra.view(1, -1, 1, 1).expand(*additive.shape[:3], 1), additive), -1)
        zero = torch.zeros_like(k[:, :, :1])
        k, v = torch.cat((zero, k), 2), torch.cat((zero, v), 2)
    difference = (F.scaled_dot_product_attention(q, k, v, attn_mask=additive) - out).abs().max().item()
    assert difference < 1e-13, f"scaled_dot_product_attention differs by {difference}"


def elu1(x):
    return torch.where(x < 0, x.clamp(max=0).exp(), x + 1)


def weigh(weighting, scores, bias):
    """Weights of every score before the mask, and what a row's sum of visible ones makes its divisor (or None)."""
    def positive(total):
        return total + 1e-8

    match weighting:
        case "sigmoid":  # arXiv:2409.04431
            return torch.sigmoid(scores + bias), None
        case "sigmoid_normalized":  # this and the next: arXiv:2410.10781
            return torch.sigmoid(scores), positive
        case "elu1":
            return elu1(scores), None
        case "elu1_normalized":
            return elu1(scores), positive
        case "linear":
            return scores, None
        case "linear_normalized":
            return scores, lambda total: total.abs().clamp(min=1)
        case "kernel_normalized":  # arXiv:2006.16236
            return torch.relu(scores), positive
        case "relu":  # arXiv:2410.13835
            return torch.relu(scores) * torch.as_tensor(bias).exp(), None
        case "uniform":  # arXiv:2510.11602
            return 0 * scores + 1, lambda total: total  # so that autograd has zeros for what they come from
    raise ValueError(f"no formula for weighting {weighting}")


def attention(q, k, v, mask, config, layer, sink_logit, learned_bias, extra_key, extra_value, key_weight):
    """q (B, NH, T, HS), k, v (B, NH, T, HS): keys already repeated over their query heads."""
    NH, T, HS = q.shape[1:]
    bias = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    if config["model.position"] == "alibi":  # arXiv:2108.12409
        slope = 2.0 ** (-8.0 * torch.arange(1, NH + 1, dtype=torch.float64) / NH)
        bias = -slope.view(1, NH, 1, 1) * (torch.arange(T)[:, None] - torch.arange(T)[None, :]).abs()
    if key_weight is not None:  # no paper's: b_j = w . v_j of each head
        bias = bias + (v * key_weight.view(1, NH, 1, HS)).sum(-1)[:, :, None, :]
    scores = q @ k.transpose(-1, -2) / math.sqrt(HS) + bias
    weighting = config["attention.weighting"]
    if isinstance(weighting, list):
        weighting = weighting[layer % len(weighting)]
    if weighting != "softmax":
        offset = 0.0
        if weighting in BIASED:
            offset = {"none": 0.0, "constant": config["attention.score_bias_value"], "log_n": -math.log(T),
                      "per_row": -mask.sum(-1).double().log()[:, None, :, None],
                      "learned": learned_bias if learned_bias is None else learned_bias.view(1, NH, 1, 1),
                      }[config["attention.score_bias"]]
        weights, divisor = weigh(weighting, scores, offset)
        weights = torch.where(mask[:, None], weights, 0.0)
        if divisor:
            weights = weights / divisor(weights.sum(-1, keepdim=True))
        return weights @ v
    if extra_key is not None:
        return softmax_with_extra_key(q, k, v, mask, bias, extra_key, extra_value)
    scores = torch.where(mask[:, None], scores, -math.inf)
    extra = {"none": None, "learned": sink_logit,
             "constant": torch.full((NH,), config["attention.extra_logit"], dtype=torch.float64)}
    extra = extra[config["attention.extra_column"]]
    if extra is None:
        weights = torch.softmax(scores, -1)
    else:
        column = extra.view(1, NH, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.softmax(torch.cat((column, scores), -1), -1)[..., 1:]
    out = weights @ v
    compare_with_sdpa(out, q, k, v, bias, mask, extra)
    return out


def feed_forward(x, p, block, config):
    def linear(name, value):
        return F.linear(value, p[f"{block}mlp.{name}.weight"], p.get(f"{block}mlp.{name}.bias"))

    hidden = linear("up", x)
    kind = config["model.activation"]
    if kind == "swiglu":  # arXiv:2002.05202
        gate, up = hidden.chunk(2, -1)
        hidden = gate * torch.sigmoid(gate) * up
    elif kind == "gelu":  # the tanh form of arXiv:1606.08415
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden ** 3)))
    else:
        hidden = torch.relu(hidden)
    return linear("down", hidden)


def differential_attention(q, k, v, normed, p, block, layer, mask, config):
    """(B, T, channels) from q (B, NH, T, HS), k and v (B, NKV, T, HS)."""
    NH, HS, T = q.shape[1], q.shape[3], q.shape[2]
    group = NH // k.shape[1]

    def weights(queries, keys):
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(HS)
        return torch.softmax(torch.where(mask, scores, -math.inf), -1)

    heads = []
    if option(config, "attention.differential") == "v1":  # arXiv:2410.05258
        q1, k1, q2, k2 = p[block + "attn.lambda"]
        start = 0.8 - 0.6 * math.exp(-0.3 * layer)
        scale = torch.exp((q1 * k1).sum()) - torch.exp((q2 * k2).sum()) + start
        for pair in range(NH // 2):
            first, second = (weights(q[:, i], k[:, i // group]) for i in (2 * pair, 2 * pair + 1))
            value = 2 * pair // group // 2 * 2  # the first of two value heads that are one
            wide = torch.cat((v[:, value], v[:, value + 1]), -1)
            head = (first - scale * second) @ wide
            head = head / torch.sqrt((head * head).mean(-1, keepdim=True) + config["model.norm_eps"])
            heads.append((1 - start) * head * p[block + "attn.pair_norm.gain"])
    else:
        scale = torch.sigmoid(F.linear(normed, p[block + "attn.lambda.weight"]))
        for pair in range(NH // 2):
            shared = 2 * pair // group
            first, second = (weights(q[:, i], k[:, shared]) @ v[:, shared] for i in (2 * pair, 2 * pair + 1))
            heads.append(first - scale[:, :, pair, None] * second)
    return torch.cat(heads, -1)


def block_forward(x, embedded, p, layer, positions, mask, config):
    NH, NKV, HS = (config["model." + key] for key in ("heads", "kv_heads", "head_size"))
    T = config["T"]
    block = f"blocks.{layer}."
    normed = normalize(x, p[block + "norm1.gain"], p.get(block + "norm1.bias"), config)
    q, k, v = queries_and_keys.queries_keys_values(normed, embedded, positions, p, block, layer, config)
    if config["model.qk_norm"]:  # over each head, before the rotation; always RMSNorm
        rms = config | {"model.norm": "rms"}
        q = normalize(q, p[block + "attn.q_norm.gain"], None, rms)
        k = normalize(k, p[block + "attn.k_norm.gain"], None, rms)
    feature_map = option(config, "attention.feature_map")  # of arXiv:2410.10781
    if feature_map == "mlp":
        up, down = (p[block + f"attn.map.{name}.weight"] for name in ("up", "down"))
        q, k = (torch.relu(value @ up.T) @ down.T for value in (q, k))
    if config["model.position"] == "rope":
        q, k = (rotate(value, positions, config["model.rope_theta"]) for value in (q, k))
    if feature_map == "elu1":
        q, k = F.elu(q) + 1, F.elu(k) + 1
    q, k, v, ungated = gates_and_scales.operands(q, k, v, normed, positions, p, block, config)
    inputs = gates_and_scales.gate_inputs(v, normed, config)
    q, k, v = (value.transpose(1, 2) for value in (q, k, v))
    if option(config, "attention.differential") != "none":
        out = differential_attention(q, k, v, normed, p, block, layer, mask, config)
        return finish_block(x, out, inputs, p, block, config)
    k, v = (value.repeat_interleave(NH // NKV, 1) for value in (k, v))
    virtual = (p.get(block + "attn." + name)
               for name in ("sink_logit", "score_bias", "extra_key", "extra_value", "key_bias"))
    out = attention(q, k, v, mask, config, layer, *virtual).transpose(1, 2)
    out = gates_and_scales.gated("gate", out, gates_and_scales.gate_inputs(ungated, normed, config), p, block, config)
    if option(config, "attention.value_bias"):
        out = out + p[block + "attn.value_bias"]
    return finish_block(x, out.reshape(B, T, NH * HS), inputs, p, block, config)


def finish_block(x, attended, inputs, p, block, config):
    """The output projection, the residual and the feed-forward layer; inputs: what its gate is a map of."""
    branch = F.linear(attended, p[block + "attn.out.weight"], p.get(block + "attn.out.bias"))
    x = x + gates_and_scales.branch(branch, inputs, p, block, config, normalize)
    if config["model.activation"] == "none":
        return x
    return x + feed_forward(normalize(x, p[block + "norm2.gain"], p.get(block + "norm2.bias"), config), p, block, config)


def forward(p, tokens, targets, positions, cu_seqlens, config):
    """loss, logits (B, T, rows) and the stream before and after each block."""
    x = p["wte.weight"][tokens]
    if config["model.position"] == "learned":
        x = x + p["wpe.weight"][positions]
    streams = [x]
    for layer in range(config["model.layers"]):
        mask = visible(config, cu_seqlens, layer)
        streams.append(block_forward(streams[-1], x, p, layer, positions, mask, config))
    x = normalize(streams[-1], p["final_norm.gain"], p.get("final_norm.bias"), config)
    logits = F.linear(x, p["wte.weight"] if config["model.tied"] else p["lm_head.weight"])
    scored = targets >= 0
    lse = torch.logsumexp(logits, -1)[scored]
    nll = lse - logits[scored].gather(1, targets[scored][:, None])[:, 0]
    return (nll + config["loss.z_loss"] * lse * lse).mean(), logits, streams


def decorrelation(streams, targets, positions, config):
    """Mean over blocks of the sum of squared cosines between tokens and their document's first, per scored position."""
    places = positions.flatten()
    total = 0
    for stream in streams[:config["model.layers"]]:
        h = stream.flatten(0, 1)
        first = h[torch.arange(len(places)) - places].detach()
        total = total + (F.cosine_similarity(h, first, 1) ** 2)[places > 0].sum()
    return total / (config["model.layers"] * (targets >= 0).sum())


def write_fixture(name, config, generator):
    p = random_parameters(config, generator)
    tokens, targets, positions, cu_seqlens = random_batch(config, generator)
    loss, logits, streams = forward(p, tokens, targets, positions, cu_seqlens, config)
    for stream in streams:
        stream.retain_grad()
    auxiliary = decorrelation(streams, targets, positions, config)
    (loss + option(config, "loss.bos_decorrelation") * auxiliary).backward()

    tensors = [(key, "param", value) for key, value in p.items()]
    tensors += [(key, "grad", value.grad) for key, value in p.items()]
    tensors.append(("logits", "logits", logits))
    if name in WITH_BLOCK_0:
        tensors += [("blocks.0", "block_in", streams[0]), ("blocks.0", "block_out", streams[1]),
                    ("blocks.0", "block_dout", streams[1].grad), ("blocks.0", "block_din", streams[0].grad)]
    rows, data = [], b""
    for key, kind, value in tensors:
        assert value.dtype == torch.float64 and bool(torch.isfinite(value).all()), key
        rows.append({"name": key, "kind": kind, "shape": list(value.shape), "offset": len(data) // 8})
        data += value.detach().contiguous().numpy().astype("<f8").tobytes()
    header = {"config": config, "B": B, "T": config["T"], "dtype": "float64", "loss": loss.item(),
              "tokens": tokens.flatten().tolist(), "targets": targets.flatten().tolist(),
              "positions": positions.flatten().tolist(), "cu_seqlens": cu_seqlens}
    if "loss.bos_decorrelation" in config:
        header["decorrelation"] = auxiliary.item()
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    lines.append(' "tensors": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]")
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    (HERE / f"{name}.bin").write_bytes(data)
    print(f"{name}: loss {loss.item():.6f}, {len(data)} bytes")
    return len(data)


def main():
    torch.set_num_threads(1)
    total = 0
    for number, (name, changes) in enumerate(FIXTURES.items()):
        unknown = changes.keys() - BASE.keys() - OPTIONAL.keys()
        unknown -= gates_and_scales.OPTIONAL.keys() | queries_and_keys.OPTIONAL.keys()
        assert not unknown, unknown
        seed = SEED + number if number < NUMBERED else zlib.crc32(name.encode())
        total += write_fixture(name, BASE | changes, torch.Generator().manual_seed(seed))
    print(f"{len(FIXTURES)} fixtures, {total} bytes of tensors")


if __name__ == "__main__":
    main()
