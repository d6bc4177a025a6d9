#!/usr/bin/env python3
"""Fails when a source file includes a room it must not know.

    kernels  <-  data (error.h, dtype.h, random.h only)
    kernels  <-  dist
    kernels  <-  model
    kernels, data, dist, model  <-  train  <-  nothing

Tests may include everything; nothing outside tests/ includes tests/.
"""

import argparse
import re
import sys
from pathlib import Path

ROOMS = {
    "kernels": {"kernels"},
    "data": {"data"},
    "dist": {"kernels", "dist"},
    "model": {"kernels", "model"},
    "train": {"kernels", "data", "dist", "model", "train"},
}
# Single headers of another room that a room may include besides.
HEADERS = {"data": {"kernels/error.h", "kernels/dtype.h", "kernels/random.h"}}
SUFFIXES = {".h", ".hpp", ".cuh", ".cpp", ".cc", ".cu", ".def", ".inc"}
_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def included_file(root, source, name):
    """The path inside the repository that an include names, or None for a foreign or generated header."""
    for base in (source.parent, root):
        path = (base / name).resolve()
        if path.is_file() and root in path.parents:
            return path.relative_to(root).as_posix()
    parts = Path(name).parts
    return name if len(parts) > 1 and (parts[0] in ROOMS or parts[0] == "tests") else None


def problems(root):
    """-> 'file:line: message' for every arrow drawn the other way."""
    root = Path(root).resolve()
    found = []
    for room, allowed in ROOMS.items():
        for source in sorted((root / room).rglob("*")):
            if source.suffix not in SUFFIXES or not source.is_file():
                continue
            for number, line in enumerate(source.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                match = _INCLUDE.match(line)
                target = match and included_file(root, source, match.group(2))
                if not target:
                    continue
                other = Path(target).parts[0]
                if other in allowed or target in HEADERS.get(room, ()):
                    continue
                where = f"{source.relative_to(root).as_posix()}:{number}"
                extra = "".join(f", {header}" for header in sorted(HEADERS.get(room, ())))
                found.append(f"{where}: {room}/ includes {target}; it may include {', '.join(sorted(allowed))}{extra}")
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description="Fail on an include drawn against the direction of the rooms.")
    parser.add_argument("root", nargs="?", default=Path(__file__).resolve().parent.parent, help="repository")
    found = problems(parser.parse_args(argv).root)
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"includes: {len(found)} drawn the other way" if found else "includes: all arrows point the right way")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
