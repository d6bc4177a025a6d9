"""Makes run directories as plimsoll writes them, with plausible curves: for the report's tests and for looking at it.

    python3 tests/python/fake_runs.py DIR      five one-layer runs, as the quickstart makes them, and a sweep in DIR/sweep
"""

import json
import math
import random
import sys
from pathlib import Path

VOCAB = ["<s>"] + list(" abcdefghijklmnopqrstuvwxyz")
STEPS = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
# final values: effective mass, row-normalised, row mass, drain, gate, placeholder mass
VARIANTS = {
    "softmax": (0.69, 0.69, 1.0, 0.27, None, None),
    "sigmoid": (0.001, 0.26, 0.004, 0.69, None, None),
    "gated": (0.07, 0.32, 1.0, 0.53, 0.21, None),
    "gated_headwise": (0.02, 0.30, 1.0, 0.42, 0.07, None),
    "placeholder": (0.14, 0.14, 1.0, 0.29, None, 0.55),
}


def write_json(path, value):
    path.write_text(json.dumps(value))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_info(variant, **changes):
    info = {
        "name": variant, "variant": variant, "command": f"plimsoll train configs/quickstart.toml --variant {variant}",
        "commit": "0123456789abcdef", "build": {"type": "Release", "compiler": "GNU 12.2.0", "onednn": True},
        "cpu": "Example CPU", "threads": 2, "precision": "fp32", "seed": 42, "data_hash": "9f2c1a7be0d4",
        "params": 247_424, "params_non_embedding": 213_888, "flops_per_token": 1_500_000, "qk_norm": False,
        "placeholders": 1 if variant == "placeholder" else 0, "steps": 1000, "tokens_per_second": 262_144.0,
        "ms_per_step": 31.2, "seconds": 31.2, "status": "done", "oracle": {"bigram_risk": 2.2343, "copy_risk": 0},
        "vocab": VOCAB, "layers": 1, "heads": 1,
    }
    if variant.startswith("gated"):
        info["params"] += 16_384 if variant == "gated" else 128
    info.update(changes)
    return info


def make_run(path, variant, layers=1, heads=1, seed=42, steps=1000, qk_norm=False, lr=0.001, final=None, scored=8128,
             **changes):
    """A whole run. The random part depends on the seed and the variant only; `final` is the last validation loss."""
    path = Path(path)
    path.mkdir(parents=True)
    noise = random.Random(f"{seed}/{variant}")
    info = run_info(variant, layers=layers, heads=heads, seed=seed, steps=steps, qk_norm=qk_norm, **changes)
    write_json(path / "run.json", info)
    (path / "config.toml").write_text(
        f'[run]\nname = "{info["name"]}"\ndir = "{path.name}"\nseed = {seed}\n\n[model]\nlayers = {layers}\n'
        f'heads = {heads}\nqk_norm = {str(qk_norm).lower()}\n\n[attention]\nkind = "{variant}"\n\n'
        f'[optimizer]\nkind = "adamw"\nlr = {lr}\n')
    write_lines(path / "metrics.jsonl", [
        {"step": step, "loss": _loss(step) + 0.02 * noise.gauss(0, 1), "norm": 1 + noise.random(), "lr": 1e-3,
         "tokens": 8192 * step, "seconds": 0.0312 * step} for step in range(1, steps + 1)])
    bigram_floor = (info["oracle"] or {}).get("bigram_risk")
    evals = [
        {"step": step, "tokens": 8192 * step, "seconds": 0.0312 * step, "loss": _loss(step) + 0.004 * noise.random(),
         "scored": scored,
         "bigram_risk": bigram_floor and bigram_floor + 0.012 + 2.2 * math.exp(-step / 30) + 0.002 * noise.random(),
         "copy_risk": bigram_floor and 0.003 + 4.3 / (1 + (step / 120) ** 4)}
        for step in [s for s in range(0, steps, 50)] + [steps]]
    if final is not None:
        evals[-1]["loss"] = final
    write_lines(path / "evals.jsonl", evals)
    write_lines(path / "probes.jsonl", [probe(variant, step, layers, heads, noise)
                                        for step in STEPS if step <= steps])
    write_json(path / "attention_maps.json", attention_maps(variant, layers, heads, noise))
    return path


def _loss(step):
    return 1.68 + 1.2 * math.exp(-step / 30) + 1.3 / (1 + (step / 120) ** 3)


