#!/usr/bin/env python3
"""PyTorch and plimsoll on this machine's GPU, side by side: core attention, and whole training steps.

    scripts/bench/gpu_peer.py attention --json attention.json
    scripts/bench/gpu_peer.py steps --shapes gpt2-b32,gpt2-b64 --json steps.json

attention: PyTorch's SDPA by FlashAttention and by cuDNN, and FlexAttention (compiled; sigmoid and a sink logit, which
SDPA does not have), against `plimsoll bench --attention`: causal, bf16, forward and backward, best of some runs.
steps: torch.compile (max-autotune, bf16 autocast over fp32 parameters, fused AdamW) with either SDPA, against `plimsoll
bench --step`, taking turns. Best means best for both sides. Then where plimsoll's step spends its time, class by class, beside
what the hardware allows (step_breakdown.py). The card's settings are left alone.

Exit status: 0 everything measured; 1 something failed, or plimsoll is missing; 2 wrong usage.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peer_rows  # noqa: E402
import step_breakdown  # noqa: E402
import torch_step  # noqa: E402
from processes import Failure, run_json  # noqa: E402

_ROOT = Path(__file__).resolve().parents[2]
ATTENTION_SHAPES = ("32x1024x12x12x64", "8x2048x32x4x64", "2x8192x32x4x64", "4x4096x16x16x128", "1x16384x16x16x128")
_GPT2 = peer_rows.SHAPES["gpt2-t64"]
_LLAMA = dict(layers=22, channels=2048, heads=32, kv_heads=4, ffn=5632, vocab=32000)
STEP_SHAPES = {
    "gpt2-b32": _GPT2 | dict(T=1024, B=32),
    "gpt2-b64": _GPT2 | dict(T=1024, B=64),
    "llama-1b-t2048": _LLAMA | dict(T=2048, B=8),
    "llama-1b-t8192": _LLAMA | dict(T=8192, B=2),
}
BACKENDS = ("flash", "cudnn")
_WARM_UP = 5


# The PyTorch side, in a process of its own ---------------------------------------------------------------------------

def _sdpa(backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    return sdpa_kernel({"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[backend])


def _milliseconds(work, runs):
    """Best of `runs`, by the GPU's clock, each of ten calls."""
    import torch
    for _ in range(_WARM_UP):
        work()
    best = float("inf")
    for _ in range(runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            work()
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 10)
    return best


def sizes_of(shape):
    """-> (B, T, NH, NKV, HS), whether every query sees every key"""
    sizes, _, kind = shape.partition(":")
    return tuple(map(int, sizes.split("x"))), kind == "full"


def _attention_function(row, T, full):
    """(q, k, v) -> out for a row of the table."""
    import torch
    import torch.nn.functional as F
    if row in BACKENDS:
        def attend(q, k, v):
            with _sdpa(row):
                return F.scaled_dot_product_attention(q, k, v, is_causal=not full, enable_gqa=q.shape[1] != k.shape[1])
        return attend
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    mask = create_block_mask(lambda b, h, i, j: (i >= j) | full, None, None, T, T, device="cuda")
    compiled = torch.compile(flex_attention)
    if row == "flex":
        return lambda q, k, v: compiled(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    if row == "flex-sigmoid":
        return _sigmoid_attention(compiled, mask, T)

    def attend(q, k, v):  # a learned sink logit: scale by sigmoid(lse - sink)
        out, lse = compiled(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1], return_lse=True)
        return out * torch.sigmoid(lse)[..., None].to(out.dtype)
    return attend


def _sigmoid_attention(flex, mask, T):
    """Sigmoid attention with bias -log T, by softmax of log-sigmoids times the sum of their exponentials."""
    import torch

    def log_weight(score, b, h, i, j):
        return torch.nn.functional.logsigmoid(score - math.log(T))

    def attend(q, k, v):
        out, lse = flex(q, k, v, score_mod=log_weight, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1],
                        return_lse=True)
        return out * torch.exp(lse)[..., None].to(out.dtype)
    return attend


def attention_milliseconds(shape, row, runs):
    """{"forward", "backward"} of a row of PyTorch's, in ms."""
    import torch
    (B, T, NH, NKV, HS), full = sizes_of(shape)
    torch.manual_seed(1)
    q, k, v = (torch.randn(B, heads, T, HS, device="cuda", dtype=torch.bfloat16, requires_grad=True)
               for heads in (NH, NKV, NKV))
    attend = _attention_function(row, T, full)
    out = attend(q, k, v)
    grad = torch.randn_like(out)
    with torch.no_grad():
        forward = _milliseconds(lambda: attend(q, k, v), runs)
    out = attend(q, k, v)
    backward = _milliseconds(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True), runs)
    return {"forward": forward, "backward": backward}


