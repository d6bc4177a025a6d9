"""scripts/bench/bf16_gradients.py: plimsoll's gradients in bf16 are no further from fp32's than PyTorch autocast's."""

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLIMSOLL = Path(os.environ.get("PLIMSOLL_BINARY", ROOT / "build/plimsoll"))


@unittest.skipUnless(PLIMSOLL.exists(), "plimsoll is not built")
class Bf16Gradients(unittest.TestCase):
    def test_no_further_from_fp32_than_autocasts(self):
        done = subprocess.run([sys.executable, ROOT / "scripts/bench/bf16_gradients.py", "--plimsoll", PLIMSOLL, "--rows",
                               "8", "--context", "64", "--channels", "64"], capture_output=True, text=True, timeout=200)
        if done.returncode == 77:
            self.skipTest(done.stdout.strip())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr[-2000:])
        distances = [float(number) for number in re.findall(r"fp32.*?\| ([\d.e+-]+) \|", done.stdout)]
        self.assertEqual(len(distances), 3, done.stdout)
        self.assertGreater(distances[0], 1e-4)  # it is computed in bf16


if __name__ == "__main__":
    unittest.main()
