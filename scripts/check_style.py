#!/usr/bin/env python3
"""Fails on what a reviewer should not have to say: files past 500 lines, C++ lines past 120 columns, tabs in C++,
trailing whitespace, conflicts of merges, headers without #pragma once, READMEs that name files or commands that do not exist, absolute paths of somebody's machine."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 500
MAX_COLUMNS = 120  # of C++, as .clang-format has it
CPP = {".h", ".hpp", ".cuh", ".cpp", ".cc", ".cu", ".def", ".inc"}
HEADERS = {".h", ".hpp", ".cuh"}
TEXT = CPP | {".py", ".sh", ".sbatch", ".cmake", ".md", ".toml", ".yml", ".yaml"}
DATA_FOLDERS = ("tests/golden/",)  # written by scripts, measured in bytes rather than lines
TOP = ("train", "model", "kernels", "dist", "data", "configs", "scripts", "tests", ".ci")
SKIPPED = re.compile(r"^(build[^/]*|runs|\.git|\.venv|\.deps|report)$|^__pycache__$")
# Home, working and mount directories; system paths such as those of programs and devices are fine.
_MACHINE = re.compile(r"(?<![\w.:/}\-])/(?:home|root|work|Users|mnt|scratch|workspace)/[\w.]")
_PATH = re.compile(r"^(?:\./)?((?:%s)/[\w./\-]+|CMake\w+\.\w+)$" % "|".join(re.escape(top) for top in TOP))
_SUBCOMMAND = re.compile(r"^(?:\./)?(?:build/|\.\./)?plimsoll$")


def files_of(root):
    """Tracked and new files as git sees them; without git every file outside build and run directories."""
    try:
        done = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"],
                              capture_output=True, check=True)
        names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = []
        for folder, folders, here in os.walk(root):
            folders[:] = [name for name in folders if not SKIPPED.match(name)]
            names += [(Path(folder) / name).relative_to(root).as_posix() for name in here]
    return [name for name in sorted(set(names)) if (root / name).is_file()]


def is_text(name):
    path = Path(name)
    return path.suffix in TEXT or path.name == "CMakeLists.txt" or name.startswith(".ci/")


def problems(root):
    root = Path(root).resolve()
    found = []
    commands = subcommands(root)
    for name in files_of(root):
        if not is_text(name) or name.startswith(DATA_FOLDERS):
            continue
        lines = (root / name).read_text(encoding="utf-8", errors="replace").splitlines()
        suffix = Path(name).suffix
        if len(lines) > MAX_LINES:
            found.append(f"{name}: {len(lines)} lines; split it before {MAX_LINES}")
        if suffix in HEADERS and not any(line.strip() == "#pragma once" for line in lines):
            found.append(f"{name}: no #pragma once")
        for number, line in enumerate(lines, 1):
            if re.match(r"(<{7}|>{7}|\|{7})( |$)", line):
                found.append(f"{name}:{number}: a conflict of a merge")
            if line != line.rstrip():
                found.append(f"{name}:{number}: trailing whitespace")
            if suffix in CPP and len(line) > MAX_COLUMNS:
                found.append(f"{name}:{number}: {len(line)} columns; run clang-format")
            if suffix in CPP and "\t" in line:
                found.append(f"{name}:{number}: tab")
            if _MACHINE.search(line):
                found.append(f"{name}:{number}: absolute path of a machine: {_MACHINE.search(line).group(0)}...")
        if Path(name).name == "README.md":
            found += readme_problems(root, name, lines, commands)
    return found


def subcommands(root):
    """Names given to add_subcommand in train/; None while there are none to compare with."""
    found = set()
    for source in (root / "train").rglob("*.cpp"):
        text = source.read_text(encoding="utf-8", errors="replace")
        found |= set(re.findall(r'add_subcommand\(\s*"([\w\-]+)"', text))
    return found or None


def readme_problems(root, name, lines, commands):
    """Every path of the repository in a code block exists, scripts are executable, subcommands are known."""
    found = []
    fence = language = None
    for number, line in enumerate(lines, 1):
        mark = re.match(r"\s*(```+|~~~+)\s*(\w*)", line)
        if mark:
            fence, language = (None, None) if fence else (mark.group(1), mark.group(2))
            continue
        if not fence or language not in ("", "sh", "bash", "shell", "console"):
            continue
        words = line.strip().lstrip("$ ").split(" #")[0].split()
        for place, word in enumerate(words):
            word = word.strip("'\"`,;()")
            path = _PATH.match(word)
            if path and not re.search(r"[*<>$]|\.\.\.", word):
                target = root / path.group(1)
                if not target.exists():
                    found.append(f"{name}:{number}: {word} does not exist")
                elif place == 0 and target.is_file() and not os.access(target, os.X_OK):
                    found.append(f"{name}:{number}: {word} is not executable")
            follow = words[place + 1] if place + 1 < len(words) else ""
            if commands and _SUBCOMMAND.match(word) and re.match(r"^[a-z][a-z\-]*$", follow) and follow not in commands:
                found.append(f"{name}:{number}: plimsoll has no subcommand '{follow}'")
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", default=Path(__file__).resolve().parent.parent, help="repository")
    found = problems(parser.parse_args(argv).root)
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"style: {len(found)} problems" if found else "style: nothing to say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
