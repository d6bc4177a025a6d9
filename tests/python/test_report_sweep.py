"""The report over a sweep: pairs by hand, known differences, cells that are missing, and what must not be claimed.

    python3 -m unittest discover tests/python        (the report needs pandas and matplotlib)
"""

import contextlib
import io
import json
import math
import random
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fake_runs  # noqa: E402
from test_report import ReportCase  # noqa: E402  (skips these tests where packages are missing)

import report as report_script  # noqa: E402
from plimsoll_report import comparison  # noqa: E402
from plimsoll_report.budgets import interpolate  # noqa: E402
from plimsoll_report.runs import UnusableRun, read_run  # noqa: E402
from plimsoll_report.sweep import analyze  # noqa: E402
from plimsoll_report.sweep_cells import is_sweep, read_sweep  # noqa: E402

SHORT = 50


class SweepCase(ReportCase):
    def analyzed(self, losses, **options):
        self.path = fake_runs.make_sweep(self.root / "sweep", losses, **{"steps": SHORT, **options})
        return analyze(read_sweep(self.path))

    def row(self, rows, **wanted):
        found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
        self.assertEqual(len(found), 1, wanted)
        return found[0]

    def edit(self, cell, name, change):
        file = self.path / cell / name
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        change(lines)
        fake_runs.write_lines(file, lines)

    def again(self):
        return analyze(read_sweep(self.path))


