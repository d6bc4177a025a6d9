"""What the exporters share: the command line, and the loop that moves points from runs to writers.

A writer has begin(settings, config_text), add(point), rewind(step) -> step from which it wants points again, flush()
and close().
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from .follow import RunFollower


def parse(description, argv, default_out):
    parser = argparse.ArgumentParser(description=description, epilog="Exit status: 0 exported; 1 a directory was no run, "
                                     "or could not be written to; 2 wrong usage or a missing Python package.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory; of a sweep DIR/*")
    parser.add_argument("--out", metavar="DIR", help=f"where to write; default: '{default_out}' beside the first run")
    parser.add_argument("--follow", action="store_true", help="go on while runs go on: until run.json of each says done or "
                        "stopped, or Ctrl-C")
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two looks with --follow")
    options = parser.parse_args(argv)
    if options.interval <= 0:
        parser.error("--interval must be above 0")
    options.out = Path(options.out) if options.out else Path(options.runs[0]).resolve().parent / default_out
    return options


def run_directories(names, out, say):
    """-> ({name: path}, directories that are no run). Files, reports and the output directory are what DIR/* also finds."""
    found, bad = {}, 0
    for path in map(Path, names):
        here = path.resolve()
        if path.is_file() or here == out.resolve() or (path / "report.html").exists() or here in found.values():
            continue
        if not (path / "run.json").is_file():
            say(f"'{path}' holds no run.json: no run, or it has not started; of a sweep give its cells, as {path}/*")
            bad += 1
            continue
        found[here.name if here.name not in found else f"{here.parent.name}_{here.name}"] = here
    return found, bad


def export(runs, open_writer, follow=False, interval=2.0, say=print, wait=time.sleep):
    """Moves every run's points into open_writer(name, path). -> points moved."""
    under_way, moved = [], 0
    try:
        for name, path in runs.items():
            follower, writer = RunFollower(path), open_writer(name, path)
            writer.begin(follower.settings(), follower.config_text())
            under_way.append((name, follower, writer))
            moved += _move(under_way, under_way[-1], not follow, say)
        while under_way:
            wait(interval)
            moved += sum(_move(under_way, entry, False, say) for entry in list(under_way))
    except KeyboardInterrupt:
        say("stopped; what the runs hold so far is exported")
        moved += sum(_move(under_way, entry, True, say) for entry in list(under_way))
    finally:
        for _, _, writer in under_way:
            writer.close()
    return moved


def _move(under_way, entry, all_of_it, say):
    """What came since, to the entry's writer; takes an entry that has ended off the list. -> points moved."""
    name, follower, writer = entry
    update = follower.poll(all_of_it)
    if update.rewind is not None:
        step = writer.rewind(update.rewind)
        say(f"{name}: the run went back to step {update.rewind}; what came after it is replaced")
        follower.restart(step)
        update = follower.poll(all_of_it)
    for point in update.points:
        writer.add(point)
    writer.flush()
    if update.ended or all_of_it:
        under_way.remove(entry)
        writer.close()
        if follower.bad_lines:
            say(f"{name}: {follower.bad_lines} lines that are no JSON object with a step were left out")
    return len(update.points)


def main(tool, description, argv, default_out, package, open_writers):
    """The exporter's main(). open_writers(out) -> open_writer; it raises ImportError where `package` is absent."""
    options = parse(description, argv, default_out)

    def say(text):
        print(f"{tool}: {text}", file=sys.stderr, flush=True)
    try:
        open_writer = open_writers(options.out)
    except ImportError as error:
        say(f"Python package '{error.name or package}' is missing; 'pip install {package}' in a virtual environment adds "
            "it, then start this script with that environment's python")
        return 2
    runs, bad = run_directories(options.runs, options.out, say)
    if not runs:
        say("none of the given directories is a run; nothing was written")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        points = export(runs, open_writer, options.follow, options.interval, say)
    except OSError as error:
        say(f"cannot write '{error.filename or options.out}': {error.strerror}")
        return 1
    print(f"{tool}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {points} steps -> {options.out}")
    return 1 if bad else 0
