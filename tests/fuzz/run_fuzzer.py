#!/usr/bin/env python3
"""Runs one fuzz target for PLIMSOLL_FUZZ_SECONDS (45 by default) on a copy of its seeds.

    run_fuzzer.py PROGRAM FINDINGS SEEDS... [-libFuzzer-option...]

SEEDS are files and folders of files. What the target writes, and the inputs it collects, go into a temporary folder;
an input that breaks a rule is kept in FINDINGS, and PROGRAM followed by its path runs it again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Inputs stay small, so that a rule about time or memory tells a mistake from a large file. The timeout is for inputs that
# hang; TimedInput (fuzz_support.h) holds the others to a second of the processor, whatever else runs.
LIMITS = ["-rss_limit_mb=512", "-malloc_limit_mb=64", "-timeout=20", "-max_len=16384", "-print_final_stats=1", "-verbosity=0"]


def main():
    program, findings, *rest = sys.argv[1:]
    program, findings = Path(program).resolve(), Path(findings).resolve()  # it runs in another folder
    options = [argument for argument in rest if argument.startswith("-")]
    seeds = [Path(argument) for argument in rest if not argument.startswith("-")]
    seconds = int(os.environ.get("PLIMSOLL_FUZZ_SECONDS", "45"))
    name = program.name
    findings.mkdir(parents=True, exist_ok=True)
    # In memory where there is a file system for that: a target writes a file thousands of times a second.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="plimsoll_fuzz_", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        files = [path for seed in seeds for path in (sorted(seed.rglob("*")) if seed.is_dir() else [seed]) if path.is_file()]
        for number, path in enumerate(files):
            shutil.copyfile(path, corpus / f"{number:03}_{path.name}")
        if not files:
            sys.exit(f"{name}: no seeds in {', '.join(map(str, seeds))}")
        environment = {**os.environ, "TMPDIR": folder, "ASAN_OPTIONS": "quarantine_size_mb=32",
                       "UBSAN_OPTIONS": "print_stacktrace=1"}
        command = [program, corpus, f"-max_total_time={seconds}", f"-artifact_prefix={findings}/{name}-", *LIMITS, *options]
        try:
            # A target that hangs where libFuzzer's own timer does not see it.
            status = subprocess.run(list(map(str, command)), env=environment, cwd=folder, timeout=seconds + 60).returncode
        except subprocess.TimeoutExpired:
            sys.exit(f"{name}: did not end {seconds + 60} s after its start, {seconds} were wanted")
    sys.exit(status)


if __name__ == "__main__":
    main()
