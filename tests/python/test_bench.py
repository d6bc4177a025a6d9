"""`plimsoll bench` of tiny configurations: what it prints, pairs of variants, and what it refuses."""

import json
import os
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("PLIMSOLL_BINARY", ROOT / "build" / "plimsoll"))
TINY = ["--config", "configs/quickstart.toml", "--set", "model.channels=16", "--set", "model.context=16", "--set",
        "model.ffn=24", "--set", "train.micro_batch=4", "--set", "train.batch_tokens=128", "--threads", "1"]


@unittest.skipUnless(BINARY.exists(), f"{BINARY} is not built")
class Bench(unittest.TestCase):
    def bench(self, *arguments, status=0):
        done = subprocess.run([BINARY, "bench", *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr if status else done.stdout

    def test_every_step_is_told(self):
        answer = json.loads(self.bench(*TINY, "--variant", "placeholder", "--steps", "3", "--json"))
        self.assertEqual((answer["shape"], answer["tokens"], answer["micro_batch"], answer["threads"]), ("placeholder", 128, 4, 1))
        self.assertEqual(len(answer["ms"]), 3)
        self.assertEqual(answer["ms_per_step"], min(answer["ms"]))
        self.assertEqual(answer["ms_median"], sorted(answer["ms"])[1])

    def test_two_variants_take_turns(self):
        answer = json.loads(self.bench(*TINY, "--variant", "sigmoid", "--against", "softmax", "--steps", "4", "--json"))
        self.assertEqual((answer["variant"], answer["against"], answer["tokens"]), ("sigmoid", "softmax", 128))
        self.assertEqual((len(answer["ms"]), len(answer["ms_against"])), (4, 4))
        self.assertTrue(all(ms > 0 for ms in answer["ms"] + answer["ms_against"]))
        self.assertEqual(answer["flops_per_token"], answer["flops_per_token_against"])
        gated = json.loads(self.bench(*TINY, "--variant", "gated", "--against", "softmax", "--steps", "1", "--json"))
        self.assertGreater(gated["flops_per_token"], gated["flops_per_token_against"])
        self.assertIn("ms of softmax (medians of 2 pairs)", self.bench(*TINY, "--variant", "gated", "--against", "softmax", "--steps", "2"))

    def test_attention_of_some_weightings(self):
        answer = json.loads(self.bench("--attention", "1x32x2x2x16", "--weighting", "sigmoid,softmax", "--json"))
        self.assertEqual([(row["kernel"], row["shape"].split()[0]) for row in answer["attention"]],
                         [("attention_forward", "softmax"), ("attention_backward", "softmax"),
                          ("attention_forward", "sigmoid"), ("attention_backward", "sigmoid")])

    def test_what_it_does_not_know_is_named(self):
        self.assertIn("softmix", self.bench(*TINY, "--variant", "softmix", status=78))
        self.assertIn("softmix", self.bench(*TINY, "--against", "softmix", status=78))
        self.assertIn("softmix", self.bench("--attention", "1x32x2x2x16", "--weighting", "softmix", status=78))
        self.assertIn("parallel.stages", self.bench(*TINY, "--set", "model.layers=2", "--set", "parallel.stages=2", status=78))
        self.assertIn("no such shape; known: gpt2-t64", self.bench("--step", "gpt5", status=78))
        self.assertIn("--config", self.bench("--against", "softmax", status=78))


if __name__ == "__main__":
    unittest.main()
