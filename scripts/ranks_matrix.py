#!/usr/bin/env python3
"""Trains as ranks under mpirun or over TCP, in every layout of up to so many ranks, and wants the bits of one process that adds in
the same order: loss and gradient norm of every step, parameters and optimizer state after the last.

    scripts/ranks_matrix.py                                  all variants, fp32 and fp64, up to 4 ranks
    scripts/ranks_matrix.py --ranks 2 --variant softmax --precision fp32
    scripts/ranks_matrix.py --tcp                            processes that meet over TCP, without mpirun

Prints a row per layout: "=" where the bits are equal. The exit status is 1 if any differ.
"""

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MPIRUN = ROOT / "scripts/mpirun.sh"
VARIANTS = ("softmax", "sigmoid", "gated", "placeholder")
PRECISIONS = ("fp32", "fp64")
STEPS = 3


class Layout(NamedTuple):
    data_ranks: int
    stages: int = 1
    chunks: int = 1
    schedule: str = "1f1b"
    zero1: bool = True
    tied: bool = False
    cad: str = ""  # core attention by all ranks: "on", "ping-pong"

    @property
    def ranks(self):
        return self.data_ranks * self.stages

    def __str__(self):
        pipeline = f"{self.stages} stages {self.schedule}" if self.stages > 1 else ""
        shared = "zero1" if self.zero1 and self.data_ranks > 1 else ""
        cad = f"cad {self.cad}" if self.cad else ""
        return " ".join(filter(None, (f"{self.data_ranks} data", pipeline, shared, "tied" * self.tied, cad)))


def all_layouts(most_ranks):
    """Data ranks, stages and schedules; ZeRO-1 where there is somebody to share with."""
    shapes = [(d, s) for d, s in itertools.product(range(1, most_ranks + 1), repeat=2) if 1 < d * s <= most_ranks]
    for data_ranks, stages in shapes:
        kinds = [(1, name) for name in ("1f1b", "zb-h1", "zb-greedy", "same-phase")] + [(2, "interleaved")]
        for chunks, schedule in kinds if stages > 1 else kinds[:1]:
            for zero1, tied in itertools.product((True, False) if data_ranks > 1 else (True,), (False, True)):
                yield Layout(data_ranks, stages, chunks, schedule, zero1, tied)


def cad_layouts(most_ranks):
    """Data ranks and stages that compute core attention together."""
    shapes = [(d, s) for d, s in itertools.product(range(1, most_ranks + 1), repeat=2) if 1 < d * s <= most_ranks]
    for number, ((data_ranks, stages), cad) in enumerate(itertools.product(shapes, ("on", "ping-pong"))):
        yield Layout(data_ranks, stages, schedule="same-phase" if stages > 1 else "1f1b", tied=number % 3 == 0, cad=cad)


def network(layout, variant, precision):
    """Options of a small network and of as many micro batches as the layout asks for."""
    virtual_stages = layout.stages * layout.chunks
    # For interleaved a multiple of the stages; else a number that no count of stages divides.
    micro_batches = layout.data_ranks * (2 * layout.stages if layout.chunks > 1 else 5)
    keys = {"run.precision": precision, "run.device": "cpu", "run.threads": 1, "model.layers": max(5, virtual_stages),
            "model.channels": 16, "model.heads": 2, "model.context": 16, "model.ffn": 24,
            "model.tied": str(layout.tied).lower(), "train.micro_batch": 1,
            "train.batch_tokens": 16 * micro_batches, "train.max_steps": STEPS,
            # With it every bit of the norm reaches the parameters.
            "train.clip": 0.05 if layout.tied else 0.0, "train.eval_every": 0, "data.val_samples": 2,
            "probes.enabled": "false"}
    if variant == "differential_v2":  # its two maps share a key head
        keys["model.kv_heads"] = 1
    if layout.cad:  # documents long enough that there is something to move
        context, lanes = 512, 2 if layout.cad == "ping-pong" else 1
        keys |= {"model.context": context, "data.documents": "pretrain", "data.document_mask": "true",
                 "train.batch_tokens": context * lanes * micro_batches, "cad.mode": "on",
                 "cad.ping_pong": str(lanes > 1).lower()}
    return ["--variant", variant, *options(keys)]


def as_ranks(layout):
    return options({"parallel.stages": layout.stages, "parallel.chunks": layout.chunks,
                    "parallel.schedule": layout.schedule, "parallel.zero1": str(layout.zero1).lower()})


