#!/usr/bin/env python3
"""Writes tests/golden/optimizer/: what torch.optim makes of some matrices in three steps of Muon and of OrthoAdam.

    python3 tests/golden/make_optimizer_fixtures.py

needs `torch` 2.9 or later (torch.optim.Muon). All is in double precision: while Muon steps, torch.bfloat16, in which it
would orthogonalise, stands for float64. OrthoAdam is torch.optim.AdamW on the parameters of a rotated network: theta' =
Q_rows theta Q_columns^T has the gradient Q_rows g Q_columns^T. The orthogonal matrices are written out from Philox's
bits and Sylvester's Hadamard matrices. README.md describes the files.
"""

import json
import math
from pathlib import Path
from unittest import mock

import torch

HERE = Path(__file__).resolve().parent / "optimizer"
SEED = 20410
STEPS = 3
SHAPES = [(1, 6), (5, 3), (8, 12), (12, 8), (16, 7)]
HYPER = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
MASK = (1 << 64) - 1


def fnv1a(text):
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 & MASK
    return value


def philox(counter, key):
    """Philox4x32-10, Salmon et al., SC 2011: four words of 32 bits."""
    for _ in range(10):
        p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [p1 >> 32 ^ counter[1] ^ key[0], p1 & 0xffffffff, p0 >> 32 ^ counter[3] ^ key[1], p0 & 0xffffffff]
        key = [(key[0] + 0x9E3779B9) & 0xffffffff, (key[1] + 0xBB67AE85) & 0xffffffff]
    return counter


def signs(seed, name, turn, entries):
    """-1 or 1 for each entry, in turn `turn` of the rotation `name`."""
    mixed = (seed * 0x9E3779B97F4A7C15 ^ fnv1a("orthoadam") ^ fnv1a(name) * 0xff51afd7ed558ccd) & MASK
    key = [mixed & 0xffffffff, mixed >> 32]
    values = []
    for i in entries:
        index = turn << 48 | i // 128
        word = philox([index & 0xffffffff, index >> 32, 0, 0], key)[i % 128 // 32]
        values.append(-1.0 if word >> i % 32 & 1 else 1.0)
    return torch.tensor(values, dtype=torch.float64)


def rotation(seed, name, n):
    """The orthogonal (n, n) matrix."""
    p = 1 << (n.bit_length() - 1)
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < p:
        hadamard = torch.cat((torch.cat((hadamard, hadamard), 1), torch.cat((hadamard, -hadamard), 1)))
    q = torch.eye(n, dtype=torch.float64)
    for turn, begin in enumerate([0] if p == n else [0, n - p, 0]):
        factor = torch.eye(n, dtype=torch.float64)
        window = slice(begin, begin + p)
        factor[window, window] = hadamard / math.sqrt(p) * signs(seed, name, turn, range(begin, begin + p))
        q = factor @ q
    assert torch.allclose(q @ q.T, torch.eye(n, dtype=torch.float64), atol=1e-14)
    return q


def steps(optimizer, parameter, gradients):
    after = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        after.append(parameter.detach().clone())
    return after


def muon(start, gradients, scale):
    parameter = torch.nn.Parameter(start.clone())
    adjust = {"rms": "match_rms_adamw", "spectral": "original"}[scale]
    optimizer = torch.optim.Muon([parameter], lr=HYPER["lr"], weight_decay=HYPER["weight_decay"],
                                 momentum=HYPER["momentum"], nesterov=True, adjust_lr_fn=adjust)
    with mock.patch.object(torch, "bfloat16", torch.float64):
        after = steps(optimizer, parameter, gradients)
    rounded = torch.nn.Parameter(start.clone())  # as torch runs it: within bf16's roundings of Newton and Schulz
    plain = torch.optim.Muon([rounded], lr=HYPER["lr"], weight_decay=HYPER["weight_decay"],
                             momentum=HYPER["momentum"], adjust_lr_fn=adjust)
    difference = (steps(plain, rounded, gradients)[-1] - after[-1]).norm() / (after[-1] - start).norm()
    assert difference < 0.1, difference
    return after


def orthoadam(start, gradients, name):
    rows, columns = (rotation(SEED, f"{name} {side}", n) for side, n in zip(("rows", "columns"), start.shape))
    turned = torch.nn.Parameter(rows @ start @ columns.T)
    optimizer = torch.optim.AdamW([turned], lr=HYPER["lr"], betas=(HYPER["beta1"], HYPER["beta2"]), eps=HYPER["eps"],
                                  weight_decay=HYPER["weight_decay"])
    return [rows.T @ value @ columns for value in steps(optimizer, turned, [rows @ g @ columns.T for g in gradients])]


def main():
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(SEED)
    cases, data = [], b""
    for shape in SHAPES:
        name = f"{shape[0]} x {shape[1]}"
        start, *gradients = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS + 1))
        tensors = {"start": [start], "gradients": gradients, "muon_rms": muon(start, gradients, "rms"),
                   "muon_spectral": muon(start, gradients, "spectral"), "orthoadam": orthoadam(start, gradients, name)}
        case = {"name": name, "shape": list(shape)}
        for key, values in tensors.items():
            case[key] = []
            for value in values:
                assert value.shape == shape and bool(torch.isfinite(value).all()), key
                case[key].append(len(data) // 8)
                data += value.contiguous().numpy().astype("<f8").tobytes()
        cases.append(case)
    rows = ",\n".join("  " + json.dumps(case) for case in cases)
    (HERE / "steps.json").write_text(f'{{\n "seed": {SEED},\n "hyper": {json.dumps(HYPER)},\n "cases": [\n{rows}\n ]\n}}\n')
    (HERE / "steps.bin").write_bytes(data)
    print(f"{len(cases)} matrices, {len(data)} bytes")


if __name__ == "__main__":
    main()
