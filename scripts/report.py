#!/usr/bin/env python3
"""Writes a report about one or more plimsoll runs: report.html (self-contained), PNG figures, summary.json, summary.md.

    scripts/report.py runs/quickstart/* --out runs/quickstart/report
"""

import argparse
import os
import sys
from pathlib import Path


def _try_another_python():
    """Starts again with a Python that has the packages: this checkout's .venv, then the system's."""
    tried = os.environ.get("PLIMSOLL_REPORT_TRIED", "").split(os.pathsep)
    own = Path(__file__).resolve().parent.parent / ".venv/bin/python"
    for python in (str(own), "/usr/bin/python3"):
        if python not in tried and os.access(python, os.X_OK):
            os.environ["PLIMSOLL_REPORT_TRIED"] = os.pathsep.join([*tried, python])
            os.execv(python, [python, os.path.abspath(__file__), *sys.argv[1:]])


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Write report.html, figures, summary.json and summary.md about plimsoll run directories.",
        epilog="Runs that differ only in their seed are averaged. Exit status: 0 report written; 1 a run could not be "
               "read (the report holds the others); 2 wrong usage or a missing Python package.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory (holds run.json, metrics.jsonl, ...)")
    parser.add_argument("--out", metavar="DIR", help="where to write; default: 'report' beside the first run")
    parser.add_argument("--title", help="heading of the page")
    arguments = parser.parse_args(argv)

    try:
        from plimsoll_report.build import build
    except ImportError as error:
        _try_another_python()
        print(f"report: Python package '{error.name}' is missing; scripts/install_dependencies.sh adds it",
              file=sys.stderr)
        return 2
    out = Path(arguments.out) if arguments.out else Path(arguments.runs[0]).resolve().parent / "report"
    try:
        messages, usable, unusable = build(arguments.runs, out, arguments.title)
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