def alone(layout):
    """One process that adds in the order of the layout's ranks."""
    virtual_stages = layout.stages * layout.chunks
    pipeline = {"parallel.chunks": virtual_stages, "parallel.schedule": "interleaved"} if virtual_stages > 1 else {}
    return options({"parallel.virtual_ranks": layout.data_ranks, **pipeline})


def options(keys):
    return [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]


def command(program, folder, ranks, words):
    """`ranks` of 0: without mpirun."""
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks else []
    return [*launcher, str(program), "train", "configs/quickstart.toml", "--run-dir", str(folder), *words]


def run(program, folder, ranks, words):
    return subprocess.run(command(program, folder, ranks, words), cwd=ROOT, capture_output=True, text=True,
                          timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})


def free_port():
    """One where nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def over_tcp(rank, ranks, port):
    """The environment of a rank that meets the others without a launcher."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PLIMSOLL_RENDEZVOUS": f"127.0.0.1:{port}",
            "PLIMSOLL_RANK": str(rank), "PLIMSOLL_RANKS": str(ranks)}


def run_over_tcp(words, ranks, seconds=120):
    """Starts the command as every rank. The status is that of the first rank whose is not 0."""
    port = free_port()
    processes = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  env=over_tcp(rank, ranks, port)) for rank in range(ranks)]
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    status = next((process.returncode for process in processes if process.returncode), 0)
    return subprocess.CompletedProcess(words, status, "".join(outputs), "")


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "norm", "lr", "tokens")} for line in lines]


def state(program, folder, step):
    """Hash of all tensors, whatever ranks hold which part of them."""
    return subprocess.run([program, "inspect", "--hash", Path(folder) / f"checkpoints/step_{step:08d}"],
                          capture_output=True, text=True, timeout=60, check=True).stdout


class Comparison:
    """Runs of layouts against one process each; processes are kept for layouts that add in the same order."""

    def __init__(self, program, folder, tcp=False):
        self.program, self.folder, self.references, self.runs = program, Path(folder), {}, 0
        self.tcp = tcp

    def outcome(self, ranks, words):
        self.runs += 1
        folder = self.folder / f"run_{self.runs}"
        if self.tcp and ranks:
            done = run_over_tcp(command(self.program, folder, 0, words), ranks)
        else:
            done = run(self.program, folder, ranks, words)
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}\n{done.stdout}{done.stderr}")
        return metrics(folder), state(self.program, folder, STEPS)

    def difference(self, layout, variant, precision):
        """Empty where the bits are equal."""
        shared = network(layout, variant, precision)
        one = (*shared, *alone(layout))
        if one not in self.references:
            self.references[one] = self.outcome(0, one)
        here, there = self.outcome(layout.ranks, [*shared, *as_ranks(layout)]), self.references[one]
        for a, b in zip(here[0], there[0], strict=True):
            if a != b:
                return f"step {a['step']}: loss {a['loss']!r} norm {a['norm']!r}, alone {b['loss']!r} {b['norm']!r}"
        return "" if here[1] == there[1] else f"tensors {here[1].strip()}, alone {there[1].strip()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default=ROOT / "build/plimsoll", type=Path, help="build/plimsoll")
    parser.add_argument("--ranks", type=int, default=4, help="most ranks of a layout (4)")
    parser.add_argument("--variant", action="append", help="only this one; may be given several times")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="only this one")
    parser.add_argument("--tcp", action="store_true", help="over TCP instead of under mpirun")
    arguments = parser.parse_args()
    columns = list(itertools.product(arguments.variant or VARIANTS, arguments.precision or PRECISIONS))
    problems = []
    print(f"| {'layout':<38} | " + " | ".join(f"{v} {p}" for v, p in columns) + " |")
    print("|---|" + "---|" * len(columns), flush=True)
    count = 0
    with tempfile.TemporaryDirectory(prefix="plimsoll_matrix_") as folder:
        comparison = Comparison(arguments.program.resolve(), folder, arguments.tcp)
        for layout in (*all_layouts(arguments.ranks), *cad_layouts(arguments.ranks)):
            row = []
            for variant, precision in columns:
                try:
                    difference = comparison.difference(layout, variant, precision)
                except (RuntimeError, subprocess.SubprocessError) as error:
                    difference = str(error)
                row.append("differs" if difference else "=")
                count += 1
                if difference:
                    problems.append(f"{layout}, {variant}, {precision}: {difference}")
            width = [len(f"{v} {p}") for v, p in columns]
            print(f"| {layout!s:<38} | " + " | ".join(f"{c:<{w}}" for c, w in zip(row, width)) + " |", flush=True)
    print("\n".join([f"\n{count - len(problems)} of {count} have the bits of one process", *problems]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
