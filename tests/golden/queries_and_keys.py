"""What queries and keys are mapped from and by, in PyTorch from the papers, for make_fixtures.py."""

import math

import torch
import torch.nn.functional as F

# What configurations have that do not name them: a new key here leaves the files of older fixtures alone.
OPTIONAL = {"attention.qk_source": "input", "attention.query_key": "separate"}
FIXTURES = {
    "static_embedding_gpt2": {"attention.qk_source": ["input", "embedding", "embedding"], "model.layers": 3,
                              "model.activation": "gelu", "model.norm": "layer", "model.position": "learned",
                              "model.bias": True, "model.qk_norm": False, "T": 9},
    "fixed_position_gqa": {"attention.qk_source": "position", "attention.placeholders": 1, "model.layers": 2,
                           "model.heads": 4, "model.kv_heads": 2, "model.head_size": 6, "T": 12},
    "merged_qk_one_head": {"attention.query_key": "merged", "model.heads": 1, "model.kv_heads": 1,
                           "model.head_size": 16, "model.activation": "none", "model.layers": 2, "T": 11},
    "merged_qk_heads": {"attention.query_key": "merged", "attention.qk_source": ["embedding", "position"],
                        "model.layers": 2, "model.bias": True, "model.qk_norm": False, "T": 9},
    "symmetric_qk": {"attention.query_key": "symmetric", "attention.qk_source": ["input", "embedding"],
                     "model.layers": 2, "model.bias": True, "T": 10},
}
WORD = 0xFFFFFFFF


def option(config, key, layer=0):
    value = config.get("attention." + key, OPTIONAL["attention." + key])
    return value[layer % len(value)] if isinstance(value, list) else value


def mapped_heads(config):
    """Heads of queries, keys and values that have rows in attn.qkv."""
    NH, NKV = config["model.heads"], config["model.kv_heads"]
    return (NH, NKV, NKV) if option(config, "query_key") == "separate" else (NH, 0, NKV)


def name_hash(text):  # FNV-1a, 64 bit
    value = 0xCBF29CE484222325
    for character in text.encode():
        value = (value ^ character) * 0x100000001B3 % 2**64
    return value


def philox(index, key):
    """Philox4x32-10 of Salmon et al., SC 2011."""
    counter, key = [index & WORD, index >> 32, 0, 0], list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [second >> 32 ^ counter[1] ^ key[0], second & WORD, first >> 32 ^ counter[3] ^ key[1], first & WORD]
        key = [(key[0] + 0x9E3779B9) & WORD, (key[1] + 0xBB67AE85) & WORD]
    return counter


def position_vectors(rows, channels):
    """(rows, channels) of N(0, 1) by Box-Muller from the stream named "position vectors" of seed 0."""
    mixed = name_hash("position vectors") ^ name_hash("") * 0xFF51AFD7ED558CCD % 2**64
    values = []
    for index in range(rows * channels):
        a, b, c, d = philox(index, (mixed & WORD, mixed >> 32))
        first, second = ((a | b << 32) >> 11) + 1, (c | d << 32) >> 11
        values.append(math.sqrt(-2 * math.log(first * 2.0**-53)) * math.cos(2 * math.pi * second * 2.0**-53))
    return torch.tensor(values, dtype=torch.float64).view(rows, channels)


def queries_keys_values(normed, embedded, positions, p, block, layer, config):
    """q (B, T, NH, HS), k and v (B, T, NKV, HS), before QK-norm. Sources: arXiv:2510.11602; maps: arXiv:2410.13732."""
    NH, NKV, HS = (config["model." + key] for key in ("heads", "kv_heads", "head_size"))
    weight, bias = p[block + "attn.qkv.weight"], p.get(block + "attn.qkv.bias")
    source = option(config, "qk_source", layer)
    if source == "input" and option(config, "query_key") == "separate":
        qkv = F.linear(normed, weight, bias)
        return qkv.view(*normed.shape[:2], NH + 2 * NKV, HS).split((NH, NKV, NKV), 2)
    vectors = {"input": lambda: normed, "embedding": lambda: embedded,
               "position": lambda: position_vectors(config["T"], config["model.channels"])[positions]}[source]()
    of_queries, of_keys, _ = mapped_heads(config)
    split = (of_queries + of_keys) * HS
    qk = F.linear(vectors, weight[:split], None if bias is None else bias[:split])
    v = F.linear(normed, weight[split:], None if bias is None else bias[split:])
    q = qk[..., :NH * HS]
    k = {"separate": qk[..., NH * HS:], "merged": vectors, "symmetric": q}[option(config, "query_key")]
    return tuple(value.reshape(*value.shape[:2], heads, HS) for value, heads in ((q, NH), (k, NKV), (v, NKV)))
