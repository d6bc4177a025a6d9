"""The program from outside: help, errors and exit codes, interruption and resumption."""

import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("PLIMSOLL_BINARY", ROOT / "build" / "plimsoll"))
TINY = ["--set", "model.channels=16", "--set", "model.context=16", "--set", "model.ffn=24", "--set", "train.micro_batch=4",
        "--set", "train.batch_tokens=64", "--set", "data.val_samples=8", "--set", "probes.samples=2", "--set", "run.threads=1"]


@unittest.skipUnless(BINARY.exists(), f"{BINARY} is not built")
class Cli(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_plimsoll(self, *arguments):
        return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=60, cwd=ROOT)

    def train(self, name, *arguments):
        return ["train", "configs/quickstart.toml", "--run-dir", self.folder / name, *TINY, *arguments]

    def expect_error(self, code, words, *arguments):
        done = self.run_plimsoll(*arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def test_help_teaches_every_key(self):
        text = self.run_plimsoll("train", "--help").stdout
        for key in ("weighting", "learning rate", "z_loss", "micro_batch", "warmup_steps", "shared_placeholders", "--overfit-batch"):
            self.assertIn(key, text)
        self.assertEqual(self.run_plimsoll("--help").returncode, 0)
        self.assertRegex(self.run_plimsoll("--version").stdout, r"plimsoll \d+\.\d+\.\d+ \(")

    def test_exit_codes_are_those_of_the_readme(self):
        text = (ROOT / "train" / "README.md").read_text().split("| exit status | meaning |")[1].split("\n\n")[0]
        documented = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
        self.assertIn(("0", "done"), documented)
        for command in ([], ["train"]):
            shown = self.run_plimsoll(*command, "--help").stdout.split("Exit codes:\n")[1]
            self.assertEqual(re.findall(r"^ *(\d+)  (.+)$", shown, re.MULTILINE), documented)

    def test_bad_input_is_one_clear_line_and_78(self):
        bad = self.folder / "bad.toml"
        bad.write_text("[model]\nlayer = 3\n")
        self.expect_error(78, ["bad.toml:2", "'layer'", "'layers'"], "train", bad)
        bad.write_text("[model\n")
        self.expect_error(78, ["bad.toml:1", "not TOML"], "train", bad)
        self.expect_error(78, ["nowhere.toml"], "train", self.folder / "nowhere.toml")
        self.expect_error(78, ["softmix", "softmax"], *self.train("run", "--variant", "softmix"))
        self.expect_error(78, ["train.batch_tokens is 100"], *self.train("run", "--set", "train.batch_tokens=100"))
        self.expect_error(78, ["no_such.txt"], *self.train("run", "--set", "data.source=text", "--set", "data.text=no_such.txt"))
        self.assertEqual(self.run_plimsoll("train").returncode, 78)
        self.assertEqual(self.run_plimsoll("tarin").returncode, 78)

    def test_an_unwritable_run_directory_is_74(self):
        (self.folder / "file").write_text("not a folder")
        self.expect_error(74, ["file/run", "--run-dir"], *self.train("file/run"))

    def test_plan_and_dry_run_print_and_train_nothing(self):
        done = self.run_plimsoll(*self.train("run", "--dry-run"))
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("parameters", "gradients", "optimizer state", "activations", "scratch", "FLOPs per token", "MiB",
                     "largest micro batch", "expected time"):
            self.assertIn(word, done.stdout)
        self.assertFalse((self.folder / "run").exists())
        huge = self.run_plimsoll("plan", "configs/quickstart.toml", "--set", "train.micro_batch=1000000", "--set", "train.batch_tokens=0")
        self.assertNotEqual(huge.returncode, 0)
        self.assertIn("does not fit", huge.stdout)

    def test_data_is_prepared_inspected_and_trained_on(self):
        shards = self.folder / "shards"
        text = ROOT / "tests" / "golden" / "shakespeare_excerpt.txt"
        done = self.run_plimsoll("data", "prepare", text, shards)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("vocabulary", done.stdout)
        self.assertIn("tokens", self.run_plimsoll("data", "inspect", shards / "*.bin").stdout)
        done = self.run_plimsoll(*self.train("run", "--set", "data.source=shards", "--set", f"data.shards={shards}/train_*.bin",
                                             "--set", f"data.val_shards={shards}/val_*.bin", "--set", "train.max_steps=3"))
        self.assertEqual(done.returncode, 0, done.stderr)
        shard = sorted(shards.glob("train_*.bin"))[0]
        shard.write_bytes(shard.read_bytes()[:-10])
        self.expect_error(78, [shard.name], *self.train("other", "--set", "data.source=shards", "--set", f"data.shards={shards}/train_*.bin"))

    def state(self, name, step):
        return hashlib.sha256((self.folder / name / "checkpoints" / f"step_{step:08}" / "rank_0.bin").read_bytes()).hexdigest()

    def test_inspect_verifies_checkpoints(self):
        self.assertEqual(self.run_plimsoll(*self.train("run", "--set", "train.max_steps=2")).returncode, 0)
        run = self.folder / "run"
        checkpoint = run / "checkpoints" / "step_00000002"
        done = self.run_plimsoll("inspect", checkpoint)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("step 2", "1 ranks", "parameters/wte.weight fp32", "whole"):
            self.assertIn(word, done.stdout)
        self.assertIn("all tensors", self.run_plimsoll("inspect", "--hash", checkpoint).stdout)
        self.assertIn("whole", self.run_plimsoll("inspect", run).stdout)
        data = checkpoint / "rank_0.bin"
        content = bytearray(data.read_bytes())
        content[1000] ^= 1
        data.write_bytes(content)
        for folder in (checkpoint, run):
            self.expect_error(78, ["rank_0.bin", "is damaged: bytes"], "inspect", folder)

    def test_ctrl_c_saves_and_the_same_command_goes_on(self):
        steps = 400
        command = [BINARY, *map(str, self.train("run", "--resume", "auto", "--set", f"train.max_steps={steps}", "--set", "run.precision=fp32"))]
        first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        metrics = self.folder / "run" / "metrics.jsonl"
        while not metrics.exists() or metrics.stat().st_size < 500:
            self.assertIsNone(first.poll())
            time.sleep(0.005)
        first.send_signal(signal.SIGINT)
        self.assertEqual(first.wait(timeout=30), 85)
        self.assertIn("--resume auto", first.stdout.read())
        first.stdout.close()
        self.assertEqual(json.loads((self.folder / "run" / "run.json").read_text())["status"], "stopped")
        self.assertEqual(subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode, 0)
        whole = self.run_plimsoll(*self.train("whole", "--set", f"train.max_steps={steps}", "--set", "run.precision=fp32"))
        self.assertEqual(whole.returncode, 0, whole.stderr)
        self.assertEqual(self.state("run", steps), self.state("whole", steps))
        lines = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        self.assertEqual(lines, list(range(1, steps + 1)))

    def test_a_second_ctrl_c_ends_at_once(self):
        # One step of many seconds: only a second signal can end it.
        run = subprocess.Popen([BINARY, *map(str, self.train("run", "--set", "train.batch_tokens=64000000"))], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
        for line in run.stdout:
            if line.startswith("eval 0"):
                break
        time.sleep(0.5)  # into the step
        run.send_signal(signal.SIGINT)
        time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        self.assertEqual(run.wait(timeout=10), 130)
        run.stdout.close()

    def test_doctor_names_what_it_found(self):
        done = self.run_plimsoll("doctor")
        self.assertEqual(done.returncode, 0)
        for word in ("CPU", "matrix products", "CUDA", "NCCL", "MPI", "matplotlib"):
            self.assertIn(word, done.stdout)


if __name__ == "__main__":
    unittest.main()