def probe(variant, step, layers, heads, noise):
    mass, normalized, row, drain, gate, holder = VARIANTS.get(variant, VARIANTS["softmax"])
    formed = 1 / (1 + (220 / max(step, 1e-9)) ** 1.6) if step else 0.0

    def heads_of(start, end, spread=0.04):
        return [[(start + (end - start) * formed * (1 if layers == 1 or layer == 1 else 0.35))
                 * (1 + spread * noise.gauss(0, 1)) for _ in range(heads)] for layer in range(layers)]

    def layers_of(start, end):
        return [start] + [(start + (end - start) * formed * (1 if layer == 0 else 0.8))
                          * (1 + 0.02 * noise.gauss(0, 1)) for layer in range(layers)]

    sinking = variant in ("softmax", "placeholder")
    head_metrics = {
        "sink_rate": heads_of(0.0, 100 * min(1.0, normalized + 0.2) if normalized > 0.25 else 0.0, 0),
        "first_mass_raw": heads_of(0.03 * row, normalized * row), "first_mass_effective": heads_of(0.03 * row, mass),
        "first_mass_normalized": heads_of(0.03, normalized), "row_mass": heads_of(0.05 if row < 0.5 else row, row, 0),
        "drain_ratio": heads_of(1.0, drain), "value_ratio": heads_of(1.0, (1 + drain) / 2),
        "wo_value_norm": [[5.2 + 5.2 * math.exp(-((math.log10(step + 1) - 1.8) ** 2) / 0.2) - 2.4 * formed] * heads
                          for _ in range(layers)],
        "key_ratio": heads_of(1.0, 0.7 if sinking else 0.95), "query_key_cosine": heads_of(0.0, 0.5 * mass, 0.1),
        "sink_logit_delta": heads_of(-0.1, 9.0 if sinking else 1.0, 0.1),
        "sink_logit_delta_std": heads_of(0.4, 3.0, 0.1), "entropy": heads_of(0.98, 0.45 if sinking else 0.6),
        "gate_mean": gate and heads_of(0.5, gate), "gate_below_0p1": gate and heads_of(0.0, 0.7),
        "logit_max": heads_of(1.0, 14.0), "dead_rows": heads_of(0, 0),
        "dormant": [[int(mass * formed > 0.5)] * heads] * layers,
        "head_output_ratio": [[1.0] * heads] * layers,
        "placeholder_mass_raw": holder and heads_of(0.03, holder),
        "placeholder_mass_normalized": holder and heads_of(0.03, holder),
        "placeholder_mass_effective": holder and heads_of(0.03, holder),
    }
    layer_metrics = {
        "residual_peak_ratio": layers_of(1.0, 2.1 if sinking else 1.15), "residual_peak": layers_of(0.1, 18 * mass),
        "max_abs": layers_of(4.1, 31 if sinking else 9), "median_abs": layers_of(0.7, 0.9),
        "massive_ratio": layers_of(5.9, 34 if sinking else 10), "massive_count": [0.0] * (layers + 1),
        "massive_at_first": layers_of(0.01, 0.9 if sinking else 0.05), "kurtosis_first": layers_of(0.05, 11 * mass),
        "kurtosis_rest": layers_of(0.05, 0.4), "rms": layers_of(1.0, 1.4),
    }
    return {"step": step, "tokens": 8192 * step, "per_head": head_metrics, "per_layer": layer_metrics}


def attention_maps(variant, layers, heads, noise, size=40):
    mass, _, row, _, _, holder = VARIANTS.get(variant, VARIANTS["softmax"])
    text = "the ship may sink to the mark on her side and no deeper"
    labels = (["<|sink|>"] if holder else []) + ["<s>"] + list(text)
    share = holder if holder else mass / row
    maps = []
    for _ in range(layers):
        maps.append([])
        for _ in range(heads):
            rows = []
            for query in range(size):
                weights = [noise.random() ** 3 for _ in range(query + 1)]
                trigger = labels[query] in " et"
                weights[0] = 0.05 * sum(weights) if trigger else share / (1 - share) * (sum(weights[1:]) or 1.0)
                if trigger and query:
                    weights[query - 1] = 6 * sum(weights)
                total = sum(weights)
                scale = (0.9 if trigger else row) if row < 0.5 else 1.0
                rows.append([round(scale * w / total, 5) for w in weights] + [0.0] * (size - query - 1))
            maps[-1].append(rows)
    return {"step": 1000, "labels": labels[:size], "maps": maps}