class Pairs(SweepCase):
    def test_three_seeds_by_hand(self):
        # differences 0.1, 0.2, 0.3 in seeds whose own losses differ more: t = 2 sqrt(3), 2 degrees of freedom
        found = self.analyzed({"softmax": {"1e-3": [2.0, 2.5, 3.0]}, "sigmoid": {"1e-3": [2.1, 2.7, 3.3]}})
        row = self.row(found["comparisons"], kind="equal rate")
        metric = row["metrics"]["loss_val"]
        self.assertEqual((row["variant"], row["control"], metric["seeds"], metric["n"]),
                         ("sigmoid", "softmax", [1, 2, 3], 3))
        self.assertAlmostEqual(metric["mean"], 0.2)
        self.assertAlmostEqual(metric["t"], 2 * math.sqrt(3), places=9)
        self.assertAlmostEqual(metric["p"], 1 - math.sqrt(12 / 14), places=9)
        self.assertAlmostEqual(metric["low"], 0.2 - 0.1 * 4.3026527 / math.sqrt(3), places=6)
        self.assertEqual((metric["flip_p"], metric["flip_floor"], metric["p_holm"]), (0.25, 0.25, metric["p"]))
        self.assertIn("0.2000 nats higher, 95 % CI [-0.0484, +0.4484], p = 0.074: not distinguishable at 3 seeds.",
                      row["verdict"])
        setting = self.row(found["settings"], variant="softmax")
        self.assertEqual((setting["mean"]["loss_val"], setting["sd"]["loss_val"], setting["n"]["loss_val"]), (2.5, 0.5, 3))

    def test_a_known_difference_is_found_and_none_is_not(self):
        dice = random.Random(4)
        seeds = range(8)
        own = [dice.gauss(0, 0.2) for _ in seeds]  # shared by a pair: pairing takes it out

        def losses(shift):
            return [2 + own[seed] + shift + dice.gauss(0, 0.004) for seed in seeds]
        found = self.analyzed({"softmax": {"1e-3": losses(0)}, "sigmoid": {"1e-3": losses(-0.05)},
                               "relu": {"1e-3": losses(0)}}, seeds=seeds, steps=20)
        better = self.row(found["comparisons"], kind="best rate", variant="sigmoid")
        metric = better["metrics"]["loss_val"]
        self.assertTrue(metric["low"] < -0.05 < metric["high"])
        self.assertLess(metric["high"] - metric["low"], 0.03)
        self.assertEqual(metric["flip_p"], 2 / 2 ** 8)
        self.assertIn("lower than softmax beyond the noise of 8 seeds", better["verdict"])
        self.assertNotIn("sign-flip", better["verdict"])
        same = self.row(found["comparisons"], kind="best rate", variant="relu")
        self.assertIn("not distinguishable at 8 seeds", same["verdict"])
        adjusted = sorted((metric["p"], same["metrics"]["loss_val"]["p"]))
        self.assertEqual([metric["p_holm"], same["metrics"]["loss_val"]["p_holm"]],
                         [2 * adjusted[0], max(2 * adjusted[0], adjusted[1])])

    def test_few_pairs_rest_on_normality_and_the_verdict_says_so(self):
        found = self.analyzed({"softmax": {"1e-3": [2.0, 2.5, 3.0]}, "sigmoid": {"1e-3": [1.9, 2.399, 2.901]}})
        self.assertIn("allow no sign-flip p below 0.250", found["comparisons"][0]["verdict"])

    def test_one_seed_says_nothing(self):
        found = self.analyzed({"softmax": {"1e-3": [2.0], "3e-3": [2.2]}, "sigmoid": {"1e-3": [1.5]}}, seeds=(1,))
        row = self.row(found["comparisons"], kind="best rate")
        self.assertIn("nothing can be said", row["verdict"])
        self.assertIsNone(row["metrics"]["loss_val"]["p"])
        self.assertIn("with one seed no noise is known", found["best"][0]["sentence"])

    def test_equal_runs_are_called_equal(self):
        found = self.analyzed({"softmax": {"1e-3": [2.0, 2.5]}, "sigmoid": {"1e-3": [2.0, 2.5]}}, seeds=(1, 2))
        self.assertIn("Equal to the last bit in all 2 pairs", found["comparisons"][0]["verdict"])

    def test_other_data_and_other_targets_are_no_pair(self):
        found = self.analyzed(
            {"softmax": {"1e-3": [2.0, 2.1, 2.2, 2.3]}, "placeholder": {"1e-3": [2.1, 2.2, 2.3, 2.4]}}, seeds=(1, 2, 3, 4),
            changes={"placeholder-lr1e-3-seed2": {"data_hash": "beef"}, "placeholder-lr1e-3-seed3": {"scored": 8000}})
        row = self.row(found["comparisons"], kind="equal rate")
        self.assertEqual(row["metrics"]["loss_val"]["seeds"], [1, 4])
        self.assertIn("seed 2: other data (hash beef against 9f2c1a7be0d4)", row["refused"])
        self.assertIn("seed 3: other targets (8000 scored against 8128", " ".join(row["refused"]))

    def test_runs_of_another_length_are_no_pair(self):
        self.analyzed({"softmax": {"1e-3": [2.0, 2.1]}, "sigmoid": {"1e-3": [2.1, 2.2]}}, seeds=(1, 2))
        self.edit("sigmoid-lr1e-3-seed1", "metrics.jsonl", lambda lines: lines.append({**lines[-1], "step": SHORT + 1}))
        found = self.again()
        row = self.row(found["comparisons"], kind="equal rate")
        self.assertIn(f"seed 1: other length ({SHORT + 1} steps against {SHORT})", row["refused"])
        self.assertIn("sigmoid-lr1e-3-seed1 has no finite validation loss at its last step", found["notes"])

    def test_pairs_share_the_other_axes(self):
        self.analyzed({"softmax": {"1e-3": [2.0, 2.1]}, "sigmoid": {"1e-3": [2.1, 2.3]}}, seeds=(1, 2))
        big = fake_runs.make_sweep(self.root / "big", {"softmax": {"1e-3": [1.0, 1.1]}, "sigmoid": {"1e-3": [1.4, 1.6]}},
                                   seeds=(1, 2), steps=SHORT)
        plans = []
        for path, size in ((self.path, 128), (big, 256)):
            plan = json.loads((path / "sweep.jsonl").read_text().splitlines()[0])["cells"]
            for cell in plan:
                folder = path / cell["name"]
                config = folder / "config.toml"
                config.write_text(config.read_text().replace("[model]", f"[model]\nchannels = {size}"))
                cell["name"] += f"-channels{size}"
                cell["settings"].append(f"model.channels={size}")
                folder.rename(self.path / cell["name"])
            plans += plan
        fake_runs.write_lines(self.path / "sweep.jsonl", [{"event": "plan", "cells": plans}])
        for with_plan in (True, False):
            if not with_plan:
                fake_runs.write_lines(self.path / "sweep.jsonl", [{"event": "begin", "cell": plans[0]["name"]}])
            found = self.again()
            self.assertEqual(list(found["axes"]["others"]), ["model.channels"])
            for size, mean in ((128.0, 0.15), (256.0, 0.45)):
                row = self.row(found["comparisons"], kind="best rate", other={"model.channels": size})
                self.assertAlmostEqual(row["metrics"]["loss_val"]["mean"], mean)


