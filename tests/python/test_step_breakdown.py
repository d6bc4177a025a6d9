"""scripts/bench/step_breakdown.py: ops into classes, floors from shapes; needs no GPU."""

import re
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/bench"))
import gpu_peer  # noqa: E402
import step_breakdown as sb  # noqa: E402

GPT2, LLAMA = gpu_peer.STEP_SHAPES["gpt2-b32"], gpu_peer.STEP_SHAPES["llama-1b-t2048"] | {"B": 16}


class StepBreakdown(unittest.TestCase):
    def test_ops_by_where_they_are(self):
        for path, name in (("enter block/matmul_forward", "body GEMM"), ("head/matmul_forward", "head GEMM"),
                           ("backward head/matmul_backward_weight", "head GEMM"),
                           ("backward block/matmul_activation_backward", "body GEMM"),
                           ("core attention/attention_forward", "attention forward"),
                           ("backward block/attention_backward", "attention backward"),
                           ("backward head/residual_norm_backward", "norms and elementwise"),
                           ("head/cross_entropy_whole", "classifier"), ("adamw_step", "optimizer"),
                           ("sum_of_squares", "optimizer"), ("embedding_forward", "other"), ("new_op", "other")):
            self.assertEqual(sb.class_of(path), name, path)

    def test_every_op_of_a_gpt2_step_has_a_class(self):
        """A renamed op must not slip into "other" unseen: each pattern matches an op that exists."""
        ops = set(re.findall(r"^void (\w+)\(|^double (\w+)\(", (ROOT / "kernels/implementations.inc").read_text(), re.M))
        ops = {a or b for a, b in ops}
        for start, _ in sb._STARTS:
            self.assertTrue(any(op.startswith(start) for op in ops), start)

    def test_floors_are_those_of_the_data_sheet(self):
        """GPT-2 124M, 32 x 1024 tokens, and 1.1B, 16 x 2048: worked out by hand from FLOPs and bytes."""
        gpt2, llama = sb.floors(GPT2), sb.floors(LLAMA)
        for name, ms in (("body GEMM", 24.6), ("head GEMM", 11.2), ("attention forward", 1.55),
                         ("attention backward", 4.4), ("norms and elementwise", 2.6), ("classifier", 1.57),
                         ("optimizer", 1.0), ("other", 0.5)):
            self.assertAlmostEqual(gpt2[name], ms, delta=0.03 * ms + 0.01, msg=name)
        for name, ms in (("body GEMM", 280), ("head GEMM", 19), ("attention forward", 15.1),
                         ("attention backward", 43.2), ("norms and elementwise", 31.3), ("classifier", 1.0)):
            self.assertAlmostEqual(llama[name], ms, delta=0.03 * ms, msg=name)
        self.assertEqual(set(gpt2), set(sb.CLASSES))

    def test_model_flops(self):
        self.assertAlmostEqual(sb.model_flops(GPT2) / 32768 / 1e6, 798, delta=8)
        self.assertAlmostEqual(sb.mfu(GPT2, 53.2), 0.50, delta=0.01)
        self.assertAlmostEqual(sb.parameters(LLAMA) / 1e9, 1.1, delta=0.01)

    def test_table_adds_up(self):
        ops = [{"path": "enter block/matmul_forward", "ms": 30.0}, {"path": "head/cross_entropy_whole", "ms": 2.0}]
        text = sb.table("gpt2-b32", GPT2, {"ms": 40.0, "ops": ops})
        self.assertIn("819,200 tokens/s", text)
        self.assertIn("| body GEMM | 30.00 |", text)
        self.assertIn("| launch gaps | 8.00 | 0.20 | 40.00 | 7.80 |", text)
        self.assertIn("| whole step | 40.00 |", text)


if __name__ == "__main__":
    unittest.main()
