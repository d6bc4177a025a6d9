"""scripts/bench/variant_cost.py with a fake program: pairs, intervals, limits, probes, the table."""

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
import processes  # noqa: E402
import variant_cost  # noqa: E402


def answer(ours, theirs, flops=1.05):
    return {"ms": ours, "ms_against": theirs, "flops_per_token": flops, "flops_per_token_against": 1, "precision": "bf16"}


class Verdicts(unittest.TestCase):
    def test_the_interval_holds_the_median_of_most_samples(self):
        self.assertEqual(variant_cost.median_interval(list(range(1, 21))), (6, 15))  # 2 x 2.07 % outside
        self.assertEqual(variant_cost.median_interval([3, 1, 2]), (1, 3))
        self.assertEqual(variant_cost.median_interval([7]), (7, 7))

    def test_each_has_its_limit(self):
        for name, limit in (("sigmoid", 1.0), ("gated_headwise", 1.02), ("gated", 1.1), ("probes", 1.05)):
            with self.subTest(name=name):
                self.assertEqual(variant_cost.words(variant_cost.judge(name, [limit - 0.01] * 20)), "within")
                self.assertEqual(variant_cost.words(variant_cost.judge(name, [limit] * 20)), "within, not told apart")
                self.assertEqual(variant_cost.words(variant_cost.judge(name, [limit + 0.01] * 20)), "beyond")

    def test_a_wide_interval_is_told(self):
        entry = variant_cost.judge("gated", [1.0] * 9 + [1.2] * 11)
        self.assertEqual((entry["ratio"], variant_cost.words(entry)), (1.2, "beyond, not told apart"))

    def test_few_pairs_are_not_judged(self):
        self.assertEqual(variant_cost.words(variant_cost.judge("sigmoid", [0.9] * 19)), "not judged, 19 pairs of 20")


class Variants(unittest.TestCase):
    def test_softmax_comes_first_and_sizes_are_left_out(self):
        names = variant_cost.variant_names()
        self.assertEqual(names[0], "softmax")
        self.assertIn("gated_headwise", names)
        self.assertFalse([name for name in names if "matched" in name])

    def test_a_switch_of_qk_norm_is_softmaxs_too(self):
        self.assertEqual(variant_cost.shared_settings("sink_logit"), ["--set", "model.qk_norm=false"])
        self.assertEqual(variant_cost.shared_settings("differential_v2"), ["--set", "model.kv_heads=2"])
        self.assertEqual(variant_cost.shared_settings("sigmoid"), [])

    def test_pairs_are_shared_out_over_processes(self):
        calls = []

        def run(command, environment):
            calls.append(command)
            count = int(command[command.index("--steps") + 1])
            return answer([11.0] * count, [10.0] * count)
        entry = variant_cost.measure_variant("sigmoid", "plimsoll", ["--config", "c.toml"], 21, 2, run)
        self.assertEqual(calls[0], ["plimsoll", "bench", "--config", "c.toml", "--variant", "sigmoid", "--against", "softmax",
                                    "--steps", "11", "--json"])
        self.assertEqual(calls[1][calls[1].index("--steps") + 1], "10")
        self.assertEqual((entry["pairs"], entry["ms"], entry["ms_softmax"], entry["flops"]), (21, 11, 10, 1.05))
        self.assertAlmostEqual(entry["ratio"], 1.1)

    def test_the_ratio_is_of_pairs(self):
        def run(command, environment):
            return answer([11, 22, 33], [10, 20, 30])
        self.assertAlmostEqual(variant_cost.measure_variant("gated", "plimsoll", [], 3, 1, run)["ratio"], 1.1)


class Probes(unittest.TestCase):
    def test_runs_take_turns_and_the_order_changes(self):
        calls = []

        def time_run(plimsoll, config, enabled, options):
            calls.append(enabled)
            return (10.4, 19) if enabled else (10.0, 0)
        entry = variant_cost.measure_probes("plimsoll", "c.toml", [], 20, lambda text: None, time_run)
        self.assertEqual(calls[:4], [True, False, False, True])
        self.assertEqual((len(calls), entry["pairs"], entry["probes"]), (40, 20, 19))
        self.assertAlmostEqual(entry["ratio"], 1.04)
        self.assertEqual(variant_cost.words(entry), "within")

    def test_a_run_is_a_whole_process(self):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "plimsoll"
            program.write_text("#!/bin/sh\n"
                               'case "$*" in *"--set probes.enabled=true "*) mkdir "$4"; echo a >"$4/probes.jsonl";; esac\n'
                               'case "$*" in *model.layers=9) exit 3;; esac\n')
            program.chmod(0o755)
            seconds, made = variant_cost.run_seconds(str(program), "c.toml", True, [])
            self.assertTrue(0 < seconds < 10)
            self.assertEqual(made, 1)
            self.assertEqual(variant_cost.run_seconds(str(program), "c.toml", False, [])[1], 0)
            with self.assertRaisesRegex(processes.Failure, "exit status 3"):
                variant_cost.run_seconds(str(program), "c.toml", False, ["--set", "model.layers=9"])


