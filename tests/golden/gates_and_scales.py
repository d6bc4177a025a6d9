"""Gates, temperatures, norms and scales of the attention branch, in PyTorch from the papers, for make_fixtures.py."""

import torch
import torch.nn.functional as F

# What configurations have that do not name them: a new key here leaves the files of older fixtures alone.
OPTIONAL = {
    "attention.gate_value": "none", "attention.gate_key": "none", "attention.gate_query": "none",
    "attention.gate_projection": "none", "attention.gate_input": "block", "attention.gate_function": "sigmoid",
    "attention.gate_combination": "multiply", "attention.gate_bias": False, "attention.gate_start": 0.0,
    "attention.query_temperature": "none", "attention.value_temperature": "none",
    "attention.post_norm": False, "attention.layer_scale": 0.0,
}
FIXTURES = {
    "gate_value_gqa": {"attention.gate_value": "elementwise", "attention.gate": "elementwise", "model.heads": 4,
                       "model.kv_heads": 2, "model.head_size": 6, "T": 11},
    "gate_key_query": {"attention.gate_key": "headwise", "attention.gate_query": "shared",
                       "attention.gate_function": "half_sigmoid", "model.heads": 3, "model.kv_heads": 1},
    "gate_projection_bias": {"attention.gate_projection": "elementwise", "attention.gate": "headwise",
                             "attention.gate_bias": True, "attention.gate_start": 4.0, "T": 9},
    "gate_silu_add": {"attention.gate": "headwise", "attention.gate_value": "shared", "attention.gate_function": "silu",
                      "attention.gate_combination": "add", "attention.gate_projection": "headwise"},
    "gate_constant": {"attention.gate": "constant_headwise", "attention.gate_value": "constant_elementwise",
                      "attention.gate_projection": "constant_headwise", "model.activation": "gelu",
                      "model.norm": "layer", "model.position": "learned", "model.bias": True, "model.qk_norm": False},
    "gate_of_values_gqa": {"attention.gate_input": "value", "attention.gate_value": "elementwise",
                           "attention.gate": "headwise", "attention.gate_bias": True, "attention.value_temperature": "token",
                           "model.heads": 4, "model.kv_heads": 2, "model.head_size": 6, "T": 11},
    "head_mixture": {"attention.gate": "headwise", "attention.gate_function": "softmax", "model.heads": 4,
                     "model.kv_heads": 4, "model.head_size": 4, "attention.weighting": "sigmoid",
                     "attention.score_bias": "log_n"},
    "temperatures": {"attention.query_temperature": "both", "attention.value_temperature": "both", "model.heads": 4,
                     "model.kv_heads": 2, "model.head_size": 6, "attention.placeholders": 2, "T": 12},
    "temperature_position": {"attention.query_temperature": "position", "attention.value_temperature": "token",
                             "attention.gate_query": "elementwise", "model.qk_norm": False, "T": 11},
    "post_norm_sigmoid": {"attention.post_norm": True, "attention.weighting": "sigmoid",
                          "attention.score_bias": "none"},
    "post_norm_layer_scale": {"attention.post_norm": True, "attention.layer_scale": 1e-4, "model.norm": "layer",
                              "attention.gate_projection": "elementwise"},
}
SMALL = ("temperature.alpha", "layer_scale")  # parameters of order one whatever their shape


def option(config, key):
    return config.get("attention." + key, OPTIONAL.get("attention." + key))


