"""plimsoll eval from outside: suites against what training wrote, refusals, hostile questions, and the report."""

import json
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tiny_text import BINARY, ROOT, TEXT, TinyRuns  # noqa: E402


class Eval(TinyRuns):
    MORE = ["--set", "model.context=16", "--set", "train.max_steps=4", "--set", "data.tokenizer=byte",
            "--set", "data.val_fraction=0.4", "--set", "probes.samples=2"]
    RUNS = {"sigmoid": ["--variant", "sigmoid"], "placeholder": ["--variant", "placeholder"],
            "learned": ["--set", "model.position=learned"], "four_heads": ["--set", "model.heads=4"],
            "prefix": ["--variant", "prefix_lm", "--set", "attention.prefix=6"]}

    def evaluate(self, run, *arguments, code=0):
        out = self.folder / f"{run}.json"
        done = self.plimsoll("eval", run, "--json", out, *arguments, code=code)
        return done.stderr.decode() if code else json.loads(out.read_text())["suites"]

    def last(self, run, name):
        return json.loads((self.folder / run / name).read_text().splitlines()[-1])

    def test_ppl_and_sinks_are_those_of_the_trainer(self):
        for run in ("sigmoid", "placeholder", "learned", "prefix"):
            suites = self.evaluate(run, "--suite", "ppl,sinks")
            trained, probed = self.last(run, "evals.jsonl"), self.last(run, "probes.jsonl")
            self.assertEqual(suites["ppl"]["loss"], trained["loss"])
            self.assertEqual(suites["ppl"]["scored"], trained["scored"])
            self.assertAlmostEqual(suites["ppl"]["bits_per_byte"], trained["loss"] / 0.6931471805599453, 9)  # a byte a token
            self.assertEqual(suites["sinks"]["per_head"], probed["per_head"])
            self.assertEqual(suites["sinks"]["per_layer"], probed["per_layer"])

    def test_streams_and_longer_contexts(self):
        for run, placeholders in (("sigmoid", 0), ("placeholder", 1)):
            suites = self.evaluate(run, "--suite", "streaming,extrapolation,needle,ppl", "--precision", "fp32", "--window", 12,
                                   "--stream-tokens", 400, "--length-tokens", 64, "--trials", 2, "--dense-targets", 9)
            streaming = suites["streaming"]
            self.assertEqual([(c["start"], c["recent"]) for c in streaming["caches"]], [(0, 12), (1, 11), (2, 10), (4, 8)])
            for cache in streaming["caches"]:
                self.assertTrue(1 < cache["ppl"] < 300, cache)
            self.assertEqual(streaming["tokens"], 400)
            self.assertTrue(1 < streaming["dense"]["ppl"] < 300)
            # Before an eviction all caches have seen the same.
            first = [curve["y"][0] for curve in streaming["curves"]]
            self.assertLess(max(first) - min(first), 1e-4)  # sums in another order
            results = suites["extrapolation"]["results"]
            self.assertEqual(sorted({r["factor"] for r in results}), [1, 2, 4, 8, 16])
            methods = {r["method"] for r in results}
            for method in ("direct", "linear", "ntk", "yarn"):
                self.assertIn(method, methods)
                self.assertEqual(method + ", b = -log n" in methods, run == "sigmoid")
            for result in results:
                self.assertEqual(result["tokens"], 16 * result["factor"] - placeholders)
                self.assertTrue(0 < result["loss"] < 10)
            self.assertEqual({r["tokens"] for r in suites["needle"]["results"]}, {32, 64})
            self.assertEqual(list(suites), ["extrapolation", "needle", "ppl", "streaming"])
        report = subprocess.run([sys.executable, "scripts/eval_report.py", self.folder / "sigmoid.json",
                                 self.folder / "placeholder.json", "--out", self.folder / "eval.html"],
                                capture_output=True, text=True, cwd=ROOT)
        self.assertEqual(report.returncode, 0, report.stderr)
        page = (self.folder / "eval.html").read_text()
        self.assertEqual(page.count("<svg"), 1 + 2 + 2 * 5 + 2)
        for word in ("0+12", "computed again", "yarn", "sigmoid", "placeholder"):
            self.assertIn(word, page)
        table = subprocess.run([sys.executable, "scripts/eval_report.py", self.folder / "sigmoid.json", "--markdown"],
                               capture_output=True, text=True, cwd=ROOT)
        self.assertIn("| sigmoid | 0+12 |", table.stdout)

    def test_a_prefix_is_no_target_and_streams_of_it_are_refused(self):
        suites = self.evaluate("prefix", "--suite", "ppl,interventions,analysis,needle,streaming,extrapolation", "--trials", 1)
        # Of the 15 targets of a row those of the first 5 tokens are within the prefix of 6.
        rows, last = divmod(self.last("learned", "evals.jsonl")["scored"], 15)
        self.assertEqual(suites["ppl"]["scored"], 10 * rows + max(0, last - 5))
        curve = next(curve for curve in suites["ppl"]["curves"] if curve["name"] == "loss by position")
        self.assertGreater(min(curve["x"]), 3)
        self.assertEqual(suites["interventions"]["before"]["loss"], suites["ppl"]["loss"])
        added = {result["interventions"]: result["loss_added"] for result in suites["interventions"]["results"]}
        self.assertNotEqual(added["kind=first,value=0"], 0)
        self.assertNotIn("refused", suites["analysis"])
        self.assertTrue(suites["needle"]["results"])
        for name in ("streaming", "extrapolation"):
            self.assertIn("attention.prefix = 6", suites[name]["refused"])

    def test_learned_positions_are_refused_with_the_reason(self):
        suites = self.evaluate("learned", "--suite", "streaming,extrapolation")
        self.assertIn("learned", suites["streaming"]["refused"])
        self.assertIn("learned", suites["extrapolation"]["refused"])

    def test_multiple_choice_and_questions_that_are_none(self):
        file = self.folder / "questions.jsonl"
        file.write_text('{"query": "a", "choices": ["b", "c d"], "answer": 1}\n\n'
                        '{"ctx": "' + "long " * 30 + '", "endings": ["x", "yy", "z"], "label": "2"}\n')
        result = self.evaluate("sigmoid", "--suite", "multiple_choice", "--choices", file)["multiple_choice"]
        self.assertEqual((result["questions"], result["cut"]), (2, 3))
        self.assertAlmostEqual(result["chance"], (1 / 2 + 1 / 3) / 2)
        for line, words in (("{", ["line 1", "no JSON object"]), ("[1]", ["no JSON object"]),
                            ('{"query": 1}', ["query, ctx or question"]), ('{"query": "a", "choices": ["b"]}', ["at least two"]),
                            ('{"query": "a", "choices": ["b", 3], "answer": 0}', ["choice 1"]),
                            ('{"query": "a", "choices": ["b", ""], "answer": 0}', ["choice 1"]),
                            ('{"query": "a", "choices": ["b", "c"], "answer": 2}', ["from 0 to 1"]),
                            ('{"query": "a", "choices": ["b", "c"], "answer": -1}', ["from 0 to 1"]),
                            ('{"query": "a", "choices": ["b", "c"], "answer": "x"}', ["from 0 to 1"]),
                            ("[" * 100000, ["no JSON object"]), ("\xff\xfe", ["no JSON object"]), (" \n", ["no questions"])):
            file.write_bytes(line.encode("latin-1"))
            error = self.evaluate("sigmoid", "--suite", "multiple_choice", "--choices", file, code=78)
            for word in words:
                self.assertIn(word, error)
        self.assertIn("--choices", self.evaluate("sigmoid", "--suite", "multiple_choice", code=78))

    def test_another_text_and_what_is_refused(self):
        other = self.folder / "other.txt"
        other.write_text("to be or not to be, that is the question\n" * 30)
        suites = self.evaluate("sigmoid", "--suite", "ppl", "--data", other)
        self.assertEqual(suites["ppl"]["scored"], len(other.read_text()) - 1)
        self.assertIn("nowhere.txt", self.evaluate("sigmoid", "--suite", "ppl", "--data", self.folder / "nowhere.txt", code=78))
        self.assertIn("'pll'", self.evaluate("sigmoid", "--suite", "pll", code=78))
        self.assertIn("--window is 17", self.evaluate("sigmoid", "--suite", "streaming", "--window", 17, code=78))
        self.assertIn("--trials", self.evaluate("sigmoid", "--suite", "needle", "--trials", 0, code=78))

    def test_interventions_leave_what_they_do_not_touch(self):
        for run, heads in (("placeholder", 1), ("four_heads", 4)):
            suites = self.evaluate(run, "--suite", "interventions,ppl")
            found = suites["interventions"]
            self.assertEqual(found["before"]["loss"], suites["ppl"]["loss"])
            self.assertEqual(len(found["results"]), 4 + 3 + (heads if heads > 1 else 0))
            self.assertEqual({result["loss_added"] == 0 for result in found["results"]}, {False})
            self.assertEqual(len(found["table"]["rows"]), 1 + len(found["results"]))
            self.assertEqual("maps" in found, heads > 1)
            gammas = [curve for curve in found["curves"] if curve["group"] == "loss by gamma"]
            self.assertEqual(gammas[0]["x"], [0, 0.5, 1, 2])
            self.assertEqual(gammas[0]["y"][2], found["before"]["loss"])
        self.assertEqual(len(found["maps"][0]["values"][0]), 4)
        by_name = {result["interventions"]: result for result in found["results"]}
        for head in range(4):
            self.assertEqual(found["maps"][0]["values"][0][head], by_name[f"layer=0,head={head},kind=zero"]["loss_added"])
        asked = ["kind=first,value=1", "layer=0,kind=zero", "layer=0,kind=zero_attention", "head=1,kind=zero+kind=zero_mlp"]
        results = self.evaluate("four_heads", "--suite", "interventions",
                                *[word for text in asked for word in ("--intervene", text)])["interventions"]["results"]
        self.assertEqual([result["interventions"] for result in results], asked)
        self.assertEqual(results[0]["loss_added"], 0)
        self.assertEqual(results[1]["loss"], results[2]["loss"])  # no biases
        self.assertNotIn(results[3]["loss"], [results[1]["loss"], found["before"]["loss"]])
        for arguments, words in ((["--suite", "interventions", "--intervene", "layer=1,kind=zero"], ["layer is 1", "0 .. 0"]),
                                 (["--suite", "ppl", "--intervene", "kind=zero"], ["--intervene", "interventions"]),
                                 (["--suite", "ppl", "--contrast", "x"], ["--contrast", "analysis"])):
            error = self.evaluate("four_heads", *arguments, code=78)
            for word in words:
                self.assertIn(word, error)

    def test_attention_is_for_copies_and_not_for_bigrams(self):
        done = subprocess.run([BINARY, "train", "configs/quickstart.toml", "--run-dir", self.folder / "task", "--set",
                               "model.channels=64", "--set", "model.context=32", "--set", "train.batch_tokens=0", "--set",
                               "train.max_steps=300", "--set", "data.val_samples=32", "--set", "optimizer.lr=4e-3", "--set",
                               "run.threads=1", "--set", f"data.text={TEXT}", "--set", "probes.enabled=false"],
                              capture_output=True, text=True, timeout=100, cwd=ROOT)
        self.assertEqual(done.returncode, 0, done.stderr)
        suites = self.evaluate("task", "--suite", "interventions,analysis")
        before = suites["interventions"]["before"]
        by_name = {result["interventions"]: result for result in suites["interventions"]["results"]}
        attention, mlp = by_name["layer=0,kind=zero_attention"], by_name["layer=0,kind=zero_mlp"]
        self.assertLess(before["copy_risk"], 0.5)
        self.assertGreater(attention["copy_risk"], before["copy_risk"] + 2)
        self.assertLess(attention["bigram_risk"], before["bigram_risk"] + 0.3)
        self.assertGreater(mlp["bigram_risk"], before["bigram_risk"] + 0.5)
        heads = suites["analysis"]["evaluated"]["per_head"]
        self.assertLess(heads["trigger_first_mass"][0][0], heads["first_mass_raw"][0][0])  # triggers attend elsewhere
        self.assertEqual(suites["analysis"]["receivers"][0]["token"], "<s>")

    def test_analysis_agrees_with_the_probes_and_with_itself(self):
        other = self.folder / "contrast.txt"
        other.write_text("0123456789 and so on, and so on\n" * 40)
        suites = self.evaluate("four_heads", "--suite", "analysis,sinks", "--contrast", other)
        found, sinks = suites["analysis"], suites["sinks"]["per_head"]
        for data in ("evaluated", "contrast"):
            heads = found[data]["per_head"]
            masses, outputs = sum(heads["first_mass_raw"], []), sum(heads["head_output_ratio"], [])
            self.assertEqual(found[data]["states"]["dormant_0p5"], sum(mass > 0.5 for mass in masses))
            self.assertEqual(found[data]["states"]["dormant_0p9"], sum(mass > 0.9 for mass in masses))
            self.assertEqual(found[data]["states"]["output_below_half"], sum(ratio < 0.5 for ratio in outputs))
            self.assertEqual([len(rates) for rates in found[data]["sink_rates"]], [10] * 3)
            for low, high in zip(found[data]["sink_rates"], found[data]["sink_rates"][1:]):
                self.assertTrue(all(a >= b for a, b in zip(low, high)), "a higher threshold has fewer sinks")
            for share, half in zip(sum(heads["attribution_first_share"], []), sum(heads["tokens_for_half"], [])):
                self.assertTrue(0 <= share <= 1 and 0 < half <= 0.5, (share, half))
        self.assertEqual(found["evaluated"]["per_head"]["first_mass_raw"], sinks["first_mass_raw"])
        # The sink rate of the probes is of 1 document and head at a time, at 0.3.
        self.assertAlmostEqual(found["evaluated"]["sink_rates"][1][0], sum(sum(sinks["sink_rate"], [])) / 4)
        self.assertNotEqual(found["contrast"]["per_head"]["first_mass_raw"], sinks["first_mass_raw"])
        self.assertEqual([row[0] for row in found["table"]["rows"]], ["evaluated", "contrast"])
        maps = {entry["name"]: entry["values"] for entry in found["maps"]}
        for a, b, difference in zip(maps["mass on the first token"][0], maps["mass on the first token, contrast"][0],
                                    maps["mass, evaluated - contrast"][0]):
            self.assertAlmostEqual(a - b, difference)
        # All weight of softmax is received: a row each.
        received = [curve for curve in found["curves"] if curve["group"] == "weight received by position"]
        self.assertAlmostEqual(sum(received[0]["y"]), 16, 5)
        self.assertEqual(found["repeats"]["tokens"], 7)
        for heads in (found["evaluated"]["per_head"][name] for name in ("induction", "echo", "previous")):
            self.assertTrue(all(0 <= value <= 1 for value in sum(heads, [])))
        self.assertIn("nowhere", self.evaluate("four_heads", "--suite", "analysis", "--contrast", "nowhere", code=78))
        report = subprocess.run([sys.executable, "scripts/eval_report.py", self.folder / "four_heads.json", "--out",
                                 self.folder / "heads.html"], capture_output=True, text=True, cwd=ROOT)
        self.assertEqual(report.returncode, 0, report.stderr)

    def test_the_report_draws_groups_of_curves_and_maps_of_heads(self):
        suites = self.evaluate("four_heads", "--suite", "interventions,analysis")
        subprocess.run([sys.executable, "scripts/eval_report.py", self.folder / "four_heads.json", "--out",
                        self.folder / "groups.html"], check=True, capture_output=True, cwd=ROOT)
        page = (self.folder / "groups.html").read_text()
        groups = {(suite, curve["group"]) for suite, result in suites.items() for curve in result["curves"]}
        maps = [entry for result in suites.values() for entry in result["maps"]]
        self.assertEqual(page.count("<svg"), len(groups) + len(maps))
        self.assertEqual(page.count("<rect"), 4 * len(maps))
        value = maps[0]["values"][0][3]
        self.assertIn(f"layer 0, head 3: {value:.4f}", page)

    def test_the_report_refuses_other_files(self):
        bad = self.folder / "bad.json"
        for text in ("{", "[]", "{}", '{"suites": {"ppl": {}}}'):
            bad.write_text(text)
            done = subprocess.run([sys.executable, "scripts/eval_report.py", bad], capture_output=True, text=True, cwd=ROOT)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)


if __name__ == "__main__":
    unittest.main()
