"""Runs one side of torch_peer.py once, in a process of its own, and keeps what was measured in a file."""

import ctypes.util
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic

from peer_rows import ALLOCATORS, tokens_of
from processes import Failure, run_with_memory

# Both programs run with the settings they have by themselves.
_CLEARED = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_CONF", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PLIMSOLL_AMX")


def find_jemalloc():
    """What LD_PRELOAD takes, or None."""
    return ctypes.util.find_library("jemalloc")


class Runner:
    """Measures one thing once: {"ms": median of the timed steps, "steps": [ms], "bytes": peak resident, "seconds": of the
    whole process}. Throws Failure."""

    def __init__(self, plimsoll, steps, threads, script):
        self.program, self.steps, self.threads, self.script = plimsoll, steps, threads, script
        self.jemalloc = find_jemalloc()

    def environment(self, threads, **changes):
        kept = {key: value for key, value in os.environ.items() if key not in _CLEARED}
        return kept | {"OMP_NUM_THREADS": str(threads)} | changes

    def _measure(self, command, environment):
        start = monotonic()
        answer, peak = run_with_memory(command, environment)
        return answer, peak, monotonic() - start

    def torch(self, shape, row, steps=None):
        settings = ALLOCATORS[row.allocator]
        if "LD_PRELOAD" in settings and not self.jemalloc:
            raise Failure("jemalloc: not found (apt-get install libjemalloc2)")
        settings = {key: value.format(jemalloc=self.jemalloc) for key, value in settings.items()}
        answer, _, seconds = self._measure(
            [sys.executable, self.script, "--worker", row.name, "--shapes", shape, "--steps",
             str(steps or self.steps), "--threads", str(self.threads)], self.environment(self.threads, **settings))
        if "LD_PRELOAD" in settings and not answer["jemalloc"]:
            raise Failure("jemalloc was not loaded")
        return {"ms": statistics.median(answer["ms"]), "steps": answer["ms"], "bytes": answer["bytes"], "seconds": seconds}

    def plimsoll(self, shape, precision, threads=None):
        """`precision`: auto, or fp32, which is without AMX."""
        threads = threads or self.threads
        answer, peak, seconds = self._measure(
            [self.program, "bench", "--step", shape, "--no-clip", "--precision", precision, "--steps", str(self.steps),
             "--threads", str(threads), "--json"],
            self.environment(threads, **({"PLIMSOLL_AMX": "0"} if precision == "fp32" else {})))
        missing = {"shape", "tokens", "ms", "precision"} - answer.keys()
        if missing:
            raise Failure(f"its JSON lacks {', '.join(sorted(missing))}")
        if (answer["shape"], answer["tokens"]) != (shape, tokens_of(shape)):
            raise Failure(f"measured {answer['shape']} of {answer['tokens']} tokens, wanted {shape} of {tokens_of(shape)}")
        return {"ms": statistics.median(answer["ms"]), "steps": answer["ms"], "bytes": peak, "seconds": seconds,
                "precision": answer["precision"]}

    def attention(self, T, heads, size):
        """{weighting: {"forward": ms, "backward": ms}} of one causal sequence of T tokens."""
        answer, _, _ = self._measure(
            [self.program, "bench", "--attention", f"1x{T}x{heads}x{heads}x{size}", "--weighting", "softmax,sigmoid",
             "--threads", str(self.threads), "--json"], self.environment(self.threads))
        found = {}
        for row in answer["attention"]:
            found.setdefault(row["shape"].split()[0], {})[row["kernel"].removeprefix("attention_")] = row["ms"]
        return found


def machine():
    """What a reader needs to judge the numbers."""
    info = {"processor": platform.machine(), "cores": len(os.sched_getaffinity(0)), "bf16": [],
            "transparent_huge_pages": "unknown"}
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        info["processor"] = (re.search(r"^model name\s*:\s*(.+)$", text, re.M) or [None, info["processor"]])[1]
        info["bf16"] = [flag for flag in ("amx_bf16", "avx512_bf16") if re.search(rf"\b{flag}\b", text)]
    with suppress(OSError):
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        info["transparent_huge_pages"] = (re.search(r"\[(\w+)\]", modes) or [None, "unknown"])[1]
    return info


def torch_version():
    """Of this Python's PyTorch, without importing it, which would take memory and time; None without."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("torch")


def program_version(path):
    """What `plimsoll --version` says, and which file it was."""
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout.strip()
        return f"{said}, {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}"
    return None


class Results:
    """Everything measured so far, in a file that is written anew after every measurement, so that nothing is lost."""

    def __init__(self, path):
        self.path = Path(path)
        self.data = {}
        if self.path.exists():
            try:
                self.data = json.loads(self.path.read_text())
            except ValueError:
                raise SystemExit(f"torch_peer: {path} is not JSON; remove it or name another file with --json") from None

    def save(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(json.dumps(self.data, indent=1) + "\n")
        new.replace(self.path)
