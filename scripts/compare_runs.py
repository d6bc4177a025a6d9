#!/usr/bin/env python3
"""Compares the losses and gradient norms of two runs step by step.

    scripts/compare_runs.py RUN OTHER [--loss 0.02] [--norm 0.1]

Prints the largest relative differences; exit status 1 if one is above its bound, 2 if the runs cannot be compared. Two
runs that differ in device or rounding drift apart as they train: the bounds are for the first hundred steps.
"""

import argparse
import json
import sys
from pathlib import Path


def steps(folder):
    path = Path(folder) / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"compare_runs: {path}: {error}")
    return {line["step"]: line for line in lines}


def largest_difference(a, b, key):
    """-> (relative difference, step) where it is largest."""
    return max((abs(a[s][key] - b[s][key]) / max(abs(a[s][key]), 1e-12), s) for s in a.keys() & b.keys())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("other")
    parser.add_argument("--loss", type=float, default=0.02, help="bound of the loss; default 0.02")
    parser.add_argument("--norm", type=float, default=0.1, help="bound of the gradient norm; default 0.1")
    options = parser.parse_args(argv)
    a, b = steps(options.run), steps(options.other)
    if not a.keys() & b.keys():
        print(f"compare_runs: {options.run} and {options.other} have no step in common", file=sys.stderr)
        return 2
    status = 0
    for key in ("loss", "norm"):
        difference, step = largest_difference(a, b, key)
        bound = getattr(options, key)
        print(f"{key}: largest relative difference {difference:.2e} at step {step}, bound {bound}")
        if not difference <= bound:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