class CommandLine(unittest.TestCase):
    def call(self, *arguments, run=None, probes=None):
        errors, printed = io.StringIO(), io.StringIO()

        def measure_variant(name, plimsoll, options, pairs, shares):
            self.options = options
            if name == "gated":
                raise processes.Failure("exit status 78: no")
            return variant_cost.judge(name, [1.01] * pairs) | {"ms": 101, "ms_softmax": 100, "flops": 1.0, "precision": "bf16"}
        with mock.patch.object(variant_cost, "measure_variant", measure_variant), \
                mock.patch.object(variant_cost, "measure_probes", return_value=probes), \
                contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
            try:
                status = variant_cost.main([*arguments, "--plimsoll", "/bin/true"])
            except SystemExit as end:
                status = end.code
        return status, printed.getvalue(), errors.getvalue()

    def test_a_table_with_verdicts(self):
        status, printed, _ = self.call("--variants", "softmax,gated_headwise", "--no-probes")
        self.assertEqual(status, 0)
        self.assertIn("| gated_headwise | 101.0 | 100.0 | 1.000 | 1.010 | 1.010 to 1.010 | 1.02 | within |", printed)
        self.assertEqual(self.options[:len(variant_cost.DEFAULT)], variant_cost.DEFAULT)
        status, printed, _ = self.call("--variants", "sigmoid,gated", "--no-probes", "--config", "mine.toml", "--set", "a.b=1")
        self.assertEqual(status, 1)
        self.assertIn("| 1.00 | beyond |", printed)
        self.assertIn("| gated | | | | | | | failed: exit status 78: no |", printed)
        self.assertEqual(self.options[:4], ["--config", "mine.toml", "--set", "a.b=1"])

    def test_resuming_keeps_what_was_measured(self):
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "new/cost.json")
            self.call("--variants", "sigmoid,alibi", "--no-probes", "--json", out)
            self.options = None
            status, printed, _ = self.call("--variants", "sigmoid,gated_headwise", "--no-probes", "--json", out, "--resume")
            self.assertIsNotNone(self.options)
            self.assertEqual(list(json.loads(Path(out).read_text())["variants"]), ["alibi", "gated_headwise", "sigmoid"])
            self.options = None
            self.call("--variants", "alibi", "--no-probes", "--json", out, "--resume")
            self.assertIsNone(self.options)  # nothing was measured
            for change in (["--pairs", "21"], ["--set", "model.layers=2"], ["--threads", "1"]):
                self.options = None
                self.call("--variants", "alibi", "--no-probes", "--json", out, "--resume", *change)
                self.assertIsNotNone(self.options, change)
            Path(out).write_text("{")
            self.call("--variants", "alibi", "--no-probes", "--json", out, "--resume")
            self.assertEqual(list(json.loads(Path(out).read_text())["variants"]), ["alibi"])

    def test_the_page_gets_the_machines_section(self):
        probes = variant_cost.judge("probes", [1.02] * 20) | {"ms": 10200, "ms_without": 10000, "probes": 19}
        first, last = variant_cost.MARKERS
        with tempfile.TemporaryDirectory() as folder:
            page, out = Path(folder) / "README.md", str(Path(folder) / "cost.json")
            page.write_text(f"# a\n{first}\n{last}\nb\n")
            with mock.patch.object(variant_cost, "_PAGE", page):
                self.call("--readme", "--json", out, probes=probes)
                text = page.read_text()
                self.assertIn("medians of 20 pairs", text)
                self.assertIn("| alibi | 101.0 | 100.0 |", text)
                self.assertIn("| probes | 10.20 |", text)
                self.call("--readme", "--resume", "--json", out, probes=probes)
                self.assertEqual(page.read_text(), text)
                page.write_text("nothing\n")
                status, _, errors = self.call("--readme", "--json", out, probes=probes)
                self.assertEqual((status, page.read_text()), (1, "nothing\n"))
                self.assertIn("no '<!-- variant cost -->'", errors)
        failed = {"machine": {"processor": "CPU", "bf16": [], "threads": 2}, "date": "", "variants": {"a": {"error": "no"}},
                  "probes": None}
        with self.assertRaisesRegex(ValueError, "nothing was measured"):
            variant_cost.page_with(f"{first}\n{last}\n", failed)
        for wrong in (["--variants", "alibi"], ["--no-probes"], ["--pairs", "19"], ["--set", "a.b=1"]):
            self.assertEqual(self.call("--readme", *wrong)[0], 2)
        for marker in variant_cost.MARKERS:
            self.assertIn(marker, (ROOT / "configs/README.md").read_text())

    def test_probes_have_a_table_of_their_own(self):
        entry = variant_cost.judge("probes", [1.02] * 20) | {"ms": 10200, "ms_without": 10000, "probes": 19}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "cost.json"
            status, printed, _ = self.call("--no-variants", "--json", str(out), probes=entry)
            self.assertEqual(json.loads(out.read_text())["probes"]["probes"], 19)
        self.assertNotIn("variant", printed)
        self.assertEqual(status, 0)
        self.assertIn("| probes | 10.20 | 10.00 | 19 | 1.020 | 1.020 to 1.020 | 1.05 | within |", printed)

    def test_wrong_usage(self):
        self.assertEqual(self.call("--variants", "softmix")[0], 2)
        self.assertEqual(self.call("--pairs", "2", "--processes", "3")[0], 2)
        self.assertEqual(self.call("--pairs", "none")[0], 2)


if __name__ == "__main__":
    unittest.main()
