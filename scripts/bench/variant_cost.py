#!/usr/bin/env python3
"""What a step of each attention variant costs over one of softmax on this machine, and what probes cost a run.

    scripts/bench/variant_cost.py                                   # every file of configs/variants, then probes
    scripts/bench/variant_cost.py --variants sigmoid,gated_headwise --no-probes --pairs 40
    scripts/bench/variant_cost.py --no-probes --config configs/models/mini.toml --set train.micro_batch=4
    scripts/bench/variant_cost.py --resume --readme                 # goes on after a stop; the table in configs/README.md

Variants: `plimsoll bench --config FILE --variant NAME --against softmax` lets whole training steps (forward, backward,
optimizer) of the two take turns in one process, so that a pair lies within a second and the machine's moods hit both; the
order changes from pair to pair, and the pairs are shared out over --processes, since memory lies differently in each.
Files of configs/variants that are named after a size (with a hyphen) are left out. A switch of QK-norm in a variant's file
is no part of its cost: softmax gets it too. softmax beside itself shows the noise.

Probes: whole runs of --probe-config with probes.enabled = true and false take turns, with the spacing and the number of
rows that it has; what counts is the time of the process, evaluations only at both ends and on 16 rows.

The ratio is the median over pairs; beside it the interval which holds the true median with 95 % (order statistics). A limit
inside the interval is said not to be told apart. Wanted: at most 1.10; sigmoid 1.00; gated_headwise 1.02; probes 1.05.

Exit status: 0 everything measured and within its limit; 1 something is beyond or failed; 2 wrong usage.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import tomllib
from datetime import date
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peer_tables  # noqa: E402
import processes  # noqa: E402
from peer_runner import machine, program_version  # noqa: E402
from processes import attempt, positive  # noqa: E402

_ROOT = Path(__file__).resolve().parents[2]
_VARIANTS = _ROOT / "configs/variants"
_PAGE = _ROOT / "configs/README.md"
MARKERS = "<!-- variant cost -->", "<!-- end of variant cost -->"
LIMIT = 1.10
LIMITS = {"sigmoid": 1.00, "gated_headwise": 1.02, "probes": 1.05}
PAIRS = 20  # fewer give no verdict
# Three layers, T 256, 64 rows; four heads of 64 instead of one, since differential attention wants an even number.
DEFAULT = ["--config", str(_ROOT / "configs/experiments/bb3.toml"), "--set", "train.batch_tokens=16384", "--set",
           "model.heads=4"]
NEEDS = {"differential_v2": ["model.kv_heads=2"]}  # an even number of heads per key head


def variant_names(folder=_VARIANTS):
    """softmax first, the noise."""
    names = sorted(path.stem for path in folder.glob("*.toml") if "-" not in path.stem)
    return sorted(names, key=lambda name: name != "softmax")


def shared_settings(name, folder=_VARIANTS):
    """What a variant's file sets that is no part of its cost, and what it cannot do without: for softmax too."""
    model = tomllib.loads((folder / f"{name}.toml").read_text()).get("model", {})
    settings = [f"model.qk_norm={str(model['qk_norm']).lower()}"] if "qk_norm" in model else []
    return [word for setting in settings + NEEDS.get(name, []) for word in ("--set", setting)]


def median_interval(values):
    """(low, high): order statistics between which the median of the distribution lies with at least 95 %, or the whole
    range where there are too few values. P(fewer than k of n lie below the median) is the binomial's of n and 1/2."""
    values, n = sorted(values), len(values)
    k, below = 0, 0.0
    while k < n // 2 and below + math.comb(n, k) / 2**n <= 0.025:
        below += math.comb(n, k) / 2**n
        k += 1
    return values[max(k - 1, 0)], values[n - max(k, 1)]


def judge(name, ratios):
    """{"ratio", "low", "high", "pairs", "limit", "within": None with too few pairs, "told_apart"}"""
    low, high = median_interval(ratios)
    ratio, limit = statistics.median(ratios), LIMITS.get(name, LIMIT)
    return {"ratio": ratio, "low": low, "high": high, "pairs": len(ratios), "limit": limit,
            "within": ratio <= limit if len(ratios) >= PAIRS else None, "told_apart": not low <= limit <= high}


def words(entry):
    if "error" in entry:
        return f"failed: {entry['error']}"
    if entry["within"] is None:
        return f"not judged, {entry['pairs']} pairs of {PAIRS}"
    return ("within" if entry["within"] else "beyond") + ("" if entry["told_apart"] else ", not told apart")