class Rates(SweepCase):
    def test_best_rate_inside_the_grid(self):
        found = self.analyzed({"softmax": {"1e-3": [2.2, 2.3], "3e-3": [2.0, 2.11], "1e-2": [2.5, 2.6]}}, seeds=(1, 2))
        best = found["best"][0]
        self.assertEqual((best["rate"], best["edge"], best["next"]["rate"]), (0.003, None, 0.001))
        self.assertNotIn("grid", best["sentence"])

    def test_edge_of_the_grid_and_noise(self):
        found = self.analyzed({"softmax": {"1e-3": [2.01, 2.3, 2.1], "3e-3": [2.0, 2.3, 2.105]}})
        self.assertIn("the highest rate of the grid", found["best"][0]["sentence"])
        self.assertIn("below the noise", found["best"][0]["sentence"])

    def test_a_rate_that_lost_seeds_is_no_candidate(self):
        found = self.analyzed({"softmax": {"1e-3": [2.2, 2.3], "3e-3": [1.0, 1.1]}}, seeds=(1, 2),
                              failed=("softmax-lr3e-3-seed2",))
        self.assertEqual(found["best"][0]["rate"], 0.001)
        self.assertIn("Not a candidate, since seeds of it did not finish: softmax (lr 0.003)",
                      found["best"][0]["sentence"])
        self.assertEqual(self.row(found["settings"], rate=0.003)["lost"], ["softmax-lr3e-3-seed2 (failed)"])

    def test_each_variant_at_its_best_rate(self):
        found = self.analyzed({"softmax": {"1e-3": [2.0, 2.1], "3e-3": [2.4, 2.5]},
                               "sigmoid": {"1e-3": [2.4, 2.5], "3e-3": [2.05, 2.17]}}, seeds=(1, 2))
        row = self.row(found["comparisons"], kind="best rate")
        self.assertEqual((row["rate"], row["control_rate"]), (0.003, 0.001))
        self.assertAlmostEqual(row["metrics"]["loss_val"]["mean"], 0.06)
        self.assertEqual(len([row for row in found["comparisons"] if row["kind"] == "equal rate"]), 2)


