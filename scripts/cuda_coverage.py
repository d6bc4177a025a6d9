#!/usr/bin/env python3
"""Which lines of kernels/cuda the emulated tests run, by gcov: every kernel, and every launcher through the emulated
runtime. Builds these tests with counters in a folder of its own and runs them. Fails below --wanted percent.

    scripts/cuda_coverage.py            the table
    scripts/cuda_coverage.py --lines    also the lines that no test ran

In a build with -DPLIMSOLL_COVERAGE=ON ctest counts while the label emulated runs: --forget before, --read after.
"""
import argparse
import glob
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = "cuda_emulated_test"
# Attention takes most of the time, and every eighth of its cases reaches every line that all of them reach. Whole models
# reach nothing that the ops' own tests do not.
RUNS = [("-*CudaAttention*:*CudaModel*:*CudaTrainer*", {}), ("*CudaAttention*", {"GTEST_TOTAL_SHARDS": "8", "GTEST_SHARD_INDEX": "3"})]


def build(folder):
    """Builds the instrumented tests."""
    for command in (["cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-DPLIMSOLL_CUDA=off",
                     "-DPLIMSOLL_COVERAGE=ON"],
                    ["cmake", "--build", folder, "--parallel", str(os.cpu_count()), "--target", PROGRAM]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"cuda_coverage: {' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-4000:]}")


def counts_of(folder):
    """The files of counts of a build folder; not of a build below it, as build/coverage is."""
    return sorted((folder / "CMakeFiles").rglob("*.gcda"))


def forget(folder):
    for counts in counts_of(folder):
        counts.unlink()


def run_tests(folder):
    for choice, environment in RUNS:
        done = subprocess.run([folder / PROGRAM, f"--gtest_filter={choice}", "--gtest_brief=1"], capture_output=True,
                              text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment})
        if done.returncode:
            sys.exit(f"cuda_coverage: the tests fail\n{(done.stdout + done.stderr)[-4000:]}")


def counted_lines(folder):
    """{source: {line: how often it ran}}, over all objects and all instances of a template."""
    lines = {}
    with tempfile.TemporaryDirectory() as scratch:
        for counts in counts_of(folder):
            subprocess.run(["gcov", "--json-format", counts], cwd=scratch, capture_output=True, check=True)
            for report in glob.glob(f"{scratch}/*.gcov.json.gz"):
                for source in json.load(gzip.open(report))["files"]:
                    path = os.path.relpath(os.path.join(ROOT, source["file"]), ROOT)
                    if not path.startswith("kernels/cuda/"):
                        continue
                    known = lines.setdefault(path, {})
                    for line in source["lines"]:
                        known[line["line_number"]] = known.get(line["line_number"], 0) + line["count"]
                os.unlink(report)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=pathlib.Path, default=ROOT / "build" / "coverage")
    parser.add_argument("--wanted", type=float, default=95.0, help="percent")
    parser.add_argument("--lines", action="store_true", help="print the lines that no test ran")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--forget", action="store_true", help="only forget what earlier runs counted")
    only.add_argument("--read", action="store_true", help="only read what the tests of --build-dir have counted")
    arguments = parser.parse_args()
    folder = arguments.build_dir.resolve()
    if not arguments.read:
        forget(folder)
    if arguments.forget:
        return 0
    if not arguments.read:
        build(folder)
        run_tests(folder)
    lines = counted_lines(folder)
    if not lines:
        sys.exit(f"cuda_coverage: {len(counts_of(folder))} files of counts in {folder}, and none names a line of "
                 "kernels/cuda; --read wants tests built with -DPLIMSOLL_COVERAGE=ON that ran, and the compiler's gcov")
    total = run = 0
    print(f"{'file':<42} {'lines':>6} {'run':>6} {'%':>6}")
    for path in sorted(lines):
        missed = sorted(number for number, count in lines[path].items() if not count)
        total += len(lines[path])
        run += len(lines[path]) - len(missed)
        print(f"{path:<42} {len(lines[path]):6} {len(lines[path]) - len(missed):6} "
              f"{100 * (1 - len(missed) / len(lines[path])):6.1f}")
        if arguments.lines and missed:
            print(f"    not run: {' '.join(map(str, missed))}")
    share = 100 * run / total
    print(f"cuda_coverage: {run} of {total} lines, {share:.1f} %, wanted {arguments.wanted:.0f} %")
    return 0 if share >= arguments.wanted else 1


if __name__ == "__main__":
    sys.exit(main())