def _attention_worker(shape, row, runs):
    import torch
    print(json.dumps(attention_milliseconds(shape, row, runs) | {"torch": torch.__version__}))


def _build_llama(shape):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    C, NH, NKV, FF, T = shape["channels"], shape["heads"], shape["kv_heads"], shape["ffn"], shape["T"]
    HS = C // NH

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(C), nn.RMSNorm(C)
            self.qkv, self.out = nn.Linear(C, (NH + 2 * NKV) * HS, bias=False), nn.Linear(C, C, bias=False)
            self.up, self.down = nn.Linear(C, 2 * FF, bias=False), nn.Linear(FF, C, bias=False)

        def forward(self, x, cos, sin):
            B = x.shape[0]
            q, k, v = (y.view(B, T, -1, HS).transpose(1, 2)
                       for y in self.qkv(self.norm1(x)).split([NH * HS, NKV * HS, NKV * HS], 2))
            def rotate(y):
                a, b = y.chunk(2, -1)
                return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(y.dtype)
            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=True)
            x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
            gate, up = self.up(self.norm2(x)).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(shape["vocab"], C)
            self.blocks = nn.ModuleList(Block() for _ in range(shape["layers"]))
            self.final_norm, self.head = nn.RMSNorm(C), nn.Linear(C, shape["vocab"], bias=False)
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=0.02)
            angles = torch.outer(torch.arange(T), 1e4 ** (-torch.arange(0, HS, 2) / HS))
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)

        def forward(self, tokens, targets):
            x = self.wte(tokens)
            for block in self.blocks:
                x = block(x, self.cos, self.sin)
            logits = self.head(self.final_norm(x))
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    return Model()


def _step_worker(shape_name, backend, steps):
    import torch
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    shape = STEP_SHAPES[shape_name]
    with torch.device("cuda"):
        model = _build_llama(shape) if "kv_heads" in shape else torch_step.build_model(shape)
        tokens, targets = torch.randint(0, shape["vocab"], (2, shape["B"], shape["T"]))
    compiled = torch.compile(model, mode="max-autotune-no-cudagraphs")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    times = []
    with _sdpa(backend), torch.device("cuda"):
        for _ in range(_WARM_UP + steps):
            torch.cuda.synchronize()
            start = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16):
                loss = compiled(tokens, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"ms": min(times[_WARM_UP:]), "loss": loss.item(), "torch": torch.__version__}))


# Both sides, from outside --------------------------------------------------------------------------------------------

def _worker(kind, shape, row, runs):
    return run_json([sys.executable, os.path.abspath(__file__), kind, "--worker", "--shapes", shape, "--rows", row,
                      "--runs", str(runs)], dict(os.environ))


def _plimsoll(path, *options):
    return run_json([path, "bench", "--device", "cuda", "--precision", "bf16", "--json", *options], dict(os.environ))


def attention_flops(shape):
    """Forward; the visible scores, two products."""
    (B, T, NH, _, HS), full = sizes_of(shape)
    return 4 * B * NH * HS * T * (T if full else (T + 1) / 2)


def measure_attention(shapes, rows, plimsoll, runs, say):
    """[{"shape", "row", "forward", "backward"} in ms, or "error"]."""
    entries = []
    for shape in shapes:
        for row in rows:
            entry = {"shape": shape, "row": f"torch {row}"}
            try:
                entry |= {key: value for key, value in _worker("attention", shape, row, runs).items() if key != "torch"}
            except Failure as failure:
                entry["error"] = str(failure)
            entries.append(entry)
            say(entry)
        if not plimsoll:
            continue
        try:
            by_variant = {}
            for kernel in _plimsoll(plimsoll, "--attention", shape)["attention"]:
                side = kernel["kernel"].removeprefix("attention_")
                by_variant.setdefault(kernel["shape"].split()[0], {})[side] = kernel["ms"]
            entries += [{"shape": shape, "row": f"plimsoll {name}", **ms} for name, ms in by_variant.items()]
        except Failure as failure:
            entries.append({"shape": shape, "row": "plimsoll", "error": str(failure)})
        say(entries[-1])
    return entries


def attention_table(entries):
    lines = ["| B x T x NH x NKV x HS | row | forward ms | TFLOP/s | backward ms | TFLOP/s |", "|---|---|---:|---:|---:|---:|"]
    for entry in entries:
        if "error" in entry:
            lines.append(f"| {entry['shape']} | {entry['row']} | failed: {entry['error']} | | | |")
            continue
        flops = attention_flops(entry["shape"])
        lines.append(f"| {entry['shape']} | {entry['row']} | {entry['forward']:.3f} | {flops / entry['forward'] / 1e9:.0f} | "
                     f"{entry['backward']:.3f} | {2.5 * flops / entry['backward'] / 1e9:.0f} |")
    return "\n".join(lines)


