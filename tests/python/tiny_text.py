"""Runs of a tiny network on an excerpt of Shakespeare, for tests of the program from outside."""

import os
import subprocess
import tempfile
import unittest
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


@unittest.skipUnless(BINARY.exists(), f"{BINARY} is not built")
class TinyRuns(unittest.TestCase):
    """Trains RUNS, {name: options of its own}, each with the options MORE, into `folder` before the first test."""
    MORE, RUNS = [], {}

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        for name, options in cls.RUNS.items():
            train(cls.folder / name, *cls.MORE, *options)

    def plimsoll(self, command, run, *arguments, stdin=b"", code=0):
        """plimsoll COMMAND RUN ..., of one of the runs or of any path. Wants the exit status, and one line of an error."""
        done = subprocess.run([BINARY, command, self.folder / run, "--threads", "1", *map(os.fsencode, map(str, arguments))],
                              input=stdin, capture_output=True, timeout=100, cwd=ROOT)
        self.assertEqual(done.returncode, code, done.stderr)
        if code:
            self.assertEqual(len(done.stderr.decode(errors="replace").strip().splitlines()), 1, done.stderr)
        return done