def measure_variant(name, plimsoll, options, pairs, shares, run=processes.run_json):
    """A variant's entry: judge() of its pairs, from so many processes, the medians in ms, and how many times softmax's FLOPs
    it has."""
    ours, theirs = [], []
    for index in range(shares):
        count = pairs // shares + (index < pairs % shares)
        answer = run([plimsoll, "bench", *options, *shared_settings(name), "--variant", name, "--against", "softmax",
                      "--steps", str(count), "--json"], dict(os.environ))
        ours += answer["ms"]
        theirs += answer["ms_against"]
    return judge(name, [a / b for a, b in zip(ours, theirs)]) | {
        "ms": statistics.median(ours), "ms_softmax": statistics.median(theirs),
        "flops": answer["flops_per_token"] / answer["flops_per_token_against"], "precision": answer["precision"]}


def run_seconds(plimsoll, config, enabled, options):
    """(seconds of the process, probes it made)."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        start = monotonic()
        processes.run([plimsoll, "train", config, "--run-dir", str(run), "--set",
                       f"probes.enabled={str(enabled).lower()}", "--set", "train.eval_every=0", "--set",
                       "train.eval_samples=16", *options], dict(os.environ))
        seconds = monotonic() - start
        probes = run / "probes.jsonl"
        return seconds, len(probes.read_text().splitlines()) if probes.exists() else 0


def measure_probes(plimsoll, config, options, pairs, say, time_run=run_seconds):
    """The entry of probes: runs with and without, in turns, the order changing."""
    ratios, seconds, made = [], {True: [], False: []}, 0
    for index in range(pairs):
        for enabled in (True, False) if index % 2 == 0 else (False, True):
            took, probes = time_run(plimsoll, config, enabled, options)
            seconds[enabled].append(took)
            made = max(made, probes)
        ratios.append(seconds[True][-1] / seconds[False][-1])
        say(f"probes | pair {index + 1} of {pairs}: {seconds[True][-1]:.2f} s with, {seconds[False][-1]:.2f} s without")
    return judge("probes", ratios) | {"ms": 1e3 * statistics.median(seconds[True]),
                                      "ms_without": 1e3 * statistics.median(seconds[False]), "probes": made}


def table(variants, probes):
    lines = []
    if variants:
        lines = ["| variant | ms/step | softmax beside it | FLOPs | cost | 95 % interval | wanted | |",
                 "|---|---:|---:|---:|---:|---:|---:|---|"]
    for name, entry in variants.items():
        numbers = " |" * 6 if "error" in entry else (
            f" {entry['ms']:.1f} | {entry['ms_softmax']:.1f} | {entry['flops']:.3f} | {_costs(entry)} |")
        lines.append(f"| {name} |{numbers} {words(entry)} |")
    if probes:
        numbers = " |" * 6 if "error" in probes else (
            f" {probes['ms'] / 1e3:.2f} | {probes['ms_without'] / 1e3:.2f} | {probes['probes']} | {_costs(probes)} |")
        lines += ["| runs | s with probes | s without | probes made | cost | 95 % interval | wanted | |",
                  "|---|---:|---:|---:|---:|---:|---:|---|", f"| probes |{numbers} {words(probes)} |"]
        if variants:
            lines.insert(-3, "")
    return "\n".join(lines)


def _costs(entry):
    return f"{entry['ratio']:.3f} | {entry['low']:.3f} to {entry['high']:.3f} | {entry['limit']:.2f}"


def page_with(page, data):
    """The page's text with what was measured in this machine's section. Throws ValueError without markers or numbers."""
    machine_ = data["machine"]
    pairs = sorted({entry["pairs"] for entry in [*data["variants"].values(), data["probes"] or {}] if "pairs" in entry})
    if not pairs:
        raise ValueError("nothing was measured; the section stays as it was")
    head = (f"{peer_tables.processor(machine_)}, {machine_['threads']} threads, {data['date']}; medians of "
            f"{peer_tables.span(pairs)} pairs of steps, or of runs.")
    return peer_tables.put_into(page, machine_, f"{head}\n\n{table(data['variants'], data['probes'])}\n", MARKERS)


def measured_before(path, machine_, options, pairs):
    """What a file of --json holds by this program on this machine: (variants, probes), those with as many pairs."""
    try:
        data = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}, None
    if (data.get("machine"), data.get("options")) != (machine_, options):
        return {}, None
    enough = {name: entry for name, entry in data["variants"].items() if entry.get("pairs", 0) >= pairs}
    probes = data["probes"] if data["probes"] and data["probes"].get("pairs", 0) >= pairs else None
    return enough, probes


def main(argv=None):
    legal = variant_names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", help="comma-separated; default: every file that is for any size")
    parser.add_argument("--config", help="default: configs/experiments/bb3.toml with 64 rows a step and four heads")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of both sides; may be repeated")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--pairs", type=positive, default=PAIRS, help=f"default {PAIRS}, the fewest for a verdict")
    parser.add_argument("--processes", type=positive, default=2, help="that share the pairs of a variant (default 2)")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--no-variants", action="store_true", help="measure probes only")
    parser.add_argument("--no-probes", action="store_true", help="measure variants only")
    parser.add_argument("--probe-config", default=str(_ROOT / "configs/quickstart.toml"), metavar="FILE",
                        help="default: configs/quickstart.toml")
    parser.add_argument("--probe-set", action="append", default=[], metavar="KEY=VALUE", help="of its runs; may be repeated")
    parser.add_argument("--plimsoll", default=str(_ROOT / "build/plimsoll"), metavar="PATH", help="default: build/plimsoll")
    parser.add_argument("--json", metavar="OUT", help="write every number to this file, after every measurement (default with "
                        "--resume or --readme: runs/variant_cost.json)")
    parser.add_argument("--resume", action="store_true", help="keep what that file holds by this program on this machine")
    parser.add_argument("--readme", action="store_true", help="put everything into configs/README.md, as this machine's section")
    a = parser.parse_args(argv)
    names = [name.strip() for name in a.variants.split(",")] if a.variants else legal
    for name in names:
        if name not in legal:
            parser.error(f"--variants: '{name}' is not one of {', '.join(legal)}")
    if a.processes > a.pairs:
        parser.error(f"--processes {a.processes} is more than --pairs {a.pairs}")
    if a.readme and (a.variants or a.config or a.set or a.no_variants or a.no_probes or a.probe_set or a.pairs < PAIRS):
        parser.error("--readme wants every variant and probes, as they are measured without other options")
    a.json = a.json or (str(_ROOT / "runs/variant_cost.json") if a.resume or a.readme else None)
    if not os.access(a.plimsoll, os.X_OK):
        print(f"variant_cost: there is no program at '{a.plimsoll}'; build plimsoll, or name it with --plimsoll",
              file=sys.stderr)
        return 1

    def say(text):
        print(text, file=sys.stderr, flush=True)

    def settings_of(pairs):
        return [word for pair in pairs for word in ("--set", pair)]

    options = [*(["--config", a.config] if a.config else DEFAULT), *settings_of(a.set), "--precision", a.precision,
               "--threads", str(a.threads)]
    data = {"machine": machine() | {"threads": a.threads, "plimsoll": program_version(a.plimsoll)},
            "options": options, "date": date.today().isoformat(), "variants": {}, "probes": None}
    if a.resume:
        data["variants"], data["probes"] = measured_before(a.json, data["machine"], options, a.pairs)
    if os.getloadavg()[0] > 0.5:
        say(f"warning: the load is {os.getloadavg()[0]:.1f}; what else runs here makes intervals wide")

    def save():
        if a.json:
            Path(a.json).parent.mkdir(parents=True, exist_ok=True)
            Path(a.json).write_text(json.dumps(data, indent=1) + "\n")

    for name in () if a.no_variants else names:
        if name in data["variants"]:
            continue
        entry = attempt(lambda: measure_variant(name, a.plimsoll, options, a.pairs, a.processes))
        data["variants"] = {one: (data["variants"] | {name: entry})[one] for one in legal
                            if one == name or one in data["variants"]}
        say(f"{name}: {words(entry)}" + ("" if "error" in entry else f", {entry['ratio']:.3f} of softmax"))
        save()
    if not a.no_probes and not data["probes"]:
        probe_options = [*settings_of(a.probe_set), "--set", f"run.threads={a.threads}"]
        data["probes"] = attempt(lambda: measure_probes(a.plimsoll, a.probe_config, probe_options, a.pairs, say))
        save()
    print(f"{data['machine']['processor']}, {a.threads} threads; {a.pairs} pairs\n")
    print(table(data["variants"], data["probes"]))
    if a.readme:
        try:
            _PAGE.write_text(page_with(_PAGE.read_text(encoding="utf-8"), data), encoding="utf-8")
        except ValueError as error:
            print(f"variant_cost: {_PAGE.name}: {error}", file=sys.stderr)
            return 1
    entries = [*data["variants"].values(), *([data["probes"]] if data["probes"] else [])]
    return 1 if any("error" in entry or entry["within"] is False for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main())