def shapes(config, block):
    """Names and shapes of a block's parameters, in the order of plimsoll's table."""
    C, NH, NKV, HS = (config["model." + key] for key in ("channels", "heads", "kv_heads", "head_size"))
    all_shapes = {}
    for name, heads in (("query_temperature", NH), ("value_temperature", NKV)):
        if option(config, name) in ("token", "both"):
            all_shapes[f"{block}attn.{name}.weight"] = (heads, C)
        if option(config, name) in ("position", "both"):
            all_shapes[f"{block}attn.{name}.alpha"] = (heads,)
    for name, heads, size in (("gate", NH, HS), ("gate_value", NKV, HS), ("gate_key", NKV, HS), ("gate_query", NH, HS),
                              ("gate_projection", 1, C)):
        kind = option(config, name)
        if kind == "none":
            continue
        rows = {"headwise": (heads, 1), "elementwise": (heads, size), "shared": (1, size)}[kind.split("_")[-1]]
        if kind.startswith("constant"):
            all_shapes[f"{block}attn.{name}.constant"] = rows
            continue
        inputs = NKV * HS if option(config, "gate_input") == "value" else C
        all_shapes[f"{block}attn.{name}.weight"] = (rows[0] * rows[1], inputs)
        if option(config, "gate_bias"):
            all_shapes[f"{block}attn.{name}.bias"] = (rows[0] * rows[1],)
    if option(config, "post_norm"):
        all_shapes[block + "attn.post_norm.gain"] = (C,)
        if config["model.norm"] == "layer":
            all_shapes[block + "attn.post_norm.bias"] = (C,)
    if option(config, "layer_scale"):
        all_shapes[block + "attn.layer_scale"] = (C,)
    return all_shapes


def gated(name, y, inputs, p, block, config):
    """y (B, T, heads, size) behind the gate of this name, arXiv:2505.06708; softmax: arXiv:2410.11842.

    inputs (B, T, channels): what the gate is a map of.
    """
    kind = option(config, name)
    if kind == "none":
        return y
    heads, size = y.shape[2:]
    rows = {"headwise": (heads, 1), "elementwise": (heads, size), "shared": (1, size)}[kind.split("_")[-1]]
    if kind.startswith("constant"):
        z = p[f"{block}attn.{name}.constant"]
    else:
        z = F.linear(inputs, p[f"{block}attn.{name}.weight"], p.get(f"{block}attn.{name}.bias"))
        z = z.view(*inputs.shape[:2], *rows)
    function = option(config, "gate_function")
    gate = {"sigmoid": torch.sigmoid, "half_sigmoid": lambda x: (1 + torch.sigmoid(x)) / 2, "silu": F.silu,
            "softmax": lambda x: heads * torch.softmax(x, 2)}[function](z)
    return y + gate if option(config, "gate_combination") == "add" else y * gate


def tempered(name, x, normed, positions, p, block, config):
    """x (B, T, heads, size) times its temperatures, arXiv:2411.12892."""
    if option(config, name) == "none":
        return x
    tau = torch.ones(*x.shape[:3], dtype=x.dtype)
    if option(config, name) in ("token", "both"):
        tau = tau + torch.tanh(normed @ p[f"{block}attn.{name}.weight"].T)
    if option(config, name) in ("position", "both"):
        tau = tau + torch.sigmoid(p[f"{block}attn.{name}.alpha"]) * torch.log1p(positions.double())[:, :, None]
    return x * tau[..., None]


def gate_inputs(v, normed, config):
    """What gates are maps of: normed (B, T, C), or with arXiv:2510.09017 values v (B, T, heads, size)."""
    return v.flatten(2) if option(config, "gate_input") == "value" else normed


def operands(q, k, v, normed, positions, p, block, config):
    """Queries, keys and values (B, T, heads, size) as attention reads them, and the values before their gate."""
    q = tempered("query_temperature", q, normed, positions, p, block, config)
    ungated = tempered("value_temperature", v, normed, positions, p, block, config)
    v = gated("gate_value", ungated, gate_inputs(ungated, normed, config), p, block, config)
    inputs = gate_inputs(v, normed, config)
    k = gated("gate_key", k, inputs, p, block, config)
    return gated("gate_query", q, inputs, p, block, config), k, v, ungated


def branch(x, inputs, p, block, config, normalize):
    """The attention branch (B, T, C) as the stream gains it; inputs: the gate's."""
    x = gated("gate_projection", x[:, :, None], inputs, p, block, config)[:, :, 0]
    if option(config, "post_norm"):  # arXiv:2409.04431
        x = normalize(x, p[block + "attn.post_norm.gain"], p.get(block + "attn.post_norm.bias"), config)
    if option(config, "layer_scale"):  # arXiv:2103.17239
        x = x * p[block + "attn.layer_scale"]
    return x
