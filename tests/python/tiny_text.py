"""Runs of a tiny network on an excerpt of Shakespeare, for tests of the program from outside."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("PLIMSOLL_BINARY", ROOT / "build" / "plimsoll"))
TEXT = ROOT / "tests" / "golden" / "shakespeare_excerpt.txt"
TINY = ["--set", "model.channels=16", "--set", "model.ffn=24", "--set", "model.position=rope", "--set", "train.micro_batch=4",
        "--set", "train.batch_tokens=0", "--set", "train.max_tokens=0", "--set", "data.source=text",
        "--set", f"data.text={TEXT}", "--set", "run.threads=1"]


def train(folder, *options):
    """A run of the quickstart's configuration, made tiny."""
    done = subprocess.run([BINARY, "train", "configs/quickstart.toml", "--run-dir", folder, *TINY, *options],
                          capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
