#!/usr/bin/env python3
"""Times training steps of PyTorch and of plimsoll on this machine's CPU, side by side.

    scripts/bench/torch_peer.py                            # bf16 where the CPU has it; PyTorch's best row of all
    scripts/bench/torch_peer.py --precision fp32           # fp32 without AMX, against PyTorch's fp32 rows
    scripts/bench/torch_peer.py --no-steps --scaling --attention-lengths
    scripts/bench/torch_peer.py --no-steps --readme        # what was measured, into README.md and kernels/README.md

A step is forward, backward and AdamW (fused in PyTorch), without clipping and without the norm that it needs, on one fixed
batch. Every run is a process of its own.

Screening: each PyTorch row (eager, torch.compile, torch.compile max-autotune; bf16 autocast, fp32; glibc's malloc, the
same with huge pages, jemalloc, jemalloc that keeps all memory in huge pages) runs once, for two timed steps. The fastest
(--finalists) then take turns with plimsoll for --rounds rounds; each round begins with another of them.

What counts: of a run the median of its timed steps, which is what a training run would see, where the best step is what
it never sees; of a row the median of its rounds. The ratio is that of PyTorch's best median to plimsoll's: the best is
picked after the fact, which favours PyTorch. In brackets the least and the greatest quotient within one round. Peak memory
is the largest resident set of the process (of PyTorch without the compilers it starts), the most of all runs.

Everything is kept in --json as soon as it is measured; with --resume what is there is not measured again, if machine,
program and settings are the same. An interrupted round is measured anew.

Exit status: 0 everything measured; 1 something failed, or torch or plimsoll is missing; 2 wrong usage.
"""

import argparse
import os
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peer_rows  # noqa: E402
import peer_tables  # noqa: E402
import torch_step  # noqa: E402
from peer_rows import ALLOCATORS, MODES, PRECISIONS, SHAPES, Row  # noqa: E402
from peer_runner import Results, Runner, machine, program_version, torch_version  # noqa: E402
from processes import attempt, positive  # noqa: E402

_ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
ATTENTION_HEADS, ATTENTION_HEAD_SIZE = 12, 64  # GPT-2's
QUICK = dict(shapes=("gpt2-t64", "bb3"), modes=("eager",), allocators=("default", "hugetlb"), steps=2, rounds=1,
             finalists=1, lengths=(256, 1024))


def _words(run):
    return run["error"] if "error" in run else f"{run['ms']:.1f} ms, {run['bytes'] / 1e6:.0f} MB"


def measure_shape(shape, precision, rows, runner, result, rounds, count, say, save, with_plimsoll=True):
    """Fills `result` ({"screening": {row: run}, "rounds": [{row: run}]}) with what is not in it yet: see above."""
    for row in rows:
        if row.name not in result["screening"]:
            result["screening"][row.name] = attempt(lambda: runner.torch(shape, row, peer_rows.SCREENING_STEPS))
            say(f"{shape} | screening | {row.name}: {_words(result['screening'][row.name])}")
            save()
    names = (["plimsoll"] if with_plimsoll else []) + peer_rows.finalists(result["screening"], count)
    if names:
        left = rounds - len(result["rounds"])
        screened = [result["screening"][name] for name in names if name != "plimsoll"]
        seconds = sum(peer_rows.seconds_of_round(run, runner.steps) for run in screened)
        say(f"{shape} | {left} rounds of {', '.join(names)}: about {peer_tables.duration(left * seconds)}")
    while names and len(result["rounds"]) < rounds:
        one = {}
        for name in peer_rows.turns(names, len(result["rounds"])):
            one[name] = attempt(lambda: runner.plimsoll(shape, precision) if name == "plimsoll"
                                 else runner.torch(shape, Row.parse(name)))
            say(f"{shape} | round {len(result['rounds']) + 1} of {rounds} | {name}: {_words(one[name])}")
        result["rounds"].append(one)
        save()


