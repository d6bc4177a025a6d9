"""scripts/bench/gpu_peer.py with fake measurements: tables, ratios, failures; needs neither PyTorch nor a GPU."""

import sys
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/bench"))
import gpu_peer  # noqa: E402


class GpuPeer(unittest.TestCase):
    def test_steps_compare_with_the_best_row_and_keep_the_best_run(self):
        ms = {"flash": 120.0, "cudnn": 100.0}
        ours = iter([{"ms_per_step": 90.0}, {"ms_per_step": 80.0, "ops": [{"path": "head/matmul_forward", "ms": 9.0}]}])
        with mock.patch.object(gpu_peer, "_worker", lambda kind, shape, row, runs: {"ms": ms[row]}), \
                mock.patch.object(gpu_peer, "_plimsoll", lambda *arguments: next(ours)):
            entries = gpu_peer.measure_steps(["gpt2-b32"], ["flash", "cudnn"], "plimsoll", 1, lambda e: None)
        self.assertEqual([entry["ms"] for entry in entries], [120.0, 100.0, 80.0])
        table = gpu_peer.steps_table(entries)
        self.assertIn("| gpt2-b32 | plimsoll | 80.0 | 409,600 | 33.0 % | 1.25x |", table)
        self.assertIn("| gpt2-b32 | torch.compile cudnn | 100.0 | 327,680 | 26.4 % | - |", table)
        self.assertIn("| head GEMM | 9.00 |", table)
        self.assertIn("| launch gaps | 71.00 |", table)

    def test_a_failure_is_a_row(self):
        def fail(*arguments):
            raise gpu_peer.Failure("no cuDNN here")
        with mock.patch.object(gpu_peer, "_worker", fail):
            steps = gpu_peer.measure_steps(["gpt2-b64"], ["cudnn"], None, 1, lambda e: None)
            attention = gpu_peer.measure_attention(["1x128x2x2x64"], ["cudnn"], None, 1, lambda e: None)
        self.assertIn("failed: no cuDNN here", gpu_peer.steps_table(steps))
        self.assertIn("failed: no cuDNN here", gpu_peer.attention_table(attention))

    def test_attention_rows_of_both_programs(self):
        answer = {"attention": [{"kernel": "attention_forward", "shape": "sigmoid 1x128x2x2x64", "ms": 1.0},
                                {"kernel": "attention_backward", "shape": "sigmoid 1x128x2x2x64", "ms": 2.5}]}
        with mock.patch.object(gpu_peer, "_worker", lambda *a: {"forward": 0.5, "backward": 1.0, "torch": "x"}), \
                mock.patch.object(gpu_peer, "_plimsoll", lambda *a: answer):
            entries = gpu_peer.measure_attention(["1x128x2x2x64"], ["flash"], "plimsoll", 1, lambda e: None)
        self.assertEqual([entry["row"] for entry in entries], ["torch flash", "plimsoll sigmoid"])
        flops = 4 * 2 * 64 * 128 * 129 / 2
        self.assertEqual(gpu_peer.attention_flops("1x128x2x2x64"), flops)
        self.assertIn("| plimsoll sigmoid | 1.000 |", gpu_peer.attention_table(entries))

    def test_shapes_are_those_of_plimsoll_bench(self):
        source = (ROOT / "train/bench_steps.cpp").read_text()
        for name in gpu_peer.STEP_SHAPES:
            self.assertIn(f'"{name}"', source)


if __name__ == "__main__":
    unittest.main()
