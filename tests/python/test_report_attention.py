"""The report's part about core attention by all ranks: from cad.jsonl and metrics.jsonl.

    python3 -m unittest discover tests/python        (the report needs pandas and matplotlib)
"""

import json
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fake_runs  # noqa: E402
from test_report import ReportCase  # noqa: E402  (skips these tests where packages are missing)

from plimsoll_report import disaggregation  # noqa: E402
from plimsoll_report.runs import read_run  # noqa: E402


class Disaggregation(ReportCase):
    def attention_run(self, name="cad", **options):
        return fake_runs.add_attention(self.small_run(name, None), **options)

    def page(self):
        return (self.out / "report.html").read_text()

    def pngs(self):
        return {file.name for file in self.out.glob("cad_*.png")}

    def test_page_of_a_run(self):
        self.report(self.attention_run())
        self.assertEqual(self.pngs(), {"cad_plan_0.png", "cad_timeline_0.png", "cad_steps_0.png"})
        page = self.page()
        self.assertIn("Core attention: who computes what", page)
        self.assertIn("128 of 1024 rows computed by another rank", page)
        self.assertIn("forward 12 %, backward 12 %", page)  # 2 of 16 ms
        self.assertIn("1.60 as owned and 1.05 as planned", page)

    def test_plans_alone_have_no_timeline(self):
        self.report(self.attention_run(timeline=False))
        self.assertEqual(self.pngs(), {"cad_plan_0.png", "cad_steps_0.png"})

    def test_figures_of_an_earlier_report_go(self):
        run = self.attention_run()
        self.report(run)
        (run / "cad.jsonl").unlink()
        self.report(run)
        self.assertEqual(self.pngs(), set())
        self.assertNotIn("Core attention", self.page())

    def test_what_cannot_be_drawn_is_named(self):
        run = self.attention_run()
        first, second = map(json.loads, (run / "cad.jsonl").read_text().splitlines())
        first["forward"] = {**first["forward"], "sent": [1]}
        del second["backward"]["tasks"]
        fake_runs.write_lines(run / "cad.jsonl", [first, second])
        _, said = self.report(run)
        self.assertIn("step 1: 'sent' is not a number for each of 2 ranks", said)
        self.assertIn("step 2: no 'tasks'", said)
        self.assertEqual(self.pngs(), set())

    def test_bars_are_the_plans_rows_and_pairs(self):
        sample = read_run(self.attention_run()).cad[0]
        self.assertEqual([bar for bar in disaggregation.tokens(sample, "forward") if bar[0] == 0],
                         [(0, 0, 384, 0), (0, 384, 128, 1)])
        self.assertEqual([first for home, first, _, _ in disaggregation.tokens(sample, "forward") if home == 1],
                         [0, 128, 256, 384])
        ends = [0, 0]
        for server, start, pairs, _ in disaggregation.work(sample, "forward"):
            self.assertEqual(start, ends[server])
            ends[server] += pairs
        self.assertEqual(ends, sample["forward"]["loads"])

    def test_the_least_equal_step_is_shown_but_the_first(self):
        def sample(step, loads):
            return {"step": step, "forward": {"loads_before": loads}}
        samples = [sample(1, [9, 1]), sample(2, [6, 4]), sample(5, [7, 3])]
        self.assertEqual(disaggregation.shown_sample(samples)["step"], 5)
        self.assertEqual(disaggregation.shown_sample(samples[:1])["step"], 1)


if __name__ == "__main__":
    unittest.main()
