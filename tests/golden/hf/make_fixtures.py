#!/usr/bin/env python3
"""Writes the fixtures of this folder: tiny models of Hugging Face's transformers with random weights, as that library
saves them, and the logits it computes in fp32, for tests/train/hf_test.cpp.

The two gated ones are computed by the formulas of Qiu et al. (arXiv:2505.06708) in the layout of their released models,
since transformers' own Qwen3 has no gate: a projection of queries holds, for each group of heads that share a key head,
the queries of the group and then its gates.

usage: make_fixtures.py     (needs torch, transformers, safetensors)
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
IDS = 20
VOCAB = 40
SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCAB,
             max_position_embeddings=32, bos_token_id=None, eos_token_id=None)


def models():
    """name -> (model, dtype of the file, largest shard)"""
    t = transformers
    yield "llama", t.LlamaForCausalLM(t.LlamaConfig(**SMALL, num_key_value_heads=2, head_dim=6, attention_bias=True,
                                                    mlp_bias=True, tie_word_embeddings=False,
                                                    rope_theta=500.0)), torch.float32, "1GB"
    yield "mistral", t.MistralForCausalLM(t.MistralConfig(**SMALL, num_key_value_heads=1, sliding_window=5,
                                                          tie_word_embeddings=True)), torch.bfloat16, "1GB"
    yield "qwen2", t.Qwen2ForCausalLM(t.Qwen2Config(**SMALL, num_key_value_heads=2,
                                                    tie_word_embeddings=False)), torch.float16, "4KB"
    yield "qwen3", t.Qwen3ForCausalLM(t.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8,
                                                    tie_word_embeddings=True)), torch.float32, "1GB"
    yield "gpt2", t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=32,
                                                 vocab_size=VOCAB, bos_token_id=None,
                                                 eos_token_id=None)), torch.float32, "1GB"


def randomize(parameters):
    """Every parameter random, biases and gains too: none can be mistaken for another."""
    generator = torch.Generator().manual_seed(5)
    for name, value in sorted(parameters.items()):
        noise = torch.randn(value.shape, generator=generator)
        gain = "norm" in name and name.endswith("weight") or ".ln_" in name and name.endswith("weight")
        value.data.copy_((1 + 0.3 * noise) if gain else 0.3 * noise)


def write_logits(folder, ids, logits):
    (folder / "logits.json").write_text(json.dumps({
        "transformers": transformers.__version__, "ids": ids, "logits": [[float(f"{x:.9g}") for x in row]
                                                                         for row in logits.double().tolist()]}) + "\n")


def rms(x, gain, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def rotate(x, theta):
    """x (T, heads, HS): rotate-half."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[0])[:, None] * theta ** (-torch.arange(half) * 2.0 / x.shape[-1])
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def gated_logits(w, c, ids):
    H, K, D = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    group, T, eps = H // K, len(ids), c["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = rms(x, w[p + "input_layernorm.weight"], eps)
        fused = (h @ w[p + "self_attn.q_proj.weight"].T).view(T, K, -1)
        q, gate = fused[..., :group * D].reshape(T, H, D), fused[..., group * D:].reshape(T, H, -1)
        k = (h @ w[p + "self_attn.k_proj.weight"].T).view(T, K, D)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).view(T, K, D)
        if c["use_qk_norm"]:
            q, k = rms(q, w[p + "self_attn.q_norm.weight"], eps), rms(k, w[p + "self_attn.k_norm.weight"], eps)
        q, k = rotate(q, c["rope_theta"]), rotate(k, c["rope_theta"])
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / D ** 0.5
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        y = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v) * gate.sigmoid()
        x = x + y.reshape(T, -1) @ w[p + "self_attn.o_proj.weight"].T
        h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
        h = torch.nn.functional.silu(h @ w[p + "mlp.gate_proj.weight"].T) * (h @ w[p + "mlp.up_proj.weight"].T)
        x = x + h @ w[p + "mlp.down_proj.weight"].T
    return rms(x, w["model.norm.weight"], eps) @ w["model.embed_tokens.weight"].T


def write_gated(kind, qk_norm, ids):
    H, K, D, C, F = 4, 2, 6, 16, 24
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_hidden_layers": 2, "hidden_size": C,
              "intermediate_size": F, "num_attention_heads": H, "num_key_value_heads": K, "head_dim": D,
              "hidden_act": "silu", "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
              "tie_word_embeddings": True, "vocab_size": VOCAB, "use_qk_norm": qk_norm, "qkv_bias": False,
              "headwise_attn_output_gate": kind == "headwise", "elementwise_attn_output_gate": kind == "elementwise"}
    gates = H if kind == "headwise" else H * D
    w = {"model.embed_tokens.weight": torch.empty(VOCAB, C), "model.norm.weight": torch.empty(C)}
    for layer in range(2):
        p = f"model.layers.{layer}."
        w[p + "self_attn.q_proj.weight"] = torch.empty(H * D + gates, C)
        for name in ("k", "v"):
            w[p + f"self_attn.{name}_proj.weight"] = torch.empty(K * D, C)
        w[p + "self_attn.o_proj.weight"] = torch.empty(C, H * D)
        for name in ("q_norm", "k_norm") if qk_norm else ():
            w[p + f"self_attn.{name}.weight"] = torch.empty(D)
        for name in ("input_layernorm", "post_attention_layernorm"):
            w[p + f"{name}.weight"] = torch.empty(C)
        for name, shape in (("gate", (F, C)), ("up", (F, C)), ("down", (C, F))):
            w[p + f"mlp.{name}_proj.weight"] = torch.empty(shape)
    randomize(w)
    folder = HERE / f"gated_{kind}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(w, folder / "model.safetensors", {"format": "pt"})
    write_logits(folder, ids, gated_logits(w, config, ids))


def main():
    ids = torch.randint(0, VOCAB, (IDS,), generator=torch.Generator().manual_seed(3)).tolist()
    for folder in HERE.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    for name, model, dtype, shard in models():
        model.eval()
        randomize(dict(model.named_parameters()))
        folder = HERE / name
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        # What the file holds, computed in fp32: the model itself now has RoPE's wavelengths rounded too.
        model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        (folder / "generation_config.json").unlink(missing_ok=True)
        with torch.no_grad():
            write_logits(folder, ids, model(torch.tensor([ids])).logits[0])
    write_gated("headwise", False, ids)
    write_gated("elementwise", True, ids)
    for folder in sorted(HERE.iterdir()):
        for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            print(folder.name, file.name, sum(v.numel() for v in load_file(file).values()), "elements")


if __name__ == "__main__":
    main()