class Cells(SweepCase):
    LOSSES = {"softmax": {"1e-3": [2.0, 2.1, 2.2]}, "sigmoid": {"1e-3": [2.1, 2.2, 2.3]}}

    def test_missing_failed_and_interrupted_cells_are_named(self):
        self.analyzed(self.LOSSES, failed=("sigmoid-lr1e-3-seed1",), missing=("sigmoid-lr1e-3-seed2",))
        info = self.path / "softmax-lr1e-3-seed3/run.json"
        fake_runs.write_json(info, {**json.loads(info.read_text()), "status": "stopped", "max_steps": 900})
        found = self.again()
        states = {row["name"]: row["state"] for row in found["cells"]}
        self.assertEqual(states, {"softmax-lr1e-3-seed1": "done", "softmax-lr1e-3-seed2": "done",
                                  "softmax-lr1e-3-seed3": "interrupted", "sigmoid-lr1e-3-seed1": "failed",
                                  "sigmoid-lr1e-3-seed2": "missing", "sigmoid-lr1e-3-seed3": "done"})
        self.assertEqual(found["missing"], ["sigmoid-lr1e-3-seed2"])
        notes = {row["name"]: row["note"] for row in found["cells"]}
        self.assertEqual(notes["sigmoid-lr1e-3-seed1"], "exit status 70; said: loss is nan")
        self.assertEqual(notes["softmax-lr1e-3-seed3"], f"step {SHORT} of 900")
        row = self.row(found["comparisons"], kind="equal rate")
        self.assertNotIn("loss_val", row["metrics"])  # no seed finished with both
        self.assertIn("No pair of seeds: seed 1: only one of the two finished", row["verdict"])

    def test_cells_that_go_on_are_not_failed(self):
        self.analyzed({"softmax": {"1e-3": [2.0, 2.1, 2.2, 2.3]}}, seeds=(1, 2, 3, 4), steps=5)
        with open(self.path / "sweep.jsonl", "a") as file:
            for seed, status in ((1, 85), (2, 75), (3, 74)):
                file.write(json.dumps({"event": "begin", "cell": f"softmax-lr1e-3-seed{seed}"}) + "\n")
                file.write(json.dumps({"event": "end", "cell": f"softmax-lr1e-3-seed{seed}", "status": status}) + "\n")
            file.write(json.dumps({"event": "begin", "cell": "softmax-lr1e-3-seed4"}) + "\n")
        for seed in (1, 2, 3, 4):
            info = self.path / f"softmax-lr1e-3-seed{seed}/run.json"
            fake_runs.write_json(info, {**json.loads(info.read_text()), "status": "running"})
        found = self.again()
        self.assertEqual([(row["state"], row["tries"]) for row in found["cells"]],
                         [("interrupted", 2), ("interrupted", 2), ("failed", 2), ("interrupted", 2)])
        self.assertIn("under way or killed", found["cells"][3]["note"])
        self.assertEqual(found["settings"], [])

    def test_without_a_plan_gaps_are_found_by_the_seeds(self):
        found = self.analyzed(self.LOSSES, plan=False, missing=("sigmoid-lr1e-3-seed2",))
        self.assertEqual((found["has_plan"], found["missing"]), (False, ["sigmoid-lr1e-3-seed2"]))
        self.assertEqual(self.row(found["settings"], variant="sigmoid")["lost"], ["sigmoid-lr1e-3-seed2 (missing)"])

    def test_the_whole_report_of_an_incomplete_sweep(self):
        self.analyzed(self.LOSSES, failed=("sigmoid-lr1e-3-seed1",), missing=("sigmoid-lr1e-3-seed2",))
        fake_runs.write_lines(self.path / "ledger.jsonl", [
            {"time": 1, "run": "sigmoid-lr1e-3-seed1", "exit_code": 70, "change": "rate up", "loss_final": None,
             "probes": {"sink_rate": 12.5, "row_mass": 0.25}},
            {"time": 2, "run": "softmax-lr1e-3-seed1", "exit_code": 0, "change": "", "loss_final": 2.0}])
        (self.path / "sigmoid-lr1e-3-seed3/config.toml").unlink()
        summary, said = self.report(options=["--sweep", str(self.path)], status=1)
        self.assertIn("2 of 6 cells are not done: sigmoid-lr1e-3-seed1 (failed), sigmoid-lr1e-3-seed2 (missing)", said)
        self.assertEqual((len(summary["runs"]), summary["sweep"]["tries_source"]), (4, "ledger.jsonl"))
        page, text = (self.out / "report.html").read_text(), (self.out / "summary.md").read_text()
        for words in (page, text):
            self.assertIn("Missing: sigmoid-lr1e-3-seed2", words)
            self.assertIn("Differences from softmax", words)
        self.assertIn("rate up", page)
        self.assertIn("sink_rate 12.5, row_mass 0.250", page)
        self.assertTrue({"sweep_rates.png", "sweep_differences.png", "sweep_sinks.png"}
                        <= {file.name for file in self.out.glob("*.png")})
        self.assertNotIn("NaN", (self.out / "summary.json").read_text())

    def test_where_a_sweep_and_its_report_are(self):
        self.analyzed({"softmax": {"1e-3": [2.0]}}, seeds=(1,), steps=5)
        self.assertTrue(is_sweep(self.path))
        self.assertFalse(is_sweep(self.path / "softmax-lr1e-3-seed1"))
        (self.path / "report").mkdir()
        with contextlib.redirect_stdout(io.StringIO()) as said, mock.patch("plimsoll_report.build._build") as build:
            build.return_value = ([], 1, 0)
            self.assertEqual(report_script.main([str(self.path)]), 0)
        self.assertIn(str(self.path / "report/report.html"), said.getvalue())
        self.assertEqual([row["name"] for row in self.again()["cells"]], ["softmax-lr1e-3-seed1"])  # report/ is no cell

    def test_what_is_no_sweep(self):
        with self.assertRaisesRegex(UnusableRun, "no run directory and no sweep.jsonl"):
            read_sweep(self.root)
        with self.assertRaisesRegex(UnusableRun, "no such directory"):
            read_sweep(self.root / "absent")
        for words in ([], ["run", "--sweep", "sweep"]):
            with self.assertRaises(SystemExit) as end, contextlib.redirect_stderr(io.StringIO()):
                report_script.main(words)
            self.assertEqual(end.exception.code, 2)

    def test_lines_that_are_no_events(self):
        self.analyzed({"softmax": {"1e-3": [2.0]}}, seeds=(1,), steps=5)
        with open(self.path / "sweep.jsonl", "a") as file:
            file.write('[1]\n{"event": "plan", "cells": 5}\n{"event": "end"}\n{"event": "be')
        directory = read_sweep(self.path)
        self.assertEqual(len(directory.cells), 1)
        self.assertIn("sweep.jsonl:7 is no JSON object; skipped", " ".join(directory.messages))


