"""Published claims beside measurements: sweeps into summaries, summaries into a page, costs and runs.

    python3 -m unittest discover tests/python        (the report needs pandas and matplotlib)
"""

import contextlib
import functools
import io
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fake_runs  # noqa: E402
from test_findings_verdicts import world  # noqa: E402  (skips these tests where packages are missing)
from test_report import ReportCase  # noqa: E402

import findings as findings_script  # noqa: E402
from plimsoll_report import claims, findings_page, measured, verdicts  # noqa: E402
from plimsoll_report.findings_run import commands_of, cost_of, duration  # noqa: E402
from plimsoll_report.runs import read_run  # noqa: E402
from plimsoll_report.verdicts import Side  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build/plimsoll"


@unittest.skipUnless(BINARY.exists(), f"{BINARY} is not built")
class Sweeps(unittest.TestCase):
    def test_every_sweep_has_the_cells_that_its_claims_name(self):
        self.enterContext(contextlib.chdir(ROOT))  # where the names of the sweeps' files hold
        for (scale, name), file in findings_script.available().items():
            with self.subTest(f"{scale}/{name}"):
                # nothing is done in a directory that does not exist
                total, commands = commands_of(BINARY, ROOT / file, ["sweep.dir=runs/nowhere"])
                cells = [planned_cell(command) for command in commands]
                self.assertEqual(total, len(commands))
                for claim in claims.claims_of(name, scale):
                    named = [claim.control] if claim.control else []
                    for rule in claim.rules:
                        sides = [getattr(rule, key) for key in ("side", "first", "second") if hasattr(rule, key)]
                        named += [side.cells if isinstance(side, Side) else side for side in sides]
                    for which in named:
                        self.assertGreaterEqual(sum(map(which.has, cells)), 3, (claim.key, which))

    def test_settings_reach_plan_and_probe_as_they_are(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "lists.toml"
            file.write_text(f'[sweep]\nname = "lists"\nbase = "{ROOT}/configs/experiments/bb-mini.toml"\n'
                            'axes = [\'attention.weighting=["sigmoid","softmax"] | attention.weighting="softmax"\']\n'
                            'set = ["model.layers=2", "run.name=two words"]\n')
            _, commands = commands_of(BINARY, file, [f"sweep.dir={folder}/runs"])
            self.assertIn('attention.weighting=["sigmoid","softmax"]', commands[0])
            self.assertIn("run.name=two words", commands[0])
            self.assertGreater(cost_of(commands, 1)[0], 1)

    def test_cost_is_that_of_the_cells(self):
        _, commands = commands_of(BINARY, ROOT / "configs/findings/windows.toml", ["sweep.dir=runs/nowhere"])
        few, how = cost_of(commands[:3], 1)
        self.assertIn("by a probe of 20 steps", how)
        self.assertGreater(few, 1)
        self.assertEqual(cost_of([], 2), (0.0, "all done"))


def planned_cell(command):
    """What a train command sets, as a summary's cell."""
    words = dict(word.split("=", 1) for word in command if "=" in word)
    settings = {key: measured.value_of(value.strip('"')) for key, value in words.items() if not key.startswith("run.")}
    variant = variant_of(command[command.index("--variant") + 1]) if "--variant" in command else words.get("run.variant")
    return {"variant": variant, "settings": settings}


@functools.cache
def variant_of(name):
    """run.variant of a file of configs/variants, as the program reads it: without run.dir a directory is named after it."""
    done = subprocess.run([BINARY, "train", "configs/quickstart.toml", "--variant", name, "--where"], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    return Path(done.stdout.strip()).name


class RunsCase(ReportCase):
    def sweep(self, **options):
        path = self.root / "runs/quick/windows"
        path.parent.mkdir(parents=True, exist_ok=True)
        return fake_runs.make_sweep(path, {"softmax": {"1e-3": [2.0, 2.1, 2.2]}}, **{"steps": 200, **options})

    def page(self, *options):
        said, printed = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed), contextlib.chdir(ROOT):
            status = findings_script.main(["--runs", str(self.root / "runs"), "--results", str(self.root / "results"),
                                           "--out", str(self.root / "page"), *options])
        return status, printed.getvalue() + said.getvalue()


class FromRuns(RunsCase):
    def test_values_by_hand(self):
        head = {"first_mass_normalized": [[0.1, 0.2]], "wo_value_norm": [[9.0, 5.0]], "row_mass": [[1.0, 0.5]],
                "sink_rate": [[0.0, 100.0]]}
        later = {"first_mass_normalized": [[0.2, 0.8]], "wo_value_norm": [[9.0, 10.0]], "row_mass": [[1.0, 0.5]],
                 "sink_rate": [[0.0, 100.0]]}
        last = {**later, "wo_value_norm": [[9.0, 4.0]]}
        path = self.small_run("run", [
            {"step": 0, "tokens": 0, "per_head": head, "per_layer": {"residual_norm": [1.0, 10.0, 99.0]}},
            {"step": 100, "tokens": 1, "per_head": later, "per_layer": {"residual_norm": [1.0, 20.0, 99.0]}},
            {"step": 400, "tokens": 2, "per_head": last, "per_layer": {"residual_norm": [1.0, 50.0, 99.0],
                                                                             "kurtosis_first": [9.0, 3.0, 7.0]}}],
            info={"layers": 1, "heads": 2, "steps": 400},
            evals=[{"step": 0, "loss": 4.0, "bigram_risk": 4.0, "copy_risk": 4.0},
                   {"step": 100, "loss": 3.0, "bigram_risk": 2.0, "copy_risk": 2.0},
                   {"step": 200, "loss": 2.0, "bigram_risk": 2.0, "copy_risk": 0.0},
                   {"step": 400, "loss": 1.5, "bigram_risk": 2.1, "copy_risk": 0.1}])
        values = measured.values_of(read_run(path))
        self.assertEqual(values["top_first_mass"], 0.8)  # head 1, not the mean
        self.assertEqual(values["sink_rate"], 50.0)
        self.assertEqual((values["column_mass"], values["kurtosis"]), (0.25, 7.0))
        self.assertEqual((values["residual_first_block"], values["residual_growth"]), (50.0, 50.0 / 30.0))  # 30 at step 200
        self.assertAlmostEqual(values["step_bigram"], 90.0)
        self.assertAlmostEqual(values["step_copy"], 180.0)
        self.assertAlmostEqual(values["copy_fall"], 180.0 / 100.0)
        self.assertAlmostEqual(values["step_sink"], 100 / 3)
        self.assertAlmostEqual(values["sink_to_copy"], 100 / 3 / 150)
        self.assertEqual((values["step_value_peak"], values["value_left"]), (100.0, 0.4))

    def test_a_run_without_probes_and_risks(self):
        values = measured.values_of(read_run(self.small_run("bare", [], evals=[{"step": 2, "loss": 1.0}])))
        self.assertEqual(values["loss"], 1.0)
        self.assertTrue(all(value is None for key, value in values.items() if key != "loss"), values)

    def test_a_sweep_becomes_a_summary_and_comes_back(self):
        path = self.sweep(failed=("softmax-lr1e-3-seed2",))
        summary = measured.measure(path, "windows", "quick", curves=True)
        self.assertEqual([cell["state"] for cell in summary["cells"]], ["done", "failed", "done"])
        self.assertEqual(summary["cells"][1]["exit_code"], 70)
        self.assertEqual((summary["cells"][0]["values"]["loss"], summary["made"]["layers"]), (2.0, 1))
        self.assertGreater(len(summary["cells"][0]["curves"]["copy_risk"]), 3)
        file = self.root / "results/quick/windows.json"
        measured.write_summary(file, summary)
        self.assertEqual(measured.read_summary(file), json.loads(json.dumps(summary)))
        self.assertEqual(len(file.read_text().split('"name"')), 4)

    def test_a_cell_of_an_earlier_plan_does_not_count(self):
        path = self.sweep()
        fake_runs.make_run(path / "softmax-lr1e-3-seed9", "softmax", seed=9, steps=50)
        self.assertEqual([cell["seed"] for cell in measured.measure(path, "windows", "quick")["cells"]], [1, 2, 3])

    def test_a_summary_of_something_else_is_refused(self):
        for text, words in (("{", "not valid JSON"), ("[]", "no summary of version"), ('{"version": 0}', "version")):
            file = self.root / "x.json"
            file.write_text(text)
            with self.assertRaisesRegex(ValueError, words):
                measured.read_summary(file)

    def test_the_page(self):
        self.sweep()
        status, said = self.page()
        self.assertEqual(status, 0, said)
        self.assertIn("2 claims", said)
        html = (self.root / "page/findings.html").read_text()
        text = (self.root / "page/findings.md").read_text()
        for wanted in ("A small window prevents the sink.", "not measured", "no cell of window 8 in the sweep",
                       "arXiv:2410.10781", "Criterion"):
            self.assertIn(wanted, text)
            self.assertIn(wanted, html)
        self.assertNotIn("<script", html)
        self.assertTrue((self.root / "page/findings_quick_windows.png").read_bytes().startswith(b"\x89PNG"))
        summary = measured.read_summary(self.root / "results/quick/windows.json")
        self.assertEqual(summary["claims"][0]["verdict"], verdicts.NOT_MEASURED)

    def test_results_are_kept_when_the_runs_are_gone(self):
        path = self.sweep()
        self.page()
        before = (self.root / "results/quick/windows.json").read_text()
        subprocess.run(["rm", "-r", str(path)], check=True)
        self.assertEqual(self.page()[0], 0)
        self.assertEqual((self.root / "results/quick/windows.json").read_text(), before)

    def test_nothing_measured(self):
        status, said = self.page()
        self.assertEqual(status, 1)
        self.assertIn("scripts/findings.py --run quick", said)

    def test_unknown_sweep(self):
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as said:
            findings_script.main(["--run", "nonsense"])
        self.assertIn("no sweep 'nonsense'; wanted quick, full, or one of dynamics", said.getvalue())


class Running(RunsCase):
    """--run against a program that only says what it was asked."""
    PROGRAM = """#!{python}
import json, os, pathlib, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
with open(here / "asked", "a") as asked:
    asked.write(" ".join(words) + chr(10))
if words[0] == "plan":
    print("step                 2048 tokens = 1 x 16 rows of 128, 1e+09 FLOPs")
    print("expected time        0s per step, 1m 17s for 300 steps, at the 100 GFLOP/s a bf16 product reaches here")
elif words[0] == "train":
    run = pathlib.Path(words[words.index("--run-dir") + 1])
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({{"ms_per_step": 20.0, "tokens_per_second": 102400.0}}))
elif "--dry-run" in words:
    print("3 cells: 1 done, 2 to run")
    for seed in (1, 2):
        print(f"softmax-seed{{seed}}: {{__file__}} train base.toml --resume auto --run-dir runs/x{{seed}} --variant softmax "
              f"--set run.seed={{seed}}")
else:
    sys.exit(int((here / "status").read_text()))
"""

    def running(self, status, *options):
        program = self.root / "program"
        program.write_text(self.PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        (self.root / "status").write_text(str(status))
        ended, said = self.page("--program", str(program), "--run", "windows", "gates", *options)
        return ended, said, (self.root / "asked").read_text().splitlines()

    def test_the_cost_comes_first_and_from_one_probe_per_sweep(self):
        ended, said, asked = self.running(0, "--cost")
        self.assertEqual(ended, 0)
        # 2 cells of 300 steps at 20 ms, 2 at a time
        self.assertIn("quick/windows: 2 of 3 cells to run, 2 at a time, about 6 s (by a probe of 20 steps: 102,400 tokens/s)",
                      said)
        self.assertIn("in all about 12 s", said)
        self.assertEqual([line.split()[0] for line in asked], ["sweep", "plan", "train"] * 2)
        self.assertIn("train.max_steps=20", asked[2])
        self.assertNotIn("--resume", asked[2])

    def test_a_sweep_with_failed_cells_does_not_stop_the_next(self):
        self.sweep()
        ended, said, asked = self.running(70)
        self.assertEqual(ended, 0, said)
        self.assertEqual(asked[-2:], ["sweep configs/findings/windows.toml", "sweep configs/findings/gates.toml"])
        self.assertIn("quick/windows ended with status 70", said)
        self.assertTrue((self.root / "page/findings.html").exists())

    def test_a_signal_stops_all(self):
        ended, said, asked = self.running(85, "--set", "launch.jobs=1")
        self.assertEqual(ended, 85)
        self.assertEqual(asked[-1], "sweep configs/findings/windows.toml --set launch.jobs=1")
        self.assertIn("stopped in quick/windows; the same command goes on", said)
        self.assertIn("1 at a time", said)
        self.assertFalse((self.root / "page").exists())

    def test_what_plimsoll_refuses_is_said(self):
        status, said = self.page("--program", "false", "--run", "windows")
        self.assertEqual(status, 1)
        self.assertIn("findings: status 1", said)


class Table(unittest.TestCase):
    def test_between_the_markers(self):
        text = f"before\n{findings_page.BEGIN}\nold\n{findings_page.END}\nafter\n"
        new = findings_page.put_into(text, "new\n")
        self.assertEqual(new, f"before\n{findings_page.BEGIN}\nnew\n{findings_page.END}\nafter\n")
        self.assertEqual(findings_page.put_into(new, "new\n"), new)
        with self.assertRaises(ValueError):
            findings_page.put_into("nothing", "new\n")

    def test_a_row_per_measured_claim(self):
        claim = claims.claims_of("rates", "quick")[0]
        summary = {**world(claim), "sweep": "rates"}
        table = findings_page.readme_table(findings_page.document([summary]))
        self.assertEqual(table.count("\n| "), 2)  # head, one claim; the other is not measured
        self.assertIn("https://arxiv.org/abs/2505.06708", table)
        self.assertIn("| reproduced |", table)
        self.assertIn("1 not measured yet", table)

    def test_durations(self):
        self.assertEqual([duration(s) for s in (5, 100, 7200, 400_000)], ["5 s", "2 min", "2.0 h", "5 days"])


if __name__ == "__main__":
    unittest.main()
