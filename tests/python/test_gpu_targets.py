"""scripts/bench/gpu_targets.py with fake measurements: rows, ratios, shares, failures; needs neither PyTorch nor a GPU."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/bench"))
import gpu_peer  # noqa: E402
import gpu_targets  # noqa: E402

SHAPE = gpu_targets.shape_of(64, 1024)
BENCH = "card\nmeasured peak: 650000 GFLOP/s (product), 4100.0 GB/s (memory)\n"


def milliseconds(shape, direction, tflops):
    return gpu_peer.attention_flops(shape) * (2.5 if direction == "backward" else 1) / tflops / 1e9


def plimsoll_at(tflops):
    def answer(path, option, shape):
        rows = [{"kernel": f"attention_{side}", "shape": f"{name} {shape}", "ms": milliseconds(shape, side, tflops)}
                for name in ("softmax", "sigmoid", "relu") for side in ("forward", "backward")]
        return {"attention": rows}
    return answer


def torch_at(tflops):
    return lambda peer, runs: {shape: {side: milliseconds(shape, side, tflops[peer]) for side in ("forward", "backward")}
                               for shape in gpu_targets.shapes_of(peer)}


class GpuTargets(unittest.TestCase):
    def test_a_row_compares_with_its_target_the_best_peer_and_the_peak(self):
        with mock.patch.object(gpu_peer, "_plimsoll", plimsoll_at(325)), \
                mock.patch.object(gpu_targets, "_worker", torch_at({"flash": 200, "cudnn": 250, "flex-sigmoid": 100})):
            found, failures = gpu_targets.measure("plimsoll", ["flash", "cudnn", "flex-sigmoid"], 1, lambda text: None)
        self.assertEqual(failures, [])
        rows = gpu_targets.rows_of(found, 650)
        self.assertEqual(len(rows), 4 * len(gpu_targets.TARGETS))
        table = gpu_targets.table(rows)
        self.assertIn("| forward 64 softmax | 1024 | 260 | 325 | 125 % | 200 | 250 | - | 1.30x | 50 % |", table)
        self.assertIn("| forward 64 sigmoid | 1024 | 260 | 325 | 125 % | - | - | 100 | 3.25x | 50 % |", table)
        self.assertIn("| backward 128 softmax | 8192 | 400 | 325 | 81 % | 200 | 250 | - | 1.30x | 50 % |", table)
        self.assertIn("| backward 64, one kernel | 1024-8192 | 240/330/390/420 | no kernel: ", table)
        self.assertIn("| forward 64 softmax full | 1024 | 370 | 325 | 88 % | 200 | 250 | - | 1.30x | 50 % |", table)
        self.assertIn("by the kernels for sm_80", table)
        below = sum(325 < 0.6 * target for targets in gpu_targets.TARGETS.values() for target in targets)
        self.assertGreater(below, 0)
        self.assertIn(f"{len(rows) - below} of {len(rows)} measured rows reach 60 % of their target", table)

    def test_every_weighting_has_peers_and_every_shape_is_measured_once(self):
        for _, HS, weighting in gpu_targets.TARGETS:
            for peer in gpu_targets.peers_of(weighting):
                shapes = gpu_targets.shapes_of(peer)
                self.assertEqual(len(shapes), len(set(shapes)))
                for T in gpu_targets.LENGTHS:
                    self.assertIn(gpu_targets.shape_of(HS, T, weighting), shapes)
        self.assertEqual(SHAPE, "16x1024x32x32x64")
        full = gpu_targets.shape_of(64, 1024, "softmax full")
        self.assertEqual(full, SHAPE + ":full")
        self.assertNotIn(full, gpu_targets.shapes_of("flex-sigmoid"))
        self.assertEqual(gpu_peer.sizes_of(full), ((16, 1024, 32, 32, 64), True))
        self.assertEqual(gpu_peer.attention_flops(full) / gpu_peer.attention_flops(SHAPE), 2 * 1024 / 1025)
        self.assertTrue(all(len(targets) == len(gpu_targets.LENGTHS) for targets in gpu_targets.TARGETS.values()))

    def test_peak_is_read_from_what_bench_prints(self):
        self.assertEqual(gpu_targets.measured_peak(BENCH), 650)
        self.assertIsNone(gpu_targets.measured_peak("nothing"))
        self.assertIn('"{}, {} threads, {}, {}\\nmeasured peak: {:.0f} GFLOP/s (product), ',
                      (ROOT / "train/bench.cpp").read_text())

    def run_main(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = gpu_targets.main(list(arguments))
            except SystemExit as end:
                status = end.code
        return status, out.getvalue(), err.getvalue()

    def test_failures_are_said_and_the_rest_is_printed(self):
        def some(peer, runs):
            if peer == "cudnn":
                raise gpu_targets.Failure("gave no result")
            return {SHAPE: {"error": "refused"}} if peer == "flash" else torch_at({"flex-sigmoid": 100})(peer, runs)
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(gpu_peer, "_plimsoll", plimsoll_at(100)), \
                mock.patch.object(gpu_targets, "_worker", some), \
                mock.patch.object(gpu_targets.importlib.util, "find_spec", lambda name: name):
            bench, answer = Path(folder) / "kernels.md", Path(folder) / "targets.json"
            bench.write_text(BENCH)
            status, out, _ = self.run_main("--plimsoll", sys.executable, "--peak-from", str(bench), "--json", str(answer))
            self.assertEqual(status, 1)
            self.assertIn("failed: torch cudnn: gave no result", out)
            self.assertIn(f"failed: flash {SHAPE}: refused", out)
            self.assertIn("| forward 64 softmax | 1024 | 260 | 100 | 38 % | - | - | - | - | 15 % |", out)
            self.assertEqual(json.loads(answer.read_text())["peak"], 650)

    def test_wrong_usage_is_named(self):
        status, _, err = self.run_main("--peak-from", "/no/such/file")
        self.assertEqual((status, "No such file" in err), (2, True))
        with tempfile.NamedTemporaryFile("w", suffix=".md") as file:
            status, _, err = self.run_main("--peak-from", file.name)
            self.assertEqual((status, "there is no line 'measured peak" in err), (2, True))
        status, _, err = self.run_main("--plimsoll", "/no/such/program")
        self.assertEqual((status, "there is no program at '/no/such/program'" in err), (1, True))
        status, out, _ = self.run_main("--list")
        self.assertEqual((status, out.count("| forward 256 softmax |")), (0, 4))


if __name__ == "__main__":
    unittest.main()
