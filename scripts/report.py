#!/usr/bin/env python3
"""Writes a report about one or more plimsoll runs: report.html (self-contained), PNG figures, summary.json, summary.md.

    scripts/report.py runs/quickstart/* --out runs/quickstart/report
    scripts/report.py --sweep runs/quick-sweep
"""

import argparse
import sys
from pathlib import Path

from plimsoll_report.another_python import try_another_python


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Write report.html, figures, summary.json and summary.md about plimsoll run directories.",
        epilog="Runs that differ only in their seed are averaged. Exit status: 0 report written; 1 a run could not be "
               "read, or a cell of a sweep is not done (the report holds the others and says so); 2 wrong usage or a "
               "missing Python package.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run directory (holds run.json, metrics.jsonl, ...), or "
                        "one directory of a sweep (holds sweep.jsonl)")
    parser.add_argument("--sweep", metavar="DIR", help="directory of a sweep: with statistics over its seeds")
    parser.add_argument("--out", metavar="DIR", help="where to write; default: 'report' beside the first run, or in the "
                        "sweep's directory")
    parser.add_argument("--title", help="heading of the page")
    arguments = parser.parse_args(argv)

    if bool(arguments.runs) == bool(arguments.sweep):
        parser.error("wanted run directories, or --sweep with one directory")

    try:
        from plimsoll_report.build import build, build_sweep
        from plimsoll_report.runs import UnusableRun
        from plimsoll_report.sweep_cells import is_sweep
    except ImportError as error:
        try_another_python(__file__)
        print(f"report: Python package '{error.name}' is missing; scripts/install_dependencies.sh adds it",
              file=sys.stderr)
        return 2
    sweep = arguments.sweep or (arguments.runs[0] if len(arguments.runs) == 1 and is_sweep(arguments.runs[0]) else None)
    beside = Path(sweep) if sweep else Path(arguments.runs[0]).resolve().parent
    out = Path(arguments.out) if arguments.out else beside / "report"
    try:
        if sweep:
            messages, usable, unusable = build_sweep(sweep, out, arguments.title)
        else:
            messages, usable, unusable = build(arguments.runs, out, arguments.title)
    except UnusableRun as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"report: cannot write '{error.filename or out}': {error.strerror}", file=sys.stderr)
        return 1
    for message in messages:
        print(f"report: {message}", file=sys.stderr)
    if not usable:
        print("report: none of the given directories is a readable run; nothing was written", file=sys.stderr)
        return 1
    print(f"report: {usable} run{'s' if usable > 1 else ''} -> {out / 'report.html'}")
    return 1 if unusable else 0


if __name__ == "__main__":
    sys.exit(main())