def measure_scaling(shapes, threads, runner, rounds, say):
    """{shape: [{threads: run} per round]}; the numbers of threads take turns."""
    found = {}
    for shape in shapes:
        found[shape] = []
        for index in range(rounds):
            one = {str(count): attempt(lambda: runner.plimsoll(shape, "auto", count))
                   for count in peer_rows.turns(list(threads), index)}
            say(f"{shape} | round {index + 1} of {rounds} | " +
                "; ".join(f"{count} threads {_words(run)}" for count, run in sorted(one.items())))
            found[shape].append(one)
    return found


def measure_lengths(lengths, runner, rounds, say):
    """[{T: {weighting: {"forward": ms, "backward": ms}}} per round]; the lengths take turns."""
    found = []
    for index in range(rounds):
        one = {str(T): attempt(lambda: runner.attention(T, ATTENTION_HEADS, ATTENTION_HEAD_SIZE))
               for T in peer_rows.turns(list(lengths), index)}
        say(f"attention | round {index + 1} of {rounds}")
        found.append(one)
    return found


def failed(data):
    """Whether anything of what was measured is an error, other than an allocator that is not installed."""
    if isinstance(data, dict):
        if "error" in data:
            return "not found" not in data["error"]
        return any(failed(value) for value in data.values())
    return isinstance(data, list) and any(failed(value) for value in data)


def _name_list(legal):
    def parse(text):
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        for name in names:
            if name not in legal:
                raise argparse.ArgumentTypeError(f"'{name}' is not one of {', '.join(legal)}")
        return names
    return parse


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    aimed = ",".join(peer_rows.AIMS["auto"])
    parser.add_argument("--shapes", type=_name_list(SHAPES), help=f"of {','.join(SHAPES)}; default: {aimed}")
    parser.add_argument("--modes", type=_name_list(MODES), help=f"of PyTorch; default: {','.join(MODES)}")
    parser.add_argument("--allocators", type=_name_list(ALLOCATORS), help=f"of PyTorch; default: {','.join(ALLOCATORS)}")
    parser.add_argument("--precision", choices=tuple(peer_rows.AIMS), default="auto",
                        help="auto: plimsoll's best against PyTorch's best; fp32: without AMX, PyTorch's fp32 rows only")
    parser.add_argument("--steps", type=positive, help="timed steps of a run, after those that warm up; default 5")
    parser.add_argument("--rounds", type=positive, help=f"default {peer_rows.ROUNDS}, the fewest for a verdict")
    parser.add_argument("--finalists", type=positive, help="PyTorch rows that go on after the screening; default 3")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--plimsoll", default=str(_ROOT / "build/plimsoll"), metavar="PATH", help="default: build/plimsoll")
    parser.add_argument("--torch-only", action="store_true", help="leave plimsoll out")
    parser.add_argument("--no-steps", action="store_true", help="leave the steps out")
    parser.add_argument("--scaling", action="store_true", help="also plimsoll's steps with 1, 2, 4, ... threads")
    parser.add_argument("--attention-lengths", action="store_true",
                        help="also plimsoll's core attention on one sequence of 256 to 16,384 tokens")
    parser.add_argument("--json", default=str(_ROOT / "runs/bench/torch_peer.json"), metavar="FILE",
                        help="where every number is kept; default: runs/bench/torch_peer.json")
    parser.add_argument("--resume", action="store_true", help="do not measure again what FILE holds")
    parser.add_argument("--readme", action="store_true", help="put what FILE holds into README.md and kernels/README.md, as "
                        "this machine's sections")
    parser.add_argument("--quick", action="store_true",
                        help="gpt2-t64 and bb3, eager rows, 2 steps, one round, lengths up to 1,024, unless said otherwise")
    parser.add_argument("--worker", metavar="ROW", help=argparse.SUPPRESS)
    return parser


