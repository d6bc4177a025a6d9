"""The report: numbers by hand, resumed runs, missing pieces, seeds, several layers, and a page that needs no network.

    python3 -m unittest discover tests/python        (the report needs pandas and matplotlib)
"""

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
REPORT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"
sys.path.insert(0, str(REPORT.parent))
try:
    import matplotlib  # noqa: F401
    import pandas  # noqa: F401
except ImportError as error:
    raise unittest.SkipTest(f"{error.name} is missing; scripts/install_dependencies.sh adds it") from None
import fake_runs  # noqa: E402
import report as report_script  # noqa: E402

FINAL = ("loss", "bigram_risk", "copy_risk", "first_mass_raw", "first_mass_normalized", "first_mass_effective",
         "placeholder_mass_effective", "row_mass", "drain_ratio", "residual_peak_ratio", "sink_rate")


class ReportCase(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        self.out = self.root / "report"

    def report(self, *runs, status=0, options=()):
        """-> (summary.json or None, stderr)"""
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = report_script.main([*map(str, runs), "--out", str(self.out), *options])
        self.assertEqual(code, status, said.getvalue())
        file = self.out / "summary.json"
        return (json.loads(file.read_text()) if file.exists() else None), said.getvalue()

    def small_run(self, name, probes, info=None, evals=None, metrics=None):
        """A run of which every number is written in the test."""
        path = self.root / name
        path.mkdir()
        changes = {"name": name, "layers": 1, "heads": 1, "steps": 2, **(info or {})}
        fake_runs.write_json(path / "run.json", fake_runs.run_info(changes.pop("variant", "softmax"), **changes))
        if metrics is None:
            metrics = [{"step": step, "loss": 4.0 / step, "norm": 1.0, "lr": 1e-3, "tokens": 10 * step, "seconds": step}
                       for step in (1, 2)]
        fake_runs.write_lines(path / "metrics.jsonl", metrics)
        if evals is not None:
            fake_runs.write_lines(path / "evals.jsonl", evals)
        if probes is not None:
            fake_runs.write_lines(path / "probes.jsonl", probes)
        (path / "config.toml").write_text("[model]\nlayers = 1\n")
        return path


class Numbers(ReportCase):
    def test_scalars_are_means_over_layers_and_heads_of_the_last_probe(self):
        # 3 layers x 4 heads: value = layer + head / 10 -> mean 1 + 0.15
        ramp = [[layer + head / 10 for head in range(4)] for layer in range(3)]
        path = self.small_run("ramp", [
            {"step": 0, "tokens": 0, "per_head": {"drain_ratio": [[9.0] * 4] * 3}, "per_layer": {}},
            {"step": 2, "tokens": 20, "per_head": {"drain_ratio": ramp, "first_mass_raw": ramp, "sink_rate": ramp,
                                                   "gate_mean": None, "placeholder_mass_effective": None},
             "per_layer": {"residual_peak_ratio": [7.0, 1.5, 2.5, 2.0]}}],
            info={"layers": 3, "heads": 4},
            evals=[{"step": 0, "loss": 4.0, "bigram_risk": 3.5, "copy_risk": 3.0},
                   {"step": 2, "loss": 1.75, "bigram_risk": 2.25, "copy_risk": 0.25}])
        summary, _ = self.report(path)
        run = summary["runs"][0]
        self.assertEqual(set(FINAL) - set(run["final"]), set())
        self.assertAlmostEqual(run["final"]["drain_ratio"], 1.15)
        self.assertAlmostEqual(run["final"]["sink_rate"], 1.15)
        self.assertIsNone(run["final"]["placeholder_mass_effective"])
        self.assertIsNone(run["final"]["first_mass_effective"])
        # the embedding's 7.0 is not after a block
        self.assertEqual((run["final"]["residual_peak_ratio"], run["final"]["residual_peak_block"]), (2.5, 2))
        self.assertEqual([run["final"][key] for key in ("loss", "bigram_risk", "copy_risk")], [1.75, 2.25, 0.25])
        self.assertEqual(run["oracle"], {"bigram_risk": 2.2343, "copy_risk": 0.0})
        self.assertEqual(run["per_layer"]["drain_ratio"], ramp)
        self.assertNotIn("gate_mean", run["per_layer"])
        self.assertEqual((run["variant"], run["seed"], run["steps"], run["params"]), ("softmax", 42, 2, 247_424))
        self.assertEqual((run["tokens_per_second"], run["seconds"]), (262_144.0, 31.2))

    def test_without_evaluations_the_loss_is_the_training_loss(self):
        summary, text = self.report(self.small_run("plain", []))
        self.assertAlmostEqual(summary["runs"][0]["final"]["loss"], 3.0)  # mean of 4 and 2
        self.assertIn("training loss", summary["runs"][0]["loss_source"])
        self.assertIn("run 'plain': evals.jsonl is missing", text)
        self.assertIn("run 'plain': probes.jsonl is empty", text)

    def test_after_a_resume_the_later_line_wins(self):
        path = self.small_run("resumed", [
            {"step": 1, "per_head": {"row_mass": [[0.1]]}, "per_layer": {}},
            {"step": 2, "per_head": {"row_mass": [[0.2]]}, "per_layer": {}},
            {"step": 1, "per_head": {"row_mass": [[0.3]]}, "per_layer": {}},
            {"step": 2, "per_head": {"row_mass": [[0.4]]}, "per_layer": {}}],
            metrics=[{"step": 1, "loss": 9.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 5.0},
                     {"step": 1, "loss": 7.0}])
        summary, _ = self.report(path)
        self.assertEqual(summary["runs"][0]["final"]["row_mass"], 0.4)
        self.assertEqual(summary["runs"][0]["final"]["loss"], 6.0)
        self.assertEqual(summary["runs"][0]["steps"], 2)

    def test_two_seeds_give_mean_and_standard_deviation(self):
        paths = [self.small_run(f"seed{seed}", [{"step": 2, "per_head": {"drain_ratio": [[drain]]}, "per_layer": {}}],
                                info={"seed": seed}) for seed, drain in ((1, 0.2), (2, 0.4))]
        summary, _ = self.report(*paths)
        self.assertEqual(len(summary["runs"]), 2)
        self.assertEqual(len(summary["variants"]), 1)
        variant = summary["variants"][0]
        self.assertEqual(variant["seeds"], [1, 2])
        self.assertAlmostEqual(variant["mean"]["drain_ratio"], 0.3)
        self.assertAlmostEqual(variant["sd"]["drain_ratio"], 0.02 ** 0.5)  # sqrt(2 x 0.1^2 / 1)
        self.assertIn("0.300 ± 0.141", (self.out / "summary.md").read_text())

    def test_different_settings_are_not_averaged(self):
        paths = [self.small_run(f"run{place}", [], info={"seed": place, "qk_norm": bool(place)}) for place in (0, 1)]
        summary, _ = self.report(*paths)
        self.assertEqual([row["label"] for row in summary["variants"]],
                         ["softmax (qk_norm off)", "softmax (qk_norm on)"])

    def test_null_and_nan_are_no_numbers(self):
        path = self.small_run("holes", [], metrics=[{"step": 1, "loss": None}, {"step": 2, "loss": 2.5}])
        with open(path / "metrics.jsonl", "a") as file:
            file.write('{"step": 3, "loss": NaN}\n')
        summary, text = self.report(path)
        self.assertEqual(summary["runs"][0]["final"]["loss"], 2.5)
        self.assertIn("'loss' is missing or not finite in 2 of 3 lines", text)
        self.assertNotIn("NaN", (self.out / "summary.json").read_text())


class Verdicts(ReportCase):
    def judged(self, variant, heads, risks=(2.28, 0.01)):
        path = self.small_run(variant, [{"step": 2, "per_head": {key: [[x]] for key, x in heads.items()},
                                         "per_layer": {}}], info={"variant": variant},
                              evals=[{"step": 2, "loss": 1.7, "bigram_risk": risks[0], "copy_risk": risks[1]}])
        summary, _ = self.report(path)
        verdict = summary["verdicts"][0]
        return verdict, {item["key"]: item["pass"] for item in verdict["thresholds"]}

    def test_all_thresholds_hold(self):
        verdict, passed = self.judged("softmax", {"first_mass_effective": 0.69, "drain_ratio": 0.27})
        self.assertEqual(passed, {"first_mass_effective": True, "drain_ratio": True, "copy_risk": True,
                                  "bigram_risk": True})
        self.assertIn("All 4 thresholds hold.", verdict["sentences"])

    def test_what_does_not_hold_is_said(self):
        verdict, passed = self.judged("sigmoid", {"first_mass_effective": 0.2, "drain_ratio": 0.6}, (2.2944, 0.05))
        self.assertEqual(passed, {"first_mass_effective": False, "drain_ratio": True, "copy_risk": True,
                                  "bigram_risk": False})
        self.assertIn("2 of 4 thresholds do not hold", " ".join(verdict["sentences"]))
        self.assertIn("short", (self.out / "report.html").read_text())

    def test_placeholder_is_judged_on_both_tokens(self):
        verdict, passed = self.judged("placeholder", {"first_mass_effective": 0.14, "placeholder_mass_effective": 0.55})
        self.assertEqual(verdict["headline"], "sink on the placeholder")
        self.assertTrue(passed["placeholder_mass_effective"] and passed["first_mass_effective"])

    def test_unmeasured_is_neither_pass_nor_short(self):
        _, passed = self.judged("gated", {"first_mass_effective": 0.1})
        self.assertIsNone(passed["drain_ratio"])

    def test_other_tasks_are_judged_by_their_own_floors_alone(self):
        def judged(task, oracle, risks):
            path = self.small_run(f"{task} {risks[1]}", [],
                                  info={"oracle": oracle, "data": f"Bigram-Backcopy (task {task}), 67 ids"},
                                  evals=[{"step": 2, "loss": 1.7, "bigram_risk": risks[0], "copy_risk": risks[1]}])
            verdict = self.report(path)[0]["verdicts"][0]
            return {item["key"]: (item["pass"], item["limit"]) for item in verdict["thresholds"]}

        oracle = {"bigram_risk": 2.3, "copy_risk": 1.9}
        self.assertEqual(judged("backward", oracle, (2.31, 1.94)), {"copy_risk": (True, 1.95),
                                                                    "bigram_risk": (True, 2.36)})
        self.assertFalse(judged("backward", oracle, (2.31, 1.96))["copy_risk"][0])
        # No triggers, no copies.
        self.assertEqual(judged("markov", {"bigram_risk": 2.4, "copy_risk": None}, (2.41, None)).keys(),
                         {"bigram_risk"})

    def test_real_text_has_no_task_thresholds(self):
        path = self.small_run("text", [], info={"oracle": None})
        summary, _ = self.report(path)
        self.assertEqual(summary["verdicts"][0]["thresholds"], [])
        self.assertIsNone(summary["runs"][0]["oracle"])

    def test_a_control_without_a_sink_is_no_evidence(self):
        paths = [self.small_run(variant, [{"step": 2, "per_head": {"first_mass_effective": [[0.01]],
                                                                   "sink_rate": [[0.0]]}, "per_layer": {}}],
                                info={"variant": variant}) for variant in ("softmax", "sigmoid")]
        summary, _ = self.report(*paths)
        self.assertIn("is not evidence", summary["control"])


class Missing(ReportCase):
    def test_directory_without_run_json(self):
        (self.root / "nothing").mkdir()
        summary, text = self.report(self.root / "nothing", status=1)
        self.assertIsNone(summary)
        self.assertIn("run 'nothing': run.json is missing", text)

    def test_no_such_directory(self):
        _, text = self.report(self.root / "absent", status=1)
        self.assertIn("no such directory", text)

    def test_run_that_has_not_started(self):
        path = self.small_run("fresh", None, metrics=[])
        _, text = self.report(path, status=1)
        self.assertIn("run 'fresh': metrics.jsonl, evals.jsonl and probes.jsonl hold no step", text)

    def test_an_unreadable_run_does_not_hide_the_others(self):
        bad = self.small_run("bad", [])
        (bad / "run.json").write_text("{")
        summary, text = self.report(self.small_run("good", []), bad, status=1)
        self.assertEqual([run["name"] for run in summary["runs"]], ["good"])
        self.assertIn("run 'bad': run.json is not valid JSON", text)
        self.assertIn("run.json is not valid JSON", (self.out / "report.html").read_text())

    def test_broken_lines_fields_and_maps_are_named(self):
        path = self.small_run("odd", [{"step": 2, "per_head": {"row_mass": 3, "unheard_of": [[1]]}, "per_layer": []}],
                              info={"seed": None, "params": "many"})
        with open(path / "metrics.jsonl", "a") as file:
            file.write('{"step": 3, "lo')
        (path / "attention_maps.json").write_text('{"maps": 5}')
        (path / "config.toml").unlink()
        _, text = self.report(path)
        for message in ("metrics.jsonl:3 is not valid JSON (cut short?); skipped", "unknown metric unheard_of",
                        "not an array per layer (and head): per_layer, row_mass", "run.json has no 'seed'",
                        "'params' is \"many\", wanted int", "attention_maps.json is not maps",
                        "config.toml is missing"):
            self.assertIn(message, text)

    def test_the_reports_own_directory_is_no_run(self):
        path = self.small_run("only", [])
        self.out.mkdir()
        summary, _ = self.report(path, self.out, path)
        self.assertEqual(len(summary["runs"]), 1)

    def test_unwritable_output(self):
        path = self.small_run("only", [])
        self.out = path / "run.json" / "report"
        _, text = self.report(path, status=1)
        self.assertIn("cannot write", text)


    def test_as_a_command(self):
        path = self.small_run("only", [])
        done = subprocess.run([sys.executable, str(REPORT), str(path), str(self.root / "absent")], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no such directory", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertTrue((self.root / "report" / "report.html").exists())  # beside the first run
        self.assertEqual(subprocess.run([sys.executable, str(REPORT)], capture_output=True).returncode, 2)


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.targets, self.sources, self.tags = set(), [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.add(value)
            elif key == "href":
                self.targets.append(value)
            elif key in ("src", "srcset", "data", "action"):
                self.sources.append(value)


class WholePage(ReportCase):
    def test_every_variant_and_figure(self):
        for variant in fake_runs.VARIANTS:
            fake_runs.make_run(self.root / variant, variant)
        summary, text = self.report(*[self.root / variant for variant in fake_runs.VARIANTS],
                                    options=["--title", "A <b>"])
        self.assertEqual(text, "")
        self.assertEqual([run["variant"] for run in summary["runs"]], list(fake_runs.VARIANTS))
        pngs = {file.name for file in self.out.glob("*.png")}
        for name in ("loss", "risk", "sink", "heads", "attention_maps", "drain", "mechanism", "residual", "massive",
                     "residual_steps", "gate", "cost"):
            self.assertIn(f"{name}.png", pngs)
        self.assertNotIn("published.png", pngs)
        page = (self.out / "report.html").read_text()
        links = _Links()
        links.feed(page)
        self.assertTrue(all(source.startswith("data:image/png;base64,") for source in links.sources))
        self.assertEqual(len(links.sources), len(pngs))
        self.assertTrue(all(target.startswith("#") and target[1:] in links.ids for target in links.targets))
        self.assertFalse(links.tags & {"script", "link", "iframe", "object", "embed"})
        self.assertIsNone(re.search(r"https?://|@import|url\(", page))
        self.assertIn("A &lt;b&gt;", page)
        for paper in ("2309.17453", "2410.10781", "2410.13835", "2505.06708", "2409.04431"):
            self.assertIn(paper, page)

    def test_layers_heads_and_seeds(self):
        for seed in (1, 2):
            fake_runs.make_run(self.root / f"softmax{seed}", "softmax", layers=3, heads=4, seed=seed, steps=120)
        fake_runs.make_run(self.root / "relu", "relu", layers=3, heads=4, steps=120, oracle=None)
        summary, _ = self.report(self.root / "softmax1", self.root / "softmax2", self.root / "relu")
        self.assertEqual(len(summary["variants"]), 2)
        matrix = summary["runs"][0]["per_layer"]["entropy"]
        self.assertEqual([len(row) for row in matrix], [4, 4, 4])

    def test_the_papers_setting_stands_beside_the_published_curve(self):
        fake_runs.make_run(self.root / "bb1", "softmax", oracle={"bigram_risk": 2.2228, "copy_risk": 0})
        summary, _ = self.report(self.root / "bb1")
        self.assertTrue((self.out / "published.png").exists())
        self.assertIn("8.71", (self.out / "report.html").read_text())  # published |W_O v| at step 100
        self.assertEqual([item["limit"] for item in summary["verdicts"][0]["thresholds"]], [2.26, 0.05, 0.7, 250.0])

    def test_the_same_runs_give_the_same_bytes(self):
        fake_runs.make_run(self.root / "softmax", "softmax", steps=20)
        names = ("report.html", "summary.json", "summary.md")
        first = [(self.report(self.root / "softmax"), (self.out / name).read_bytes())[1] for name in names]
        self.assertEqual(first, [(self.out / name).read_bytes() for name in names])


if __name__ == "__main__":
    unittest.main()
