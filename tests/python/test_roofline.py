"""plimsoll bench --roofline: nearly all of a step's time is in ops, and every op has its work and its ceiling."""

import json
import os
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLIMSOLL = Path(os.environ.get("PLIMSOLL_BINARY", ROOT / "build/plimsoll"))


@unittest.skipUnless(PLIMSOLL.exists(), f"{PLIMSOLL} is not built")
class Roofline(unittest.TestCase):
    def bench(self, *words):
        return subprocess.run([PLIMSOLL, "bench", "--device", "cpu", "--roofline", *words], capture_output=True, text=True,
                              timeout=200)

    def test_accounts_for_a_steps_time(self):
        done = self.bench("--step", "bb3", "--steps", "2", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        for name in ("fp32_flops_per_second", "read_bytes_per_second", "triad_bytes_per_second"):
            self.assertGreater(answer["ceilings"][name], 0)
        (step,) = answer["steps"]
        roofline = step["roofline"]
        # The rest, between ops, is what views of tensors and loops over layers take.
        self.assertGreaterEqual(roofline["accounted"], 0.95)
        self.assertAlmostEqual(sum(op["ms"] for op in roofline["ops"]), roofline["ms_in_ops"], places=6)
        self.assertAlmostEqual(roofline["ms_in_ops"] + roofline["ms_between_ops"], roofline["ms"], places=6)
        for op in roofline["ops"]:
            self.assertGreater(op["bytes"], 0, op)
            self.assertGreater(op["ms"], 0, op)
            self.assertIn(op["bound"], ("products", "arithmetic", "memory"), op)
        # 6 per weight and token, 14 C per visible pair (train/bench_steps.cpp has the shape).
        layers, channels, vocab, context, rows = 3, 256, 67, 256, 64
        weights = layers * 12 * channels**2 + vocab * channels
        pairs = context * (context + 1) // 2
        self.assertEqual(sum(op["product_flops"] for op in roofline["ops"]),
                         rows * (6 * weights * context + 14 * layers * channels * pairs))

    def test_refuses_a_shape_it_does_not_know(self):
        done = self.bench("--step", "bb9")
        self.assertEqual(done.returncode, 78)
        self.assertIn("bb9", done.stderr)


if __name__ == "__main__":
    unittest.main()
