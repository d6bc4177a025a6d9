"""Spikes, divergence and the largest stable learning rate, by hand."""

import math
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fake_runs  # noqa: E402
from test_report_sweep import SweepCase  # noqa: E402  (skips these tests where packages are missing)

from plimsoll_report import stability  # noqa: E402
from plimsoll_report.sweep import label_of  # noqa: E402
from plimsoll_report.sweep_cells import Cell  # noqa: E402

NAN = math.nan


class Spikes(unittest.TestCase):
    def test_a_norm_spike_is_five_times_the_running_mean(self):
        flat = [1.0] * 100
        self.assertEqual(stability.norm_spikes(flat), (0, 1.0))
        self.assertEqual(stability.norm_spikes([*flat, 4.9]), (0, 4.9))
        self.assertEqual(stability.norm_spikes([*flat, 5.1]), (1, 5.1))
        # It counts as 5 in the mean: 1.04. So 5.1 is none behind it, and 5.3 is one.
        self.assertEqual(stability.norm_spikes([*flat, 1000.0, 5.1])[0], 1)
        self.assertEqual(stability.norm_spikes([*flat, 1000.0, 5.3])[0], 2)
        self.assertEqual(stability.norm_spikes([*flat, 1000.0])[1], 1000.0)

    def test_the_first_steps_settle_the_mean(self):
        self.assertEqual(stability.norm_spikes([1.0] * 19 + [100.0])[0], 0)
        self.assertEqual(stability.norm_spikes([1.0] * 20 + [100.0])[0], 1)
        self.assertEqual(stability.norm_spikes([]), (0, None))

    def test_what_is_not_finite_is_a_spike_and_no_part_of_the_mean(self):
        self.assertEqual(stability.norm_spikes([1.0] * 50 + [NAN, math.inf, 1.0]), (2, 1.0))
        self.assertEqual(stability.norm_spikes([NAN] * 50), (0, None))
        self.assertEqual(stability.loss_spikes([2.0, 2.1] * 25 + [NAN]), 1)

    def test_a_loss_spike_leaves_the_usual_distance(self):
        # +-0.1 about 2: the mean distance is near 0.1, so 2.45 is within five of them and 2.65 is not.
        noise = [2.1, 1.9] * 200
        self.assertEqual(stability.loss_spikes(noise), 0)
        self.assertEqual(stability.loss_spikes([*noise, 2.45]), 0)
        self.assertEqual(stability.loss_spikes([*noise, 2.65]), 1)
        self.assertEqual(stability.loss_spikes([*noise, 1.0]), 0)  # learning is no spike
        self.assertEqual(stability.loss_spikes([4 - 0.01 * step for step in range(200)]), 0)


class Divergence(unittest.TestCase):
    def test_half_of_what_was_learned(self):
        falls = [4.0] * 50 + [2.0] * 50
        self.assertFalse(stability.diverged(falls))
        self.assertFalse(stability.diverged(falls + [2.9] * 50))
        self.assertTrue(stability.diverged(falls + [3.1] * 50))
        self.assertTrue(stability.diverged(falls + [9.0] * 50))
        self.assertFalse(stability.diverged(falls + [NAN] * 10 + [2.0] * 50))
        self.assertTrue(stability.diverged(falls + [NAN]))
        self.assertTrue(stability.diverged([]))
        self.assertFalse(stability.diverged([4.0]))
        self.assertTrue(stability.diverged([4.0] * 60 + [5.0] * 60))  # never learned, and lost


class StableRates(unittest.TestCase):
    def rows(self, states):
        """states: {(variant, rate): [states of its seeds]}, told by cells without runs."""
        cells = [Cell(f"{variant}-{rate}-{seed}", state, variant, {"optimizer.lr": str(rate)})
                 for (variant, rate), seeds in states.items() for seed, state in enumerate(seeds)]
        original, stability.cell_state = stability.cell_state, lambda cell: cell.state
        try:
            return {row["label"]: row for row in
                    stability.largest_rates(cells, {cell.name: () for cell in cells}, label_of)}
        finally:
            stability.cell_state = original

    def test_the_largest_rate_below_the_first_that_diverged(self):
        held, lost, unknown = stability.HELD, stability.DIVERGED, stability.UNKNOWN
        rows = self.rows({("softmax", 1e-3): [held, held], ("softmax", 2e-3): [held, held], ("softmax", 4e-3): [held, lost],
                          ("softmax", 8e-3): [held, held], ("gated", 1e-3): [held], ("gated", 8e-3): [held],
                          ("sigmoid", 1e-3): [lost], ("sigmoid", 2e-3): [held],
                          ("placeholder", 1e-3): [held, held], ("placeholder", 2e-3): [held, unknown]})
        self.assertEqual((rows["softmax"]["largest"], rows["softmax"]["diverged_from"]), (2e-3, 4e-3))
        self.assertEqual(rows["softmax"]["diverged"], ["softmax-0.004-1"])
        self.assertEqual((rows["gated"]["largest"], rows["gated"]["is_bound"]), (8e-3, False))
        self.assertEqual((rows["sigmoid"]["largest"], rows["sigmoid"]["diverged_from"]), (None, 1e-3))
        self.assertEqual((rows["placeholder"]["largest"], rows["placeholder"]["unknown"]), (1e-3, ["placeholder-0.002-1"]))
        text = stability.rates_table(list(rows.values())).markdown()
        self.assertIn("| softmax | 0.002 | 0.004 | 0.001, 0.002, 0.004, 0.008 | softmax-0.004-1 |", text)
        self.assertIn("| gated | at least 0.008 | \u2013 |", text)
        self.assertIn("| sigmoid | none | 0.001 |", text)


class SweepsOfRates(SweepCase):
    def test_cells_that_gave_up_or_lost_what_they_learned(self):
        found = self.analyzed({"softmax": {"1e-3": [2.0, 2.0], "2e-3": [2.0, 2.0], "4e-3": [2.0, 2.0]}}, seeds=(1, 2),
                              failed=["softmax-lr4e-3-seed2"])
        row = self.row(found["stable_rates"], variant="softmax")
        self.assertEqual((row["largest"], row["diverged_from"], row["diverged"]), (2e-3, 4e-3, ["softmax-lr4e-3-seed2"]))

        def explode(lines):
            for line in lines[25:]:
                line["loss"] = 20.0
        self.edit("softmax-lr2e-3-seed1", "metrics.jsonl", explode)
        row = self.row(self.again()["stable_rates"], variant="softmax")
        self.assertEqual((row["largest"], row["diverged_from"]), (1e-3, 2e-3))
        self.assertEqual(row["diverged"], ["softmax-lr2e-3-seed1", "softmax-lr4e-3-seed2"])

    def test_a_run_says_how_steady_it_was(self):
        path = fake_runs.make_run(self.root / "steady", "softmax", steps=100)
        from plimsoll_report.runs import read_run
        found = stability.of_run(read_run(path))
        self.assertEqual((found["steps"], found["norm_spikes"], found["diverged"]), (100, 0, False))
        self.path = self.root

        def jump(lines):
            lines[60]["norm"], lines[70]["loss"] = 40.0, None
        self.edit("steady", "metrics.jsonl", jump)
        found = stability.of_run(read_run(path))
        self.assertEqual((found["norm_spikes"], found["not_finite"]), (1, 1))
        self.assertGreater(found["largest_norm_ratio"], 20)


if __name__ == "__main__":
    unittest.main()