def make_sweep(path, losses, seeds=(1, 2, 3), steps=500, failed=(), missing=(), plan=True, changes=None):
    """A sweep's directory as plimsoll leaves it. `losses`: {variant: {rate: final validation loss of each seed}}; `failed`
    and `missing` name cells; `changes`: {cell: what make_run takes}. -> its path"""
    path = Path(path)
    path.mkdir(parents=True)
    cells, events = [], []
    for variant, rates in losses.items():
        for rate, finals in rates.items():
            for seed, final in zip(seeds, finals):
                name = f"{variant}-lr{rate}-seed{seed}"
                cells.append({"name": name, "variant": variant,
                              "settings": [f"optimizer.lr={rate}", f"run.seed={seed}", "run.name=sweep"]})
                if name in missing:
                    continue
                events.append({"event": "begin", "cell": name, "pid": 1, "time": 1})
                (path / f"{name}.txt").write_text("step 1\nloss is nan\n" if name in failed else "done\n")
                events.append({"event": "end", "cell": name, "status": 70 if name in failed else 0, "time": 2})
                if name not in failed:
                    more = {"name": "sweep", **(changes or {}).get(name, {})}
                    make_run(path / name, variant, seed=seed, steps=steps, lr=float(rate), final=final, **more)
    write_lines(path / "sweep.jsonl", ([{"event": "plan", "cells": cells, "time": 0}] if plan else []) + events)
    return path


def add_attention(path, timeline=True):
    """Makes a run one whose core attention was planned: 2 ranks, of which rank 0 owns one document of 512 tokens and
    rank 1 four of 128; rank 1 computes the last 128 queries of the long one."""
    path = Path(path)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["cad"] = {"before": 1.6, "after": 1.05, "planned_bytes": 786_432, "most_bytes": 393_216,
                      "sent_bytes": 393_216 if timeline else 0, "exposed_ms": 1.5 if timeline else 0, "plan_ms": 0.2}
    write_lines(path / "metrics.jsonl", rows)

    def pairs(begin, end):
        return (end * (end + 1) - begin * (begin + 1)) // 2

    segments = [[0, 0, 0, 512, pairs(0, 512)]] + [[1 + i, 1, 0, 128, pairs(0, 128)] for i in range(4)]
    tasks = [[0, 0, 0, 384, pairs(0, 384)], [0, 1, 384, 512, pairs(384, 512)]] \
        + [[1 + i, 1, 0, 128, pairs(0, 128)] for i in range(4)]
    part = {"tick": 0, "lane": 0, "round": 0, "layers": 2, "moves": True, "tolerance": 0.02, "byte_cap": 524_288,
            "segments": segments, "tasks": tasks, "loads_before": [pairs(0, 512), 4 * pairs(0, 128)],
            "loads": [pairs(0, 384), pairs(384, 512) + 4 * pairs(0, 128)], "most_keys": [384, 512],
            "sent": [327_680, 65_536], "received": [65_536, 327_680]}
    if timeline:
        part["timeline"] = [
            [0, 0, 0, "dispatch", 0.0, 1.0], [0, 0, 0, "own", 1.0, 7.0], [0, 0, 0, "wait_for_results", 7.0, 8.0],
            [1, 0, 0, "dispatch", 0.0, 0.5], [1, 0, 0, "own", 0.5, 2.0], [1, 0, 0, "wait_for_tasks", 2.0, 3.0],
            [1, 0, 0, "served", 3.0, 7.5], [1, 0, 0, "return", 7.5, 8.0]]
    write_lines(path / "cad.jsonl", [{"step": step, "ranks": 2, "forward": part, "backward": part}
                                     for step in (1, 2)])
    return path


if __name__ == "__main__":
    for name in VARIANTS:
        print(make_run(Path(sys.argv[1]) / name, name))
    dice = random.Random(1)
    print(make_sweep(Path(sys.argv[1]) / "sweep", {
        name: {rate: [1.7 + 0.05 * (rate == "1e-3") + 0.02 * (name == "gated") + 0.01 * dice.gauss(0, 1) + 0.02 * seed
                      for seed in range(5)] for rate in ("1e-3", "3e-3")} for name in VARIANTS}, seeds=range(1, 6)))
