#!/usr/bin/env python3
"""Times training steps of PyTorch and of plimsoll on this machine's CPU, side by side.

    scripts/bench/torch_peer.py --shapes gpt2-t64,bb3 --json peer.json

Every measurement is a process of its own, and the two programs take turns, so that a busy machine slows both. A step is
forward, backward and AdamW (fused in PyTorch), without clipping, on one fixed batch; the best step counts. Each PyTorch
row is measured with glibc's default allocator and with GLIBC_TUNABLES=glibc.malloc.hugetlb=1, which saves it most page
faults. Best means best for both sides: only ratios to the best PyTorch row are claims.

Exit status: 0 everything measured; 1 something failed, or torch or plimsoll is missing; 2 wrong usage.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_GPT2 = dict(layers=12, channels=768, heads=12, vocab=50304, activation="gelu", bias=True, tied=True)  # 50257, padded
_BB = dict(layers=1, channels=256, heads=1, vocab=67, activation="gelu", bias=True, tied=True, T=256, B=512)
# B sequences of T tokens per step. LayerNorm before each part, learned positions and a feed-forward of 4 C everywhere.
SHAPES = {
    "gpt2-t64": _GPT2 | dict(T=64, B=4),
    "gpt2-t256": _GPT2 | dict(T=256, B=4),
    "bb1": _BB,
    "bb3": _BB | dict(layers=3, B=64),
    "bb1-relu": _BB | dict(activation="relu", bias=False, tied=False),
}
ROWS = ("eager-fp32", "eager-bf16", "compiled-fp32", "compiled-bf16")
QUICK = dict(shapes=("gpt2-t64", "bb3"), rows=("eager-fp32", "eager-bf16"), steps=2)
_WARM_UP_STEPS = 2
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_TIMEOUT_SECONDS = 3600


class Failure(Exception):
    """A measurement that gave no number; the message says why in one line."""


# The PyTorch side, in a process of its own ---------------------------------------------------------------------------

def _build_model(shape):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    C, NH, bias = shape["channels"], shape["heads"], shape["bias"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.out = nn.Linear(C, 3 * C, bias=bias), nn.Linear(C, C, bias=bias)
            self.up, self.down = nn.Linear(C, 4 * C, bias=bias), nn.Linear(4 * C, C, bias=bias)

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = (y.view(B, T, NH, C // NH).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(C, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
            h = self.up(self.norm2(x))
            h = F.relu(h) if shape["activation"] == "relu" else F.gelu(h, approximate="tanh")
            return x + self.down(h)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(shape["vocab"], C), nn.Embedding(shape["T"], C)
            self.blocks = nn.ModuleList(Block() for _ in range(shape["layers"]))
            self.final_norm = nn.LayerNorm(C)
            self.head = nn.Linear(C, shape["vocab"], bias=False)
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=0.02)
            if shape["tied"]:
                self.head.weight = self.wte.weight

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = self.head(self.final_norm(x))
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    return Model()


def _torch_worker(shape_name, row, steps, threads):
    """Prints {"ms": [...], "loss": ..., "torch": version}: what TorchRunner reads."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    shape = SHAPES[shape_name]
    mode, precision = row.split("-")
    model = _build_model(shape)
    step_model = torch.compile(model) if mode == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens, targets = torch.randint(0, shape["vocab"], (2, shape["B"], shape["T"]))
    times = []
    for _ in range(_WARM_UP_STEPS + steps):
        start = time.perf_counter()
        cast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
        with cast:
            loss = step_model(tokens, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        times.append(1e3 * (time.perf_counter() - start))
    if not math.isfinite(value):
        raise SystemExit(f"the loss became {value}")
    print(json.dumps({"ms": times[_WARM_UP_STEPS:], "loss": value, "torch": torch.__version__}))


# Both sides, from outside --------------------------------------------------------------------------------------------

def _run_json(command, environment):
    """The last line of standard output that is a JSON object."""
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failure(f"gave no result in {_TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise Failure(f"cannot start: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Failure(f"exit status {done.returncode}: {lines[-1][:200]}")
    text = done.stdout.strip()
    for candidate in (text, *reversed(text.splitlines())):
        with contextlib.suppress(ValueError):
            value = json.loads(candidate)
            if isinstance(value, dict):
                return value
    raise Failure("printed no JSON object")


class Runner:
    """Measures one thing once: (precision, best ms per step)."""

    def __init__(self, plimsoll, steps, threads):
        self.plimsoll_path, self.steps, self.threads = plimsoll, steps, threads
        self.torch_version = None

    def _environment(self, huge_pages=False):
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        environment.pop("GLIBC_TUNABLES", None)
        if huge_pages:
            environment["GLIBC_TUNABLES"] = _HUGE_PAGES
        return environment

    def torch(self, shape, row, huge_pages):
        result = _run_json([sys.executable, os.path.abspath(__file__), "--worker", "--shapes", shape, "--rows", row,
                            "--steps", str(self.steps), "--threads", str(self.threads)], self._environment(huge_pages))
        self.torch_version = result["torch"]
        return row.split("-")[1], min(result["ms"])

    def plimsoll(self, shape, precision):
        result = _run_json([self.plimsoll_path, "bench", "--step", shape, "--precision", precision, "--steps",
                            str(self.steps), "--threads", str(self.threads), "--json"], self._environment())
        missing = {"shape", "tokens", "ms_per_step", "precision"} - result.keys()
        if missing:
            raise Failure(f"its JSON lacks {', '.join(sorted(missing))}")
        if (result["shape"], result["tokens"]) != (shape, tokens_of(shape)):
            raise Failure(f"measured {result['shape']} of {result['tokens']} tokens, wanted {shape} of {tokens_of(shape)}")
        return result["precision"], float(result["ms_per_step"])


def tokens_of(shape):
    return SHAPES[shape]["B"] * SHAPES[shape]["T"]


def measure(shapes, rows, runner, with_plimsoll=True, precision="match", say=lambda text: None):
    """One entry per shape and row: {"shape", "program", "row", "precision", "ms": [each run's best] or "error"}.

    Every PyTorch run is followed by one of plimsoll, in the row's precision or the one asked for.
    """
    entries = {}

    def record(shape, program, row, asked, call):
        try:
            answered, ms = call()
            if answered != asked:
                row, asked = f"{program} {answered}", answered
            entry = entries.setdefault((shape, row), {"shape": shape, "program": program, "row": row,
                                                      "precision": asked, "ms": []})
            entry.setdefault("ms", []).append(ms)
            say(f"{shape} | {row}: {ms:.1f} ms")
        except Failure as failure:
            entry = entries.setdefault((shape, row), {"shape": shape, "program": program, "row": row,
                                                      "precision": asked, "ms": []})
            entry["error"] = str(failure)
            say(f"{shape} | {row}: {failure}")

    for shape in shapes:
        for row in rows:
            for huge_pages in (False, True):
                name = f"torch {row}" + (" hugetlb" if huge_pages else "")
                own = row.split("-")[1]
                record(shape, "torch", name, own, lambda: runner.torch(shape, row, huge_pages))
                if with_plimsoll:
                    asked = own if precision == "match" else precision
                    record(shape, "plimsoll", f"plimsoll {asked}", asked, lambda: runner.plimsoll(shape, asked))
    return list(entries.values())


def summarize(entries):
    """Adds to each measured entry ms_per_step, tokens_per_second; to PyTorch's rows `ratio`, how many times faster
    plimsoll is in that precision (or, where it has none, at its best); to plimsoll's rows `ratio_to_best`, how many
    times faster it is than the best PyTorch row of any precision."""
    for entry in entries:
        if entry["ms"]:
            entry["ms_per_step"] = min(entry["ms"])
            entry["tokens_per_second"] = 1e3 * tokens_of(entry["shape"]) / entry["ms_per_step"]
    for entry in entries:
        if not entry["ms"]:
            continue
        peers = [other for other in entries
                 if other["shape"] == entry["shape"] and other["program"] != entry["program"] and other["ms"]]
        if entry["program"] == "torch":
            peers = [other for other in peers if other["precision"] == entry["precision"]] or peers
        if not peers:
            continue
        peer = min(peers, key=lambda other: other["ms_per_step"])
        if entry["program"] == "torch":
            entry["ratio"] = entry["ms_per_step"] / peer["ms_per_step"]
        else:
            entry["ratio_to_best"] = peer["ms_per_step"] / entry["ms_per_step"]
            entry["best_torch"] = peer["row"]
    return entries


def table(entries):
    """Markdown; ratios above 1 mean that plimsoll is faster."""
    lines = ["| shape | row | ms/step | tokens/s | plimsoll/torch | plimsoll/best torch |", "|---|---|---:|---:|---:|---:|"]
    for entry in entries:
        if "ms_per_step" not in entry:
            lines.append(f"| {entry['shape']} | {entry['row']} | failed | - | - | - |")
            continue
        ratio = f"{entry['ratio']:.2f}x" if "ratio" in entry else "-"
        best = f"{entry['ratio_to_best']:.2f}x" if "ratio_to_best" in entry else "-"
        lines.append(f"| {entry['shape']} | {entry['row']} | {entry['ms_per_step']:.1f} | "
                     f"{entry['tokens_per_second']:,.0f} | {ratio} | {best} |")
    for entry in entries:
        if "error" in entry:
            lines += ["", f"{entry['shape']}, {entry['row']}: {entry['error']}"]
    return "\n".join(lines)


def machine():
    """What a reader needs to judge the numbers."""
    info = {"processor": platform.machine(), "cores": os.cpu_count(), "bf16": [], "transparent_huge_pages": "unknown"}
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        info["processor"] = (re.search(r"^model name\s*:\s*(.+)$", text, re.M) or [None, info["processor"]])[1]
        info["bf16"] = [flag for flag in ("amx_bf16", "avx512_bf16") if re.search(rf"\b{flag}\b", text)]
    with contextlib.suppress(OSError):
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        info["transparent_huge_pages"] = (re.search(r"\[(\w+)\]", modes) or [None, "unknown"])[1]
    return info


def _name_list(legal):
    def parse(text):
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        for name in names:
            if name not in legal:
                raise argparse.ArgumentTypeError(f"'{name}' is not one of {', '.join(legal)}")
        return names
    return parse


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=_name_list(SHAPES), help=f"default: all of {','.join(SHAPES)}")
    parser.add_argument("--rows", type=_name_list(ROWS), help=f"PyTorch rows; default: all of {','.join(ROWS)}")
    parser.add_argument("--steps", type=_positive, help="timed steps per run after 2 warm-up steps; default 5")
    parser.add_argument("--threads", type=_positive, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--plimsoll", default=str(_ROOT / "build/plimsoll"), metavar="PATH", help="default: build/plimsoll")
    parser.add_argument("--precision", choices=("match", "fp32", "bf16", "auto"), default="match",
                        help="plimsoll's; match = that of the PyTorch row beside it (default)")
    parser.add_argument("--torch-only", action="store_true", help="leave plimsoll out")
    parser.add_argument("--json", metavar="OUT", help="also write every number to this file")
    parser.add_argument("--quick", action="store_true", help="gpt2-t64 and bb3, eager rows, 2 steps, unless said otherwise")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    shapes = arguments.shapes or (QUICK["shapes"] if arguments.quick else tuple(SHAPES))
    rows = arguments.rows or (QUICK["rows"] if arguments.quick else ROWS)
    steps = arguments.steps or (QUICK["steps"] if arguments.quick else 5)
    if arguments.worker:
        _torch_worker(shapes[0], rows[0], steps, arguments.threads)
        return 0

    if importlib.util.find_spec("torch") is None:
        print("torch_peer: PyTorch is not installed for this Python; run 'pip install torch numpy' in a virtual "
              "environment and start this script with that environment's python.", file=sys.stderr)
        return 1
    if not arguments.torch_only and not os.access(arguments.plimsoll, os.X_OK):
        print(f"torch_peer: there is no program at '{arguments.plimsoll}'; build plimsoll, name it with --plimsoll, or "
              "measure PyTorch alone with --torch-only.", file=sys.stderr)
        return 1

    runner = Runner(arguments.plimsoll, steps, arguments.threads)
    entries = summarize(measure(shapes, rows, runner, not arguments.torch_only, arguments.precision,
                                say=lambda text: print(text, file=sys.stderr, flush=True)))
    info = machine() | {"threads": arguments.threads, "torch": runner.torch_version, "timed_steps": steps}
    print(f"{info['processor']}, {info['cores']} cores, bf16 units: {', '.join(info['bf16']) or 'none'}; "
          f"{info['threads']} threads, transparent huge pages {info['transparent_huge_pages']}, PyTorch {info['torch']}, "
          f"best of {steps} steps\n")
    print(table(entries))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": info, "results": entries}, indent=1) + "\n")
    return 1 if any("error" in entry for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main())
