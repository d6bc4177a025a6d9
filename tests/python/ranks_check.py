"""Runs of several ranks under mpirun: the bits of the same layout in one process, resumes with other numbers of ranks,
stops that all ranks agree on, and errors that are printed once.

    tests/python/ranks_check.py build/plimsoll
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import ranks_matrix  # noqa: E402
from ranks_matrix import PRECISIONS, VARIANTS, Comparison, metrics  # noqa: E402

PLIMSOLL = ROOT / "build/plimsoll"
SMALL = ["--set", "train.micro_batch=2", "--set", "train.batch_tokens=3072", "--set", "train.max_steps=6",
         "--set", "run.threads=1", "--set", "probes.samples=2", "--set", "data.val_samples=4"]


def command(folder, ranks, *options):
    return ranks_matrix.command(PLIMSOLL, folder, ranks, [*SMALL, *options])


def run(folder, ranks, *options):
    return ranks_matrix.run(PLIMSOLL, folder, ranks, [*SMALL, *options])


def state(folder, step):
    return ranks_matrix.state(PLIMSOLL, folder, step)


class Ranks(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="plimsoll_ranks_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def trained(self, name, ranks, *options):
        done = run(self.folder / name, ranks, *options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return self.folder / name

    def test_bits_are_those_of_virtual_ranks(self):
        for variant in ("softmax", "sigmoid", "gated", "placeholder"):
            for ranks in (2, 3, 4):
                real = self.trained(f"{variant}_{ranks}", ranks, "--variant", variant, "--set", "run.precision=fp32")
                same = self.trained(f"{variant}_{ranks}v", 0, "--variant", variant, "--set", "run.precision=fp32",
                                    "--set", f"parallel.virtual_ranks={ranks}")
                self.assertEqual(metrics(real), metrics(same), f"{variant}, {ranks} ranks")
                self.assertEqual(state(real, 6), state(same, 6), f"{variant}, {ranks} ranks")

    def test_bits_of_layouts_are_those_of_one_process(self):
        comparison = Comparison(PLIMSOLL, self.folder)
        columns = [(variant, precision) for precision in PRECISIONS for variant in VARIANTS]
        # Every layout once; scripts/ranks_matrix.py runs each with every variant and precision.
        for i, layout in enumerate(ranks_matrix.all_layouts(4)):
            variant, precision = columns[(3 * i + i // len(columns)) % len(columns)]
            with self.subTest(str(layout), variant=variant, precision=precision):
                self.assertEqual(comparison.difference(layout, variant, precision), "")

    def test_one_rank_under_mpirun_is_no_rank(self):
        self.assertEqual(state(self.trained("one", 1), 6), state(self.trained("none", 0), 6))

    def test_another_number_of_ranks_goes_on_with_the_same_data(self):
        whole = self.trained("whole", 0, "--set", "run.precision=fp32")
        half = ("--set", "run.precision=fp32", "--set", "train.max_steps=3")
        self.trained("parts", 4, *half)
        parts = self.trained("parts", 2, "--set", "run.precision=fp32", "--resume", "auto")
        for a, b in zip(metrics(whole), metrics(parts), strict=True):
            self.assertAlmostEqual(a["loss"], b["loss"], delta=1e-5 * a["loss"])  # sums in another order
            self.assertEqual((a["step"], a["tokens"]), (b["step"], b["tokens"]))

    def test_a_signal_stops_all_ranks_at_one_step(self):
        options = ("--set", "train.max_steps=100000", "--set", "run.precision=fp32")
        process = subprocess.Popen(command(self.folder / "stopped", 2, *options), cwd=ROOT, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        log = self.folder / "stopped/metrics.jsonl"
        for _ in range(300):
            if log.exists() and len(log.read_text().splitlines()) > 3:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGUSR1)  # mpirun passes it on, where SIGTERM would end the job
        output, _ = process.communicate(timeout=60)
        self.assertIn("by a signal", output)
        saved = sorted(p.name for p in (self.folder / "stopped/checkpoints").iterdir())
        self.assertTrue(saved and not any(name.endswith(".tmp") for name in saved), output)

    def test_a_batch_the_ranks_cannot_share_is_one_clear_error(self):
        done = run(self.folder / "odd", 5)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("12 micro batches, which 5 ranks cannot share; wanted a multiple of 1280 tokens",
                      done.stdout + done.stderr)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        PLIMSOLL = Path(sys.argv.pop(1)).resolve()
    unittest.main()