def measure_steps(shapes, rows, plimsoll, runs, say, options=()):
    """[{"shape", "row", "ms"} or "error"]; plimsoll, with "ops", is measured after each PyTorch row, its best counts."""
    entries = []
    for shape in shapes:
        own = {"shape": shape, "row": "plimsoll"}
        for row in rows or [None]:
            if row:
                entry = {"shape": shape, "row": f"torch.compile {row}"}
                try:
                    entry["ms"] = _worker("steps", shape, row, runs)["ms"]
                except Failure as failure:
                    entry["error"] = str(failure)
                entries.append(entry)
                say(entry)
            if not plimsoll:
                continue
            try:
                answer = _plimsoll(plimsoll, "--step", shape, "--steps", str(runs), "--breakdown", *options)
                if answer["ms_per_step"] < own.get("ms", float("inf")):
                    own |= {"ms": answer["ms_per_step"], "ops": answer.get("ops", [])}
            except Failure as failure:
                own["error"] = str(failure)
            say(own)
        if plimsoll:
            entries.append(own)
    return entries


def steps_table(entries):
    """Markdown; a ratio above 1 means that plimsoll is faster than PyTorch's best row."""
    lines = ["| shape | row | ms/step | tokens/s | MFU | plimsoll/best torch |", "|---|---|---:|---:|---:|---:|"]
    for entry in entries:
        if "ms" not in entry:
            lines.append(f"| {entry['shape']} | {entry['row']} | failed: {entry.get('error')} | | | |")
            continue
        shape = STEP_SHAPES[entry["shape"]]
        peers = [other["ms"] for other in entries
                 if other["shape"] == entry["shape"] and other["row"] != "plimsoll" and "ms" in other]
        ratio = f"{min(peers) / entry['ms']:.2f}x" if entry["row"] == "plimsoll" and peers else "-"
        lines.append(f"| {entry['shape']} | {entry['row']} | {entry['ms']:.1f} | "
                     f"{1e3 * shape['B'] * shape['T'] / entry['ms']:,.0f} | "
                     f"{100 * step_breakdown.mfu(shape, entry['ms']):.1f} % | {ratio} |")
    for entry in entries:
        if entry.get("ops"):
            lines += ["", step_breakdown.table(entry["shape"], STEP_SHAPES[entry["shape"]], entry)]
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("attention", "steps"))
    parser.add_argument("--shapes", help="comma-separated; default: all")
    parser.add_argument("--rows", help="PyTorch's rows, comma-separated; default: all")
    parser.add_argument("--runs", type=int, default=5, help="measurements; the best counts (default 5)")
    parser.add_argument("--plimsoll", default=str(_ROOT / "build-cuda/plimsoll"), metavar="PATH")
    parser.add_argument("--gemm-cache", metavar="FILE", help="steps: where plimsoll keeps the fastest algorithms")
    parser.add_argument("--torch-only", action="store_true", help="leave plimsoll out")
    parser.add_argument("--json", metavar="OUT", help="also write every number to this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    legal = ATTENTION_SHAPES if a.what == "attention" else tuple(STEP_SHAPES)
    shapes = a.shapes.split(",") if a.shapes else list(legal)
    rows = a.rows.split(",") if a.rows else [*BACKENDS, "flex", "flex-sigmoid", "flex-sink"] if a.what == "attention" else list(BACKENDS)
    if a.what == "steps" and not set(shapes) <= set(legal):
        parser.error(f"--shapes {a.shapes}: the shapes of steps are {', '.join(legal)}")
    if a.worker:
        (_attention_worker if a.what == "attention" else _step_worker)(shapes[0], rows[0], a.runs)
        return 0
    if importlib.util.find_spec("torch") is None:
        print("gpu_peer: PyTorch is not installed for this Python: only plimsoll is measured", file=sys.stderr)
        rows = []
    plimsoll = None if a.torch_only else a.plimsoll
    if plimsoll and not os.access(plimsoll, os.X_OK):
        print(f"gpu_peer: there is no program at '{plimsoll}'; scripts/gpu_check.sh builds it, or name it with --plimsoll",
              file=sys.stderr)
        return 1
    say = lambda entry: print(entry, file=sys.stderr, flush=True)  # noqa: E731
    if a.what == "attention":
        entries = measure_attention(shapes, rows, plimsoll, a.runs, say)
        print(attention_table(entries))
    else:
        options = ("--gemm-cache", a.gemm_cache) if a.gemm_cache else ()
        entries = measure_steps(shapes, rows, plimsoll, a.runs, say, options)
        print(steps_table(entries))
    if a.json:
        Path(a.json).write_text(json.dumps(entries, indent=1) + "\n")
    return 1 if any("error" in entry for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main())
