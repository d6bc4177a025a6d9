"""The PyTorch side of torch_peer.py: the models of the shapes, and a process that times training steps of one.

A step is forward, cross-entropy, backward and AdamW (fused, so one pass over all parameters), gradients set to None, on
one fixed batch, without clipping. Parameters are fp32; bf16 is autocast, as torch.compile sees it too.
"""

import contextlib
import json
import math
import resource
import time
from pathlib import Path

# Steps before the clock counts: the first creates AdamW's state, and compiles; the next ones may compile again.
WARM_UP_STEPS = {"eager": 2, "compiled": 3, "max-autotune": 4}


def build_model(shape):
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


def compiled(model, mode):
    import torch
    if mode == "eager":
        return model
    return torch.compile(model) if mode == "compiled" else torch.compile(model, mode="max-autotune")


def time_steps(shape, row, steps, threads):
    """Prints {"ms": of each step, "loss", "jemalloc": whether it is loaded, "bytes": peak resident}.

    The peak is this process's alone: compilers that it started are not counted.
    """
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = build_model(shape)
    step_model = compiled(model, row.mode)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens, targets = torch.randint(0, shape["vocab"], (2, shape["B"], shape["T"]))
    warm_up = WARM_UP_STEPS[row.mode]
    times = []
    for _ in range(warm_up + steps):
        start = time.perf_counter()
        cast = torch.autocast("cpu", torch.bfloat16) if row.precision == "bf16" else contextlib.nullcontext()
        with cast:
            loss = step_model(tokens, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        times.append(1e3 * (time.perf_counter() - start))
    if not math.isfinite(value):
        raise SystemExit(f"the loss became {value}")
    print(json.dumps({"ms": times[warm_up:], "loss": value,
                      "jemalloc": "libjemalloc" in Path("/proc/self/maps").read_text(),
                      "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