class Evidence(SweepCase):
    LOSSES = {"softmax": {"1e-3": [2.0, 2.1]}, "sigmoid": {"1e-3": [2.1, 2.2]}, "placeholder": {"1e-3": [2.0, 2.2]}}

    def test_a_control_that_sinks(self):
        found = self.analyzed(self.LOSSES, seeds=(1, 2), steps=500)
        self.assertEqual(self.row(found["sinks"], variant="sigmoid")["headline"], "sink-free")
        self.assertIn("in 2 of 2 seeds", self.row(found["sinks"], variant="sigmoid")["text"])
        self.assertEqual(self.row(found["sinks"], variant="placeholder")["headline"], "sink on the placeholder")

    def test_a_control_that_does_not_sink(self):
        found = self.analyzed(self.LOSSES, seeds=(1, 2), steps=20)
        for variant in ("softmax", "sigmoid"):
            self.assertNotIn("sink-free", self.row(found["sinks"], variant=variant)["headline"])
        self.assertIn("The softmax control does not sink either", self.row(found["sinks"], variant="sigmoid")["text"])

    def test_no_control(self):
        found = self.analyzed({"sigmoid": {"1e-3": [2.1, 2.2]}}, seeds=(1, 2), steps=500)
        self.assertEqual(found["sinks"][0]["headline"], "not judged")
        self.assertEqual(found["comparisons"], [])
        self.assertIsNone(found["costs"][0]["params_ratio"])

    def test_a_control_that_sinks_in_one_seed_of_two(self):
        self.analyzed(self.LOSSES, seeds=(1, 2), steps=500)
        self.edit("softmax-lr1e-3-seed2", "probes.jsonl", lambda lines: lines.__delitem__(slice(1, None)))
        self.assertEqual(self.row(self.again()["sinks"], variant="sigmoid")["headline"],
                         "sink-free where 1 of 2 controls sink")


