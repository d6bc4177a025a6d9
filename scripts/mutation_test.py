#!/usr/bin/env python3
"""Breaks one line of mathematics at a time and requires that a test fails: a test that cannot fail is a defect.

    scripts/mutation_test.py                in a copy of the tree; prints mutation | caught by
    scripts/mutation_test.py --only rank    those whose name holds a word
    scripts/mutation_test.py --list         only names them
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Tables of mutations: `text` stands in `file` once; `becomes` breaks it, nothing where it is left out; a test of
# `program` that `tests`, a filter of gtest's, picks must notice, with the variables of `environment` set.
TABLES = sorted((ROOT / "scripts/mutations").glob("*.toml"))
Mutation = namedtuple("Mutation", "name file text becomes program tests environment")


def applicable(root):
    """The mutations whose text stands in its file exactly once."""
    for table, row in ((table, row) for table in TABLES for row in tomllib.loads(table.read_text())["mutation"]):
        mutation = Mutation(**{"becomes": "", "environment": {}} | row)
        count = (root / mutation.file).read_text().count(mutation.text)
        if count != 1:
            sys.exit(f"mutation_test: '{mutation.name}': {mutation.file} holds its text {count} times, wanted once; "
                     f"change {table.relative_to(ROOT)}")
        yield mutation


def left_out(folder, names):
    """What a copy of the tree does without: what was built, and what runs left."""
    top = Path(folder) == ROOT
    return [name for name in names if name == "__pycache__" or (top and (name.startswith("build") or name in ("runs", ".git")))]


def build(tree, programs):
    done = subprocess.run(["cmake", "--build", "build", "--target", *programs], cwd=tree, capture_output=True, text=True)
    return done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def first_failure(tree, mutation):
    """Name of the first test that fails, or None."""
    environment = dict(os.environ, OMP_WAIT_POLICY="passive", **mutation.environment)
    done = subprocess.run([tree / "build" / mutation.program, f"--gtest_filter={mutation.tests}", "--gtest_fail_fast"],
                          capture_output=True, text=True, env=environment)
    found = re.search(r"\[  FAILED  \] (\S+?),? ", done.stdout + " ")
    return found.group(1) if found else (f"exit status {done.returncode}" if done.returncode else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="only mutations whose name it finds")
    parser.add_argument("--list", action="store_true", help="name the mutations, run nothing")
    arguments = parser.parse_args()
    mutations = [mutation for mutation in applicable(ROOT) if re.search(arguments.only, mutation.name)]
    if not mutations:
        sys.exit(f"mutation_test: no mutation's name holds '{arguments.only}'")
    if arguments.list:
        print("\n".join(mutation.name for mutation in mutations))
        return 0
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "plimsoll"
        shutil.copytree(ROOT, tree, ignore=left_out)
        programs = sorted({mutation.program for mutation in mutations})
        subprocess.run(["cmake", "-S", ".", "-B", "build", "-G", "Ninja"], cwd=tree, check=True, capture_output=True)
        good, output = build(tree, programs)
        if not good:
            sys.exit(f"mutation_test: the unbroken tree does not build:\n{output}")
        # A test that fails anyway would catch every mutation.
        whole = {(one.program, one.tests, tuple(one.environment)): one for one in mutations}
        for mutation in whole.values():
            failure = first_failure(tree, mutation)
            if failure:
                sys.exit(f"mutation_test: {mutation.program} --gtest_filter={mutation.tests} fails in the unbroken tree: "
                         f"{failure}")
        print("| mutation | caught by |\n|---|---|", flush=True)
        for mutation in mutations:
            path = tree / mutation.file
            kept = path.read_text()
            path.write_text(kept.replace(mutation.text, mutation.becomes))
            good, output = build(tree, [mutation.program])
            caught = first_failure(tree, mutation) if good else f"does not build: {output[-200:]}"
            path.write_text(kept)
            survivors += caught is None or not good
            print(f"| {mutation.name} | {caught or '**nothing**'} |", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
