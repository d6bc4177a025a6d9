"""The matrix of faults: each one against the real program, with what must come out of it. scripts/faults.sh starts it.

    tests/faults/matrix.py --short F2 F3
"""

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"
FAULTS = {}


class Skipped(Exception):
    """This machine cannot have the fault."""


def fault(name, injected, required):
    """Registers a function Bench -> text of what came out, which raises Broken if that is not what is required."""
    def register(function):
        FAULTS[name] = (injected, required, function)
        return function
    return register


def try_fault(name, bench):
    """One row of the table: name, injected, required, result, seconds; and whether it is as required."""
    injected, required, function = FAULTS[name]
    print(f"{name}: {injected}", flush=True)
    started = time.monotonic()
    good = True
    try:
        result = function(bench)
    except Skipped as reason:
        result = f"skipped: {reason}"
    except Exception as broken:  # one row's, whatever it is: the others are tried still
        good, result = False, f"FAILED: {type(broken).__name__}: {broken}"
    seconds = time.monotonic() - started
    print(f"{name}: {result} ({seconds:.1f} s)", flush=True)
    one_line = " ".join(result.split()).replace("|", "/")
    return (name, injected, required, one_line[:300], f"{seconds:.0f}"), good


def table(rows):
    lines = ["| fault | injected | required | result | s |", "|---|---|---|---|--:|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def machine():
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else "a CPU"


def put_into(readme, text):
    """Replaces what stands between the markers of a README."""
    old = readme.read_text()
    begin, end = old.index(BEGIN) + len(BEGIN), old.index(END)
    readme.write_text(f"{old[:begin]}\n{text}{old[end:]}")


def number(name):
    return int(name[1:])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help="F1 F2 ...; all by default")
    parser.add_argument("--short", action="store_true", help="fewer points of each, for every change of the program")
    parser.add_argument("--rounds", type=int, default=0, help="kills of F1 (200, short 10)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", default=ROOT / "build/plimsoll")
    parser.add_argument("--shim", default=ROOT / "build/libcrash_shim.so")
    parser.add_argument("--table", type=Path, help="write the Markdown table here")
    parser.add_argument("--readme", type=Path, help="put the table between the markers of this README")
    options = parser.parse_args(argv)
    for module in ("faults_kill", "faults_disk", "faults_damage", "faults_ranks",
                   "faults_resume"):
        importlib.import_module(module)
    from harness import Bench
    unknown = [name for name in options.faults if name not in FAULTS]
    if unknown:
        parser.error(f"no such fault: {' '.join(unknown)}; there are {' '.join(sorted(FAULTS, key=number))}")
    if not shutil.which("mpirun"):
        print("skipped: mpirun is missing (apt-get install openmpi-bin)")
        return 77
    rows, good = [], True
    with tempfile.TemporaryDirectory(prefix="plimsoll_faults_") as scratch:
        bench = Bench(options.program, options.shim, scratch, options.short, options.rounds, options.seed)
        for name in options.faults or sorted(FAULTS, key=number):
            row, ended_well = try_fault(name, bench)
            rows.append(row)
            good = good and ended_well
    text = table(rows)
    print(f"\n{text}")
    kind = "Short selection" if options.short else "All points"
    text = f"{kind}, {time.strftime('%Y-%m-%d')}, {machine()}, seed {options.seed}.\n\n{text}"
    if options.table:
        options.table.write_text(text)
    if options.readme:
        put_into(options.readme, text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.modules["matrix"] = sys.modules[__name__]  # the faults register here
    sys.exit(main())