def _steps(a, runner, results, settings, say):
    """Measures the shapes and prints each. -> what was kept of them."""
    modes, precisions = a.modes or MODES, PRECISIONS if a.precision == "auto" else ("fp32",)
    rows = peer_rows.rows_of(modes, precisions, a.allocators or tuple(ALLOCATORS))
    kept = results.data.setdefault("steps", {}).setdefault(a.precision, {})
    for shape in a.shapes:
        if not (a.resume and kept.get(shape, {}).get("settings") == settings):
            kept[shape] = {"settings": settings, "screening": {}, "rounds": []}
        kept[shape]["date"] = date.today().isoformat()
    seconds = sum(peer_rows.guess_seconds(shape, [row for row in rows if row.name not in kept[shape]["screening"]])
                  for shape in a.shapes)
    say(f"screening {len(a.shapes)} shapes x {len(rows)} PyTorch rows: about {peer_tables.duration(seconds)} on two cores "
        f"with AMX; then {a.rounds} rounds of the best {a.finalists} of each")
    for shape in a.shapes:
        measure_shape(shape, a.precision, rows, runner, kept[shape], a.rounds, a.finalists, say, results.save,
                      not a.torch_only)
        print(peer_tables.shape_report(shape, a.precision, kept[shape]) + "\n", flush=True)
    return [kept[shape] for shape in a.shapes]


def main(argv=None):
    a = _parser().parse_args(argv)
    for name, usual in (("shapes", tuple(peer_rows.AIMS["auto"])), ("modes", MODES), ("allocators", tuple(ALLOCATORS)),
                        ("steps", 5), ("rounds", peer_rows.ROUNDS), ("finalists", 3)):
        setattr(a, name, getattr(a, name) or (QUICK[name] if a.quick else usual))
    if a.worker:
        torch_step.time_steps(SHAPES[a.shapes[0]], Row.parse(a.worker), a.steps, a.threads)
        return 0
    if not a.no_steps and torch_version() is None:
        print("torch_peer: PyTorch is not installed for this Python; run 'pip install torch numpy' in a virtual "
              "environment and start this script with that environment's python.", file=sys.stderr)
        return 1
    measures_plimsoll = a.scaling or a.attention_lengths or not (a.no_steps or a.torch_only)
    if measures_plimsoll and not os.access(a.plimsoll, os.X_OK):
        print(f"torch_peer: there is no program at '{a.plimsoll}'; build plimsoll, name it with --plimsoll, or "
              "measure PyTorch alone with --torch-only.", file=sys.stderr)
        return 1

    def say(text):
        print(text, file=sys.stderr, flush=True)

    results = Results(a.json)
    runner = Runner(a.plimsoll, a.steps, a.threads, os.path.abspath(__file__))
    settings = machine() | {"threads": a.threads, "timed_steps": a.steps, "torch": torch_version(),
                            "plimsoll": program_version(a.plimsoll) if measures_plimsoll else None}
    measured = []
    busy = os.getloadavg()[0]
    if measures_plimsoll and busy > 0.5:
        say(f"warning: the load is {busy:.1f}; what else runs here makes both sides slower")
    if not a.no_steps:
        measured.append(_steps(a, runner, results, settings, say))
    extra = {"settings": settings, "date": date.today().isoformat()}
    if a.scaling:
        counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count < a.threads] + [a.threads]
        results.data["scaling"] = extra | {"shapes": measure_scaling(a.shapes, counts, runner, a.rounds, say)}
        measured.append(results.data["scaling"])
        results.save()
        print(peer_tables.scaling_table(results.data["scaling"]) + "\n")
    if a.attention_lengths:
        lengths = QUICK["lengths"] if a.quick else LENGTHS
        results.data["attention"] = extra | {"rounds": measure_lengths(lengths, runner, a.rounds, say)}
        measured.append(results.data["attention"])
        results.save()
        print(peer_tables.attention_table(results.data["attention"]) + "\n")
    if a.readme:
        for name, text_of in peer_tables.PAGES.items():
            page, text = _ROOT / name, text_of(results.data)
            try:
                if text:
                    page.write_text(peer_tables.put_into(page.read_text(encoding="utf-8"), machine(), text), encoding="utf-8")
            except ValueError as error:
                print(f"torch_peer: {name}: {error}", file=sys.stderr)
                return 1
    return 1 if failed(measured) else 0


if __name__ == "__main__":
    sys.exit(main())
