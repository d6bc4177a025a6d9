#!/usr/bin/env python3
"""Core attention on this machine's GPU against what it is meant to reach on H200, and against PyTorch.

    scripts/bench/gpu_targets.py --peak-from kernels.md --json targets.json

bf16, 16384 tokens, heads of 2048 channels in all (2016 with heads of 96). Causal; in rows that say "full" every query
sees every key, by a mask whose prefix is the whole row. The kernels for sm_90a know no prefix, so that full rows are
measured on those for sm_80, and their targets are those that kernels for sm_90a would have. For every row of the table of
targets and every length: TFLOP/s of plimsoll (`plimsoll bench --attention`), of PyTorch's SDPA by FlashAttention and by
cuDNN for softmax, of FlexAttention for sigmoid (compiled; softmax of log-sigmoids times the sum of their exponentials);
how much faster than the best of them plimsoll is; and the share of the card's peak as `plimsoll bench` measures it.
Useful operations are counted: 4 per visible score and channel forward, 2.5 times as many backward.

  --plimsoll PATH  the program (default: build-cuda/plimsoll)
  --peak-from FILE what `plimsoll bench` printed; without it there is no share of peak
  --list           print the targets and measure nothing

Exit status: 0 everything measured; 1 something failed, or plimsoll is missing; 2 wrong usage.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gpu_peer  # noqa: E402
from processes import Failure, run_json  # noqa: E402

LENGTHS = (1024, 2048, 4096, 8192)
TOKENS, CHANNELS = 16384, 2048
# (direction, head size, weighting[ full]): TFLOP/s wanted on H200 at each length. Rows without a kernel say why.
TARGETS = {
    ("forward", 64, "softmax"): (260, 340, 390, 430),
    ("forward", 64, "sigmoid"): (260, 350, 400, 440),
    ("forward", 96, "softmax"): (300, 390, 450, 490),
    ("forward", 128, "softmax"): (400, 490, 540, 580),
    ("forward", 128, "sigmoid"): (420, 510, 560, 600),
    ("forward", 256, "softmax"): (350, 450, 520, 560),
    ("forward", 64, "softmax full"): (370, 430, 450, 470),
    ("forward", 128, "softmax full"): (530, 580, 600, 610),
    ("backward", 64, "softmax"): (220, 270, 300, 320),
    ("backward", 128, "softmax"): (250, 320, 370, 400),
    ("backward", 64, "sigmoid"): (227, 278, 309, 330),  # 3 % above softmax: no rows to make and to copy
    ("backward", 128, "sigmoid"): (258, 330, 381, 412),
}
NO_KERNEL = {
    "backward 64, one kernel": ((240, 330, 390, 420), "the backward is two kernels, so that bits repeat"),
    "backward 128, one kernel": ((300, 410, 470, 510), "the backward is two kernels, so that bits repeat"),
}
FIRST_LIGHT = 0.6  # of its target, what a first run on a card is to reach
PEERS = {"softmax": ("flash", "cudnn"), "sigmoid": ("flex-sigmoid",)}


def shape_of(HS, T, weighting="softmax"):
    heads = CHANNELS // HS
    return f"{TOKENS // T}x{T}x{heads}x{heads}x{HS}" + (":full" if weighting.endswith(" full") else "")


def peers_of(weighting):
    return PEERS[weighting.removesuffix(" full")]


def shapes_of(peer):
    """What a PyTorch row is measured on, each once."""
    return list(dict.fromkeys(shape_of(HS, T, weighting) for _, HS, weighting in TARGETS if peer in peers_of(weighting)
                              for T in LENGTHS))


def tflops(direction, shape, ms):
    return gpu_peer.attention_flops(shape) * (2.5 if direction == "backward" else 1) / ms / 1e9


def measured_peak(text):
    """TFLOP/s from what `plimsoll bench` printed, or None."""
    match = re.search(r"measured peak: ([0-9.]+) GFLOP/s \(product\)", text)
    return float(match.group(1)) / 1e3 if match else None


def measure(plimsoll, peers, runs, say):
    """-> ({(row, shape): {"forward": ms, "backward": ms}}, [failures]); rows are PyTorch's, and plimsoll's weightings."""
    found, failures = {}, []

    def attempt(what, call):
        try:
            call()
            say(what)
        except Failure as failure:
            failures.append(f"{what}: {failure}")
            say(failures[-1])

    def torch_row(peer):
        for shape, answer in _worker(peer, runs).items():
            if "error" in answer:
                failures.append(f"{peer} {shape}: {answer['error']}")
            else:
                found[peer, shape] = answer

    def own_rows(shape):
        for kernel in gpu_peer._plimsoll(plimsoll, "--attention", shape)["attention"]:
            side = kernel["kernel"].removeprefix("attention_")
            found.setdefault((kernel["shape"].split()[0], shape), {})[side] = kernel["ms"]

    for shape in dict.fromkeys(shape_of(HS, T, weighting) for _, HS, weighting in TARGETS for T in LENGTHS):
        attempt(f"plimsoll {shape}", lambda shape=shape: own_rows(shape))
    for peer in peers:
        attempt(f"torch {peer}", lambda peer=peer: torch_row(peer))
    return found, failures


def rows_of(found, peak):
    """One dictionary per target and length."""
    rows = []
    for (direction, HS, weighting), targets in TARGETS.items():
        for T, target in zip(LENGTHS, targets):
            shape = shape_of(HS, T, weighting)

            def speed(name):
                ms = found.get((name, shape), {}).get(direction)
                return tflops(direction, shape, ms) if ms else None
            own, peers = speed(weighting.split()[0]), {peer: speed(peer) for peer in peers_of(weighting)}
            best = max((value for value in peers.values() if value), default=None)
            rows.append({"direction": direction, "head_size": HS, "weighting": weighting, "T": T, "target": target,
                         "plimsoll": own, "peers": peers, "ratio": own / best if own and best else None,
                         "of_target": own / target if own else None, "of_peak": own / peak if own and peak else None})
    return rows


def table(rows):
    def number(value):
        return f"{value:.0f}" if value else "-"

    def percent(value):
        return f"{100 * value:.0f} %" if value else "-"
    lines = ["| TFLOP/s | T | target | plimsoll | of target | flash | cuDNN | FlexAttention | plimsoll/best torch | of peak |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        peers = " | ".join(number(row["peers"].get(peer)) for peer in ("flash", "cudnn", "flex-sigmoid"))
        ratio = f"{row['ratio']:.2f}x" if row["ratio"] else "-"
        lines.append(f"| {row['direction']} {row['head_size']} {row['weighting']} | {row['T']} | {row['target']} | "
                     f"{number(row['plimsoll'])} | {percent(row['of_target'])} | {peers} | {ratio} | {percent(row['of_peak'])} |")
    for name, (targets, why) in NO_KERNEL.items():
        lines.append(f"| {name} | {LENGTHS[0]}-{LENGTHS[-1]} | {'/'.join(map(str, targets))} | no kernel: {why} | | | | | | |")
    lines += ["", "full: every query sees every key; by the kernels for sm_80, since those for sm_90a know no prefix."]
    measured = [row for row in rows if row["of_target"]]
    reached = sum(row["of_target"] >= FIRST_LIGHT for row in measured)
    lines += ["", f"{reached} of {len(measured)} measured rows reach {100 * FIRST_LIGHT:.0f} % of their target on H200."]
    return "\n".join(lines)


# The PyTorch side, in a process of its own ---------------------------------------------------------------------------

def _worker(peer, runs):
    return run_json([sys.executable, os.path.abspath(__file__), "--worker", peer, "--runs", str(runs)], dict(os.environ))


def _measure_peer(peer, runs):
    answers = {}
    for shape in shapes_of(peer):
        try:
            answers[shape] = gpu_peer.attention_milliseconds(shape, peer, runs)
        except Exception as error:  # noqa: BLE001: one shape that a library refuses is a row, not the end
            answers[shape] = {"error": str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)}
    print(json.dumps(answers))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plimsoll", default=str(gpu_peer._ROOT / "build-cuda/plimsoll"), metavar="PATH")
    parser.add_argument("--peak-from", metavar="FILE")
    parser.add_argument("--runs", type=int, default=3, help="measurements; the best counts (default 3)")
    parser.add_argument("--json", metavar="OUT", help="also write every number to this file")
    parser.add_argument("--list", action="store_true", help="print the targets and measure nothing")
    parser.add_argument("--worker", choices=[peer for peers in PEERS.values() for peer in peers], help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.worker:
        _measure_peer(a.worker, a.runs)
        return 0
    if a.list:
        print(table(rows_of({}, None)))
        return 0
    peak = None
    if a.peak_from:
        try:
            peak = measured_peak(Path(a.peak_from).read_text())
        except OSError as error:
            parser.error(f"--peak-from {a.peak_from}: {error.strerror}")
        if peak is None:
            parser.error(f"--peak-from {a.peak_from}: there is no line 'measured peak: ... GFLOP/s (product)' in it")
    if not os.access(a.plimsoll, os.X_OK):
        print(f"gpu_targets: there is no program at '{a.plimsoll}'; scripts/gpu_check.sh builds it, or name it with "
              "--plimsoll", file=sys.stderr)
        return 1
    peers = [peer for peers in PEERS.values() for peer in peers]
    if importlib.util.find_spec("torch") is None:
        print("gpu_targets: PyTorch is not installed for this Python: only plimsoll is measured", file=sys.stderr)
        peers = []
    found, failures = measure(a.plimsoll, peers, a.runs, lambda text: print(text, file=sys.stderr, flush=True))
    rows = rows_of(found, peak)
    print(table(rows))
    for failure in failures:
        print(f"\nfailed: {failure}")
    if a.json:
        Path(a.json).write_text(json.dumps({"peak": peak, "rows": rows, "failures": failures}, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
