"""What torch_peer.py compares: shapes, PyTorch's rows, aims; and what its numbers amount to. Measures nothing itself."""

import itertools
import statistics
from typing import NamedTuple

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
# How many times as fast as PyTorch's best row plimsoll is to be, by plimsoll's precision; "auto" is where there is AMX.
AIMS = {
    "auto": {"bb1": 3.0, "bb3": 2.3, "gpt2-t64": 1.9, "gpt2-t256": 1.7},
    "fp32": {"bb1": 1.1, "bb3": 1.1, "gpt2-t64": 1.1, "gpt2-t256": 1.1},
}
ROUNDS = 5  # fewer give no verdict
SCREENING_STEPS = 2
MODES = ("eager", "compiled", "max-autotune")
PRECISIONS = ("bf16", "fp32")
# PyTorch allocates and frees activations in every step, so the allocator decides how many pages it faults in. The last
# is the way PyTorch's tuning guide sets jemalloc (nothing is ever given back), with huge pages besides.
ALLOCATORS = {
    "default": {},
    "hugetlb": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "jemalloc": {"LD_PRELOAD": "{jemalloc}"},
    "jemalloc-thp": {"LD_PRELOAD": "{jemalloc}",
                     "MALLOC_CONF": "thp:always,oversize_threshold:1,background_thread:true,metadata_thp:auto,"
                                    "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
}
# For the estimate before anything is measured, on two cores with AMX: seconds of a step in bf16 and fp32; of starting,
# and of compiling.
_STEP_SECONDS = {"gpt2-t64": (0.5, 0.9), "gpt2-t256": (1.1, 2.6), "bb1": (1.7, 5), "bb3": (0.45, 1.4), "bb1-relu": (1.7, 5)}
_START_SECONDS, _COMPILE_SECONDS = 10, {"eager": 0, "compiled": 40, "max-autotune": 60}


class Row(NamedTuple):
    mode: str
    precision: str
    allocator: str

    @property
    def name(self):
        return f"{self.mode} {self.precision}" + ("" if self.allocator == "default" else f" {self.allocator}")

    @staticmethod
    def parse(name):
        mode, precision, *allocator = name.split()
        return Row(mode, precision, allocator[0] if allocator else "default")


def rows_of(modes, precisions, allocators):
    return [Row(*parts) for parts in itertools.product(modes, precisions, allocators)]


def tokens_of(shape):
    return SHAPES[shape]["B"] * SHAPES[shape]["T"]


def guess_seconds(shape, rows):
    """Of screening these rows, before anything was measured. What was compiled once is found again in its cache."""
    steps = sum(_START_SECONDS + (3 + SCREENING_STEPS) * _STEP_SECONDS[shape][row.precision == "fp32"] for row in rows)
    return steps + sum(_COMPILE_SECONDS[mode] for mode, _ in {(row.mode, row.precision) for row in rows})


def seconds_of_round(run, steps):
    """Of one run of a row with so many steps, and plimsoll's share, from its screening."""
    return 1.1 * (run["seconds"] + (steps - SCREENING_STEPS) * run["ms"] / 1e3)


def finalists(screening, count):
    """The names of PyTorch's fastest rows in the screening, fastest first."""
    measured = [(entry["ms"], row) for row, entry in screening.items() if "ms" in entry]
    return [row for _, row in sorted(measured)[:count]]


def turns(names, index):
    """The order of round `index`: each round begins with another, so that none always follows the same."""
    first = index % len(names)
    return names[first:] + names[:first]


def summarize(shape, result):
    """[{"row", "rounds", "ms", "low", "high", "tokens_per_second", "bytes", "ratio", "ratio_low", "ratio_high"} or
    {"row", "error"}], plimsoll first, then PyTorch's rows, fastest first.

    ms: median of the rounds, low and high the fastest and slowest of them; of a row that was only screened (rounds 0)
    its one run. ratio: how many times as fast as the row plimsoll is, by the medians; low and high of the quotients
    within a round. bytes: the most of any run.
    """
    rounds = result["rounds"]
    own = {index: one["plimsoll"]["ms"] for index, one in enumerate(rounds) if "ms" in one.get("plimsoll", {})}
    entries = []
    for row in ["plimsoll", *result["screening"]]:
        runs = {index: one[row] for index, one in enumerate(rounds) if row in one}
        screened = [result["screening"][row]] if row in result["screening"] else []
        errors = [run["error"] for run in (*runs.values(), *screened) if "error" in run]
        times = {index: run["ms"] for index, run in runs.items() if "ms" in run}
        values = list(times.values()) or [run["ms"] for run in screened if "ms" in run]
        if errors:
            entries.append({"row": row, "error": errors[-1]})
        elif values:
            entry = {"row": row, "rounds": len(times), "ms": statistics.median(values), "low": min(values),
                     "high": max(values), "bytes": max(run["bytes"] for run in (*runs.values(), *screened))}
            entry["tokens_per_second"] = 1e3 * tokens_of(shape) / entry["ms"]
            ratios = [times[index] / own[index] for index in times if index in own]
            if row != "plimsoll" and ratios:
                entry |= {"ratio": entry["ms"] / statistics.median(own.values()), "ratio_low": min(ratios),
                          "ratio_high": max(ratios)}
            entries.append(entry)
    return sorted(entries, key=lambda entry: (entry["row"] != "plimsoll", "error" in entry, not entry.get("rounds"),
                                              entry.get("ms", 0)))


def aim(shape, precision, settings):
    """None where there is none."""
    return AIMS[precision if "amx_bf16" in settings["bf16"] else "fp32"].get(shape)


def claim(shape, precision, result):
    """What a shape's measurement says, or None without both sides: {"ratio", "low", "high", "rounds", "best": row,
    "wanted", "reached": None with too few rounds, "memory": of the fastest row, "leanest": row, "memory_leanest"}."""
    entries = summarize(shape, result)
    own = next((entry for entry in entries if entry["row"] == "plimsoll" and entry.get("rounds")), None)
    peers = [entry for entry in entries if "ratio" in entry]
    if not own or not peers:
        return None
    best = min(peers, key=lambda entry: entry["ms"])
    leanest = min((entry for entry in entries if entry["row"] != "plimsoll" and "bytes" in entry),
                  key=lambda entry: entry["bytes"])
    wanted = aim(shape, precision, result["settings"])
    rounds = min(own["rounds"], best["rounds"])
    return {"ratio": best["ratio"], "low": best["ratio_low"], "high": best["ratio_high"], "rounds": rounds,
            "best": best["row"], "wanted": wanted,
            "reached": best["ratio"] >= wanted if wanted and rounds >= ROUNDS else None,
            "memory": own["bytes"] / best["bytes"], "leanest": leanest["row"],
            "memory_leanest": own["bytes"] / leanest["bytes"]}
