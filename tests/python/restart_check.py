"""Runs that stop, fail and start again, from outside: the time limit, the limit on starts without progress, the ledger,
and repetitions; alone and, where mpirun is, as two ranks.

    tests/python/restart_check.py build/plimsoll
"""

import json
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
PLIMSOLL = ROOT / "build/plimsoll"
TWO_RANKS = [ROOT / "scripts/mpirun.sh", "-n", "2"]
TINY = {"model.channels": 16, "model.context": 16, "model.ffn": 24, "train.micro_batch": 2, "train.batch_tokens": 64,
        "train.eval_every": 100, "data.val_samples": 8, "probes.samples": 2, "run.threads": 1, "run.precision": "fp32"}


def hold_signals():
    """What is sent before the program listens waits for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])


class Restarts(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="plimsoll_restart_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def command(self, name, steps, more=(), before=(), **settings):
        values = {**TINY, "train.max_steps": steps, **{k.replace("__", "."): v for k, v in settings.items()}}
        words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        return [*before, PLIMSOLL, "train", "configs/quickstart.toml", "--run-dir", self.folder / name, "--resume",
                "auto", *words, *more]

    def run_command(self, command, status=0, environment=None):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120,
                              env={**os.environ, **(environment or {})})
        self.assertEqual(done.returncode, status, done.stdout[-2000:] + done.stderr)
        return done

    def train(self, name, steps=6, status=0, environment=None, **options):
        return self.run_command(self.command(name, steps, **options), status, environment)

    def rerun(self, name, *words, status=0, before=()):
        return self.run_command([*before, PLIMSOLL, "rerun", self.folder / name, *words], status).stdout

    def lines(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def losses(self, name):
        return [line["loss"] for line in self.lines(f"{name}/metrics.jsonl")]

    def test_starts_stopped_before_their_first_step_are_refused_in_the_end(self):
        for _ in range(5):
            process = subprocess.Popen(self.command("run", 6), cwd=ROOT, stdout=subprocess.DEVNULL,
                                       preexec_fn=hold_signals)
            process.send_signal(signal.SIGUSR1)
            self.assertEqual(process.wait(timeout=60), 85)
        refused = self.train("run", status=70).stderr
        for part in ("5 starts in a row", "past step 0", "status 85, status 85", f"{self.folder}/run/log.txt",
                     "--set train.max_restarts=10"):
            self.assertIn(part, refused)
        self.assertEqual(len(refused.strip().splitlines()), 1, refused)
        self.train("run", train__max_restarts=10)
        self.assertIn("start 6 of this run, 6 since the last progress", (self.folder / "run/log.txt").read_text())
        self.train("whole")
        self.assertEqual(self.losses("run"), self.losses("whole"))
        self.train("run")  # done: nothing to count

    def test_killed_starts_count_and_a_checkpoint_ends_the_count(self):
        for saving, count in ((False, 2), (True, 3)):
            for _ in range(count):
                process = subprocess.Popen(
                    self.command(f"run{saving}", 1000000, train__save_every=20 if saving else 0, train__max_restarts=2),
                    cwd=ROOT, stdout=subprocess.PIPE, text=True)
                begun = False
                for line in process.stdout:
                    begun = begun or line.startswith("eval")
                    if begun and ("saved" in line or not saving):
                        break
                process.kill()
                process.wait()
                process.stdout.close()
        self.assertIn("killed, killed", self.train("runFalse", 1000000, status=70, train__max_restarts=2).stderr)
        self.train("runTrue", 1000000, status=85, train__max_restarts=2, train__max_seconds=1)

    def test_the_time_limit_ends_a_run_before_it_and_the_next_goes_on(self):
        began = time.monotonic()
        out = self.train("run", 100000000, status=85, train__max_seconds=4, train__save_every=1000).stdout
        self.assertLess(time.monotonic() - began, 4)
        self.assertIn("before its time limit (train.max_seconds = 4)", out)
        step = self.lines("run/metrics.jsonl")[-1]["step"]
        self.assertGreater(step, 0)
        self.assertEqual(self.lines("ledger.jsonl")[-1]["status"], "stopped")
        end = int(time.time()) + 3  # of a job
        out = self.train("run", 100000000, status=85, environment={"SLURM_JOB_END_TIME": str(end)}).stdout
        self.assertIn(f"resume: step {step} of", out)
        self.assertIn("SLURM_JOB_END_TIME", out)
        self.assertLessEqual(time.time(), end + 1)

    def test_every_end_is_a_line_of_the_ledger(self):
        self.train("one")
        self.train("two", status=70, environment={"PLIMSOLL_FAULT": "nan_gradient:3:0"}, health__max_skips=0,
                   optimizer__lr=0.01)
        self.train("three", status=78, more=["--parent", self.folder / "nowhere"])
        self.train("three", more=["--parent", self.folder / "one", "--variant", "sigmoid"])
        lines = self.lines("ledger.jsonl")
        self.assertEqual([(line["run"], line["exit_code"], line["status"], line["parent"]) for line in lines],
                         [("one", 0, "done", None), ("two", 70, "failed", "one"), ("three", 0, "done", "one")])
        self.assertEqual(lines[1]["change"], "health.max_skips 3 -> 0, optimizer.lr 0.001 -> 0.01")
        self.assertEqual(lines[1]["steps"], 2)
        self.assertEqual(lines[2]["config_diff"], {"attention.weighting": [["softmax"], ["sigmoid"]]})
        self.assertEqual(lines[2]["loss_final"], self.losses("three")[-1])

    def test_runs_that_end_at_once_share_a_ledger(self):
        processes = [subprocess.Popen(self.command(f"run{i}", 3), cwd=ROOT, stdout=subprocess.DEVNULL)
                     for i in range(6)]
        self.assertEqual([process.wait(timeout=120) for process in processes], [0] * 6)
        self.assertEqual(sorted(line["run"] for line in self.lines("ledger.jsonl")), [f"run{i}" for i in range(6)])

    def test_two_processes_of_one_run_end_as_fenced_and_done(self):
        first = subprocess.Popen(self.command("run", 100000000, train__save_every=50), cwd=ROOT,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in first.stdout:
            if "saved" in line:
                break
        second = subprocess.Popen(self.command("run", 100000000, train__save_every=50), cwd=ROOT,
                                  stdout=subprocess.DEVNULL)
        first.communicate(timeout=60)
        self.assertEqual(first.returncode, 75)
        second.send_signal(signal.SIGTERM)
        self.assertEqual(second.wait(timeout=60), 85)
        fenced, stopped = self.lines("ledger.jsonl")
        self.assertEqual((fenced["status"], fenced["exit_code"], fenced["steps"]), ("fenced", 75, None))
        self.assertEqual(stopped["status"], "stopped")

    def test_a_repetition_is_equal_to_the_bit_or_says_where_it_is_not(self):
        self.train("run", 20)
        out = self.rerun("run", "--check")
        self.assertIn("equal to the bit: data and the losses of 20 steps", out)
        self.assertNotIn("warning", out)
        self.assertEqual(self.lines("ledger.jsonl")[-1]["parent"], "run")
        self.assertEqual(self.lines("ledger.jsonl")[-1]["change"], "none")
        for words, status in (((), 0), (("--check",), 70)):
            out = self.rerun("run", "--set", "optimizer.lr=0.01", *words, status=status)
            self.assertRegex(out, "not equal: step 2 is the first that differs: loss .* here, .* there, difference")
        info = self.folder / "run/run.json"
        info.write_text(json.dumps({**json.loads(info.read_text()), "cpu": "another"}))
        self.assertIn("warning: CPU: another then", self.rerun("run"))
        self.assertEqual(sorted(path.name for path in self.folder.glob("run-*")),
                         ["run-rerun", "run-rerun2", "run-rerun3", "run-rerun4"])

    def test_a_repetition_that_is_stopped_goes_on(self):
        self.train("run", 4000)
        again = [PLIMSOLL, "rerun", self.folder / "run", "--run-dir", self.folder / "again"]
        process = subprocess.Popen(again, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.startswith("step"):
                break
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 85, out)
        self.assertIn(f"--run-dir {self.folder}/again goes on", out)
        self.assertIn("equal to the bit: data and the losses of 4000 steps",
                      self.run_command([*again, "--check"]).stdout)

    @unittest.skipUnless(shutil.which("mpirun"), "mpirun is not installed")
    def test_two_ranks_stop_are_refused_and_repeat_alike(self):
        self.train("run", 100000000, status=85, before=TWO_RANKS, train__max_seconds=4)
        self.train("run", 100000000, status=85, before=TWO_RANKS, train__max_seconds=0.01, train__max_restarts=1)
        # Two ranks agree a step ahead: they make progress.
        self.train("stuck", 6, status=85, train__max_seconds=0.01)
        refused = self.train("stuck", status=70, before=TWO_RANKS, train__max_restarts=1).stderr
        self.assertEqual(refused.count("1 starts in a row"), 1, refused)
        self.assertEqual(len(self.lines("ledger.jsonl")), 3)
        self.train("two", before=TWO_RANKS)
        self.assertEqual(self.lines("ledger.jsonl")[-1]["ranks"], 2)
        alone = self.run_command([PLIMSOLL, "rerun", self.folder / "two"], 78).stderr
        self.assertIn("mpirun -n 2 plimsoll rerun", alone)
        self.assertIn("equal to the bit", self.rerun("two", "--check", before=TWO_RANKS))
        self.assertIn("equal to the bit", self.rerun("two", "--check", "--set", "parallel.virtual_ranks=2"))
        self.assertEqual(sorted(path.name for path in self.folder.glob("two-*")), ["two-rerun", "two-rerun2"])


if __name__ == "__main__":
    PLIMSOLL = Path(sys.argv.pop(1)).resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("SLURM_JOB_END_TIME", "PLIMSOLL_FAULT"):
        os.environ.pop(name, None)
    unittest.main()
