"""Sweeps of tiny runs on this machine: finished, killed and continued, failing, and equal to the same runs by hand.

    tests/python/sweep_check.py build/plimsoll
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLIMSOLL = ROOT / "build/plimsoll"
SETTINGS = ["train.max_steps=6", "train.save_every=2", "train.batch_tokens=1024", "train.micro_batch=4",
            "data.val_samples=2", "probes.enabled=false", "run.precision=fp32"]


class Sweeps(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="plimsoll_sweep_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def sweep(self, name="runs", more=(), settings=(), jobs=2):
        lines = ["[sweep]", 'name = "tiny"', f'base = "{ROOT}/configs/quickstart.toml"', f'dir = "{self.folder / name}"',
                 'variants = ["softmax", "sigmoid"]', "seeds = [1, 2]",
                 f"set = {json.dumps([*SETTINGS, *settings])}", *more, "[launch]", f"jobs = {jobs}", "threads = 1"]
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def run_sweep(self, path, *words, status=0):
        done = subprocess.run([PLIMSOLL, "sweep", *words, path], capture_output=True, text=True, timeout=120, cwd=ROOT)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout

    def losses(self, name):
        return {cell.parent.name: [json.loads(line)["loss"] for line in cell.read_text().splitlines()]
                for cell in sorted((self.folder / name).glob("*/metrics.jsonl"))}

    def test_cells_have_the_bits_of_the_same_run_by_hand(self):
        path = self.sweep()
        out = self.run_sweep(path)
        self.assertIn("4 of 4 cells done", out)
        words = [word for setting in [*SETTINGS, "run.seed=2", "run.threads=1"] for word in ("--set", setting)]
        subprocess.run([PLIMSOLL, "train", "configs/quickstart.toml", "--variant", "sigmoid", "--run-dir",
                        self.folder / "hand/sigmoid-seed2", *words], cwd=ROOT, check=True, capture_output=True, timeout=60)
        self.assertEqual(self.losses("runs")["sigmoid-seed2"], self.losses("hand")["sigmoid-seed2"])
        again = self.run_sweep(path)
        self.assertIn("4 done, 0 to run", again)
        self.assertRegex(self.run_sweep(path, "status"), r"sigmoid-seed2 +done +6/6")
        events = [json.loads(line) for line in (self.folder / "runs/sweep.jsonl").read_text().splitlines()]
        plans = [event["cells"] for event in events if event["event"] == "plan"]
        self.assertEqual([cell["name"] for cell in plans[-1]],
                         ["softmax-seed1", "softmax-seed2", "sigmoid-seed1", "sigmoid-seed2"])
        self.assertEqual(plans[-1][3]["variant"], "sigmoid")
        self.assertIn("run.seed=2", plans[-1][3]["settings"])

    def finished(self, name):
        """Cells that are done -> when they were last written to."""
        return {run.parent.name: (run.parent / "metrics.jsonl").stat().st_mtime_ns
                for run in (self.folder / name).glob("*/run.json") if json.loads(run.read_text())["status"] == "done"}

    def test_a_sweep_killed_twenty_times_goes_on_and_repeats_no_finished_cell(self):
        steps = ["train.max_steps=60", "train.save_every=5"]
        whole = self.sweep("whole", settings=steps)
        self.run_sweep(whole)
        # On a busy machine a cell may be ended before its first step every time.
        path, dice, done = self.sweep("killed", settings=[*steps, "train.max_restarts=0"]), random.Random(5), {}
        for _ in range(20):
            process = subprocess.Popen([PLIMSOLL, "sweep", path], cwd=ROOT, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            time.sleep(dice.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
            process.wait()
            now = self.finished("killed")
            self.assertEqual({cell: now.get(cell) for cell in done}, done, "a finished cell was lost, or ran again")
            done = now
        self.run_sweep(path)
        self.assertEqual(self.losses("killed"), self.losses("whole"))
        self.assertEqual({cell: self.finished("killed")[cell] for cell in done}, done)

    def test_two_sweeps_do_not_run_the_same_cells(self):
        path = self.sweep("twice", settings=["train.max_steps=2000"])
        with subprocess.Popen([PLIMSOLL, "sweep", path], cwd=ROOT, stdout=subprocess.DEVNULL) as first:
            for _ in range(100):
                if list((self.folder / "twice").glob("*/metrics.jsonl")):
                    break
                time.sleep(0.1)
            self.assertRegex(self.run_sweep(path, "status"), r"2 waiting, 2 running|4 running")
            second = subprocess.run([PLIMSOLL, "sweep", path], capture_output=True, text=True, timeout=60, cwd=ROOT)
            first.send_signal(signal.SIGTERM)
        self.assertEqual(second.returncode, 75, second.stderr)
        self.assertIn("another plimsoll sweep runs these cells", second.stderr)

    def test_a_stopped_sweep_saves_its_cells(self):
        path = self.sweep("stopped", settings=["train.max_steps=2000"])
        process = subprocess.Popen([PLIMSOLL, "sweep", path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(200):
            if len(list((self.folder / "stopped").glob("*/checkpoints/step_*"))) >= 2:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 85, out)
        self.assertIn("the same command goes on", out)
        self.assertRegex(self.run_sweep(path, "status"), r"interrupted +\d+/2000")

    def test_failed_cells_are_left_until_asked_for(self):
        path = self.sweep("failing", settings=[f"data.text={self.folder}/text.txt", "data.source=text"])
        out = self.run_sweep(path, status=70)
        self.assertIn("ended with 78", out)
        self.assertIn("0 of 4 cells done", out)
        self.assertIn("4 failed before", self.run_sweep(path, status=70))
        (self.folder / "text.txt").write_text("to be or not to be, that is the question\n" * 400)
        self.assertIn("4 of 4 cells done", self.run_sweep(path, "--retry-failed"))

    def test_bad_sweeps_start_nothing(self):
        path = self.sweep("bad", more=['axes = ["model.layers=0"]'])
        self.run_sweep(path, status=78)
        self.assertFalse((self.folder / "bad").exists())
        self.assertIn("train", self.run_sweep(self.sweep("dry"), "--dry-run"))
        self.assertFalse((self.folder / "dry").exists())


if __name__ == "__main__":
    PLIMSOLL = Path(sys.argv.pop(1)).resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    unittest.main()
