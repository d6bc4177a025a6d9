"""Core attention by all ranks under mpirun: the bits of one process with the same plans, and what a run says about it.

    tests/python/cad_check.py build/plimsoll
"""

import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import ranks_matrix  # noqa: E402
from ranks_matrix import Comparison, cad_layouts  # noqa: E402

PLIMSOLL = ROOT / "build/plimsoll"
VARIANTS = ("softmax", "sigmoid", "gated", "placeholder", "gated_headwise", "sink_logit", "window_pinned",
            "kv_bias", "differential_v1", "differential_v2")


class Cad(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="plimsoll_cad_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def test_bits_are_those_of_one_process_with_the_same_plans(self):
        """Each layout with one variant, fp32 and fp64 in turn; scripts/ranks_matrix.py runs more."""
        comparison = Comparison(PLIMSOLL, self.folder)
        for number, layout in enumerate(cad_layouts(4)):
            variant, precision = VARIANTS[number % len(VARIANTS)], ("fp32", "fp64")[number % 2]
            self.assertEqual(comparison.difference(layout, variant, precision), "", f"{layout}, {variant}, {precision}")

    def test_steps_say_how_equal_attention_is(self):
        words = ["--set", "train.max_steps=3", "--set", "train.batch_tokens=8192", "--set", "model.context=1024",
                 "--set", "train.micro_batch=1", "--set", "data.val_samples=1"]

        def run(name, ranks, *more):
            command = ranks_matrix.command(PLIMSOLL, self.folder / name, ranks, [*words, *more])
            command[command.index("configs/quickstart.toml")] = "configs/experiments/cad.toml"
            done = ranks_matrix.subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
            return done.stdout, [json.loads(line) for line in lines]

        text, on = run("on", 4)
        self.assertRegex(text, r"attention \d\.\d\d to \d\.\d\d, \d+\.\d MiB, \d+\.\d ms exposed")
        _, alone = run("alone", 0, "--set", "parallel.virtual_ranks=4")
        _, off = run("off", 4, "--set", "cad.mode=off")
        _, planned = run("planned", 4, "--set", "cad.mode=plan_only")
        self.assertEqual([line["loss"] for line in on], [line["loss"] for line in alone])
        self.assertEqual(on[0]["loss"], off[0]["loss"])
        self.assertEqual([line["loss"] for line in planned], [line["loss"] for line in off])
        for line, other in zip(on, planned, strict=True):
            self.assertEqual(line["cad"]["before"], other["cad"]["before"])
            self.assertLess(line["cad"]["after"], line["cad"]["before"])
            self.assertGreater(line["cad"]["sent_bytes"], 0)
            self.assertEqual(other["cad"]["sent_bytes"], 0)


if __name__ == "__main__":
    PLIMSOLL = Path(sys.argv.pop(1)).resolve()
    unittest.main()
