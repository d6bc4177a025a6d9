#!/usr/bin/env python3
"""What the literature claims, what plimsoll measured: runs the sweeps of configs/findings, and judges what came out.

    scripts/findings.py --run quick            # says the cost, runs what is not done, writes the page
    scripts/findings.py --run gates full/gates --cost
    scripts/findings.py --readme               # the page again, and the table in README.md
"""

import argparse
import os
import sys
from pathlib import Path

from plimsoll_report.another_python import try_another_python

ROOT = Path(__file__).resolve().parent.parent
CONFIGS, RESULTS = Path("configs/findings"), Path("configs/findings/results")
RUNS = Path("runs/findings")  # where the sweeps' files say


def sweep_file(scale, name):
    return CONFIGS / f"{name}.toml" if scale == "quick" else CONFIGS / scale / f"{name}.toml"


def available():
    """-> {(scale, name): file}, in the order of the claims."""
    from plimsoll_report import claims
    return {(scale, name): sweep_file(scale, name) for scale in (claims.QUICK, claims.FULL) for name in claims.sweeps()
            if sweep_file(scale, name).is_file()}


def chosen(words, parser):
    """quick, full, NAME (its quick sweep) or full/NAME -> keys of available()"""
    there, found = available(), []
    for word in words:
        keys = [key for key in there if word in (key[0], f"{key[0]}/{key[1]}") or key == ("quick", word)]
        if not keys:
            parser.error(f"no sweep '{word}'; wanted quick, full, or one of "
                         f"{', '.join(name if scale == 'quick' else f'{scale}/{name}' for scale, name in there)}")
        found += [key for key in keys if key not in found]
    return found


def jobs_of(file, settings):
    """How many cells of a sweep run at a time."""
    import tomllib
    given = [setting.split("=", 1)[1] for setting in settings if setting.startswith("launch.jobs=")]
    return int(given[-1]) if given else tomllib.loads(file.read_text(encoding="utf-8")).get("launch", {}).get("jobs", 1)


def say_costs(keys, program, settings):
    from plimsoll_report.findings_run import commands_of, cost_of, duration
    total = 0.0
    for scale, name in keys:
        jobs = jobs_of(sweep_file(scale, name), settings)
        cells, commands = commands_of(program, sweep_file(scale, name), settings)
        seconds, how = cost_of(commands, jobs)
        total += seconds
        print(f"{scale}/{name}: {len(commands)} of {cells} cells to run, {jobs} at a time, about {duration(seconds)} ({how})",
              flush=True)
    if len(keys) > 1:
        print(f"in all about {duration(total)}", flush=True)


def run(keys, program, settings):
    """-> exit status; 0 also where cells failed, which the page says."""
    from plimsoll_report.findings_run import run_sweep
    for scale, name in keys:
        print(f"== {scale}/{name}", flush=True)
        goes_on, status = run_sweep(program, sweep_file(scale, name), settings)
        if not goes_on:
            print(f"findings: stopped in {scale}/{name}; the same command goes on", file=sys.stderr)
            return status if status > 0 else 128 - status
        if status:
            print(f"findings: {scale}/{name} ended with status {status}; its cells are in {RUNS / scale / name}",
                  file=sys.stderr)
    return 0


def measure_all(runs, results):
    """Summaries of the sweeps whose runs are here, which are written, and of those whose results are kept."""
    from plimsoll_report import claims, findings_page, measured
    from plimsoll_report.runs import UnusableRun
    summaries = []
    for scale, name in available():
        directory, file = runs / scale / name, results / scale / f"{name}.json"
        summary = measured.read_summary(file) if file.is_file() else None
        if directory.is_dir():
            try:
                fresh = measured.measure(directory, name, scale, name in ("dynamics", "optimizers"))
            except UnusableRun as error:
                print(f"findings: {error}", file=sys.stderr)
                fresh = None
            if fresh and any(cell["state"] == "done" for cell in fresh["cells"]):
                summary = fresh
                summary["claims"] = findings_page.judge(summary)
                measured.write_summary(file, summary)
        if summary:
            summaries.append(summary)
        elif claims.claims_of(name, scale):
            print(f"findings: {scale}/{name} has not been run")
    return summaries


def write_page(sections, out):
    from plimsoll_report import findings_page
    out.mkdir(parents=True, exist_ok=True)
    figures = findings_page.figures_of(sections)
    for file in out.glob("findings_*.png"):
        file.unlink()  # of an earlier page
    for drawn in figures.values():
        for figure in drawn:
            (out / f"{figure.name}.png").write_bytes(figure.png)
    (out / "findings.md").write_text(findings_page.markdown(sections), encoding="utf-8")
    (out / "findings.html").write_text(findings_page.html(sections, figures), encoding="utf-8")
    print(f"findings: {sum(len(section['rows']) for section in sections)} claims -> {out / 'findings.html'}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Measure what the literature claims about attention sinks, and say which claims are reproduced.",
        epilog="Summaries go to configs/findings/results, the page to runs/findings/page. Exit status: 0 done; 1 nothing "
               "measured, or something cannot be read; 2 wrong usage or a missing Python package; 85 stopped: the same "
               "command goes on.")
    parser.add_argument("--run", nargs="+", metavar="SWEEP", help="quick, full, the name of a quick sweep, full/NAME")
    parser.add_argument("--cost", action="store_true", help="with --run: only say what it would cost")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="with --run: override of a sweep's key, such as launch.jobs=1")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md, between its markers")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help=f"what is read: DIR/SCALE/NAME ({RUNS})")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help=f"of the summaries ({RESULTS})")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"of the page ({RUNS}/page)")
    parser.add_argument("--program", default="build/plimsoll", help="build/plimsoll")
    arguments = parser.parse_args(argv)
    for key in ("runs", "results", "out"):
        if getattr(arguments, key) is not None and getattr(arguments, key) not in (RUNS, RESULTS):
            setattr(arguments, key, getattr(arguments, key).resolve())
    os.chdir(ROOT)
    try:
        from plimsoll_report import findings_page
        from plimsoll_report.findings_run import CannotRun
    except ImportError as error:
        try_another_python(__file__)
        print("findings: Python 3.11 or newer is needed, for tomllib" if error.name == "tomllib" else
              f"findings: Python package '{error.name}' is missing; scripts/install_dependencies.sh adds it", file=sys.stderr)
        return 2
    if arguments.run:
        keys = chosen(arguments.run, parser)
        try:
            say_costs(keys, arguments.program, arguments.set)
            if arguments.cost:
                return 0
            status = run(keys, arguments.program, arguments.set)
        except (CannotRun, OSError, ValueError) as error:
            print(f"findings: {error}", file=sys.stderr)
            return 1
        if status:
            return status
    try:
        sections = findings_page.document(measure_all(arguments.runs, arguments.results))
    except (ValueError, OSError) as error:
        print(f"findings: {error}", file=sys.stderr)
        return 1
    if not sections:
        print("findings: nothing has been measured; scripts/findings.py --run quick", file=sys.stderr)
        return 1
    write_page(sections, arguments.out or arguments.runs / "page")
    if arguments.readme:
        readme = Path("README.md")
        try:
            readme.write_text(findings_page.put_into(readme.read_text(encoding="utf-8"),
                                                     findings_page.readme_table(sections)), encoding="utf-8")
        except ValueError as error:
            print(f"findings: README.md: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