class Budgets(SweepCase):
    def test_interpolation_never_extrapolates(self):
        self.assertEqual(interpolate(2.5, [1, 2, 3], [10, 20, 40])[0], 30)
        self.assertEqual(interpolate(3 * (1 + 1e-12), [1, 2, 3], [10, 20, 40])[0], 40)
        for x, xs in ((3.1, [1, 2, 3]), (0.5, [1, 2, 3]), (2, [1, 3, 2]), (2, [2]), (2, [])):
            value, reason = interpolate(x, xs, [1.0] * len(xs))
            self.assertIsNone(value)
            self.assertTrue(reason)

    def test_equal_flops_and_time(self):
        # the gate: 1.5 times the FLOPs, so it had spent the control's budget at step 40 of 60; the clocks are equal
        self.analyzed({"softmax": {"1e-3": [2.0, 2.0]}, "gated": {"1e-3": [1.9, 1.9]}}, seeds=(1, 2), steps=60,
                      changes={f"gated-lr1e-3-seed{seed}": {"flops_per_token": 2_250_000} for seed in (1, 2)})
        for seed in (1, 2):  # evaluations at 0, 50, 60
            self.edit(f"gated-lr1e-3-seed{seed}", "evals.jsonl",
                      lambda lines: lines.__setitem__(slice(0, 2), [{**lines[0], "loss": 4.0}, {**lines[1], "loss": 3.0}]))
        found = self.again()
        row, control = (self.row(found["costs"], variant=variant) for variant in ("gated", "softmax"))
        self.assertAlmostEqual(row["flops_ratio"], 1.5)
        self.assertAlmostEqual(row["loss_val_at_flops"]["mean"], 4.0 - 40 / 50)  # on the line from 4 to 3
        self.assertAlmostEqual(row["loss_val_at_flops"]["difference"], 1.2)
        self.assertAlmostEqual(row["loss_val_at_seconds"]["mean"], 1.9)
        self.assertEqual(control["loss_val_at_flops"]["mean"], 2.0)
        self.assertEqual(row["params_ratio"], (247_424 + 16_384) / 247_424)

    def test_what_would_be_extrapolated_is_left_open(self):
        found = self.analyzed({"softmax": {"1e-3": [2.0]}, "sigmoid": {"1e-3": [1.9]}}, seeds=(1,),
                              changes={"sigmoid-lr1e-3-seed1": {"flops_per_token": 1_200_000}})
        cell = self.row(found["costs"], variant="sigmoid")["loss_val_at_flops"]
        self.assertIsNone(cell["mean"])
        self.assertIn("ended at 0.800 of the control's budget", cell["reason"])

    def test_what_is_no_pair_has_no_equal_budget(self):
        found = self.analyzed({"softmax": {"1e-3": [2.0, 2.1]}, "sigmoid": {"1e-3": [1.9, 2.0]}}, seeds=(1, 2),
                              changes={"sigmoid-lr1e-3-seed1": {"data_hash": "beef"}})
        cell = self.row(found["costs"], variant="sigmoid")["loss_val_at_flops"]
        self.assertEqual((cell["n"], cell["mean"]), (1, 2.0))

    def test_softmax_of_equal_size(self):
        losses = {"softmax": {"1e-3": [2.0, 2.1]}, "gated": {"1e-3": [1.9, 2.02]}}
        found = self.analyzed(losses, seeds=(1, 2))
        self.assertIn("no softmax of its size ran", " ".join(found["size"]))
        for seed, final in ((1, 1.95), (2, 2.0)):
            fake_runs.make_run(self.path / f"bb-mini-softmax-matched-lr1e-3-seed{seed}", "softmax_matched", seed=seed,
                               steps=SHORT, final=final, params=247_424 + 16_384)
        found = self.again()
        self.assertIn("its control of equal size is softmax_matched", " ".join(found["size"]))
        row = self.row(found["comparisons"], kind="equal parameters")
        self.assertEqual((row["variant"], row["control"]), ("gated", "softmax_matched"))
        self.assertAlmostEqual(row["metrics"]["loss_val"]["mean"], -0.015)


class TwoRuns(ReportCase):
    def test_equal_to_the_bit(self):
        runs = [read_run(fake_runs.make_run(self.root / name, "softmax", steps=20)) for name in ("first", "second")]
        found = comparison.compare(*runs)
        self.assertEqual((found["losses"]["shared"], found["losses"]["differing"], found["config"]), (20, 0, []))
        text = " ".join(comparison.words(found))
        self.assertIn("Training losses: 20 shared steps, all equal to the last bit.", text)
        self.assertIn("Both saw the same data", text)
        self.assertIn("configurations are equal", text)

    def test_no_step_in_common(self):
        runs = [self.small_run(name, [], metrics=[{"step": step, "loss": 1.0}]) for name, step in (("a", 1), ("b", 2))]
        found = comparison.compare(*map(read_run, runs))
        self.assertIn("Training losses: no step in common.", comparison.words(found))

    def test_the_first_different_step_and_what_differs(self):
        second = fake_runs.make_run(self.root / "second", "softmax", steps=20, lr=0.003, commit="f00", threads=4,
                                    data_hash="beef")
        lines = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
        lines[6]["loss"] = math.nextafter(lines[6]["loss"], 9)
        lines[11]["loss"] += 0.5
        fake_runs.write_lines(second / "metrics.jsonl", lines[:15])
        first = fake_runs.make_run(self.root / "first", "softmax", steps=20)
        found = self.report(first, second)[0]["comparison"]
        losses = found["losses"]
        self.assertEqual((losses["shared"], losses["differing"], losses["first_step"], losses["largest_step"],
                          losses["only_a"]), (15, 2, 7, 12, 5))
        self.assertAlmostEqual(losses["largest"], 0.5)
        self.assertEqual(found["config"], [{"key": "optimizer.lr", "a": "0.001", "b": "0.003"}])
        self.assertEqual({row["key"] for row in found["made"]}, {"commit", "threads", "data_hash"})
        self.assertIn("different data", found["data"])
        self.assertIn("optimizer.lr", (self.out / "summary.md").read_text())
        self.assertIn("One setting differs: optimizer.lr.", (self.out / "report.html").read_text())


if __name__ == "__main__":
    unittest.main()
