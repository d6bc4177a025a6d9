"""scripts/bench/torch_peer.py with a fake runner: order of runs, best of runs, ratios, failures; needs no PyTorch."""

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
import torch_peer  # noqa: E402


class FakeRunner:
    """Answers from a table of milliseconds; a missing number is a failure, a list is used up run by run."""

    def __init__(self, torch, plimsoll, answers=None):
        self.times = {"torch": torch, "plimsoll": plimsoll}
        self.answers = answers or {}
        self.calls = []

    def _time(self, program, key):
        value = self.times[program].get(key)
        if isinstance(value, list):
            value = value.pop(0)
        if value is None:
            raise torch_peer.Failure(f"no {key}")
        return value

    def torch(self, shape, row, huge_pages):
        name = row + (" hugetlb" if huge_pages else "")
        self.calls.append(f"torch {name}")
        return row.split("-")[1], self._time("torch", name)

    def plimsoll(self, shape, precision):
        self.calls.append(f"plimsoll {precision}")
        return self.answers.get(precision, precision), self._time("plimsoll", precision)


def run(runner, rows, **options):
    entries = torch_peer.summarize(torch_peer.measure(["gpt2-t64"], rows, runner, **options))
    return entries, {entry["row"]: entry for entry in entries}


class Measurement(unittest.TestCase):
    def test_programs_take_turns(self):
        runner = FakeRunner({"eager-fp32": 4, "eager-fp32 hugetlb": 3, "eager-bf16": 2, "eager-bf16 hugetlb": 2},
                            {"fp32": 1, "bf16": 1})
        run(runner, ["eager-fp32", "eager-bf16"])
        self.assertEqual(runner.calls, ["torch eager-fp32", "plimsoll fp32", "torch eager-fp32 hugetlb", "plimsoll fp32",
                                        "torch eager-bf16", "plimsoll bf16", "torch eager-bf16 hugetlb", "plimsoll bf16"])

    def test_best_of_all_runs_counts(self):
        runner = FakeRunner({"eager-fp32": 40, "eager-fp32 hugetlb": 30}, {"fp32": [20, 10]})
        _, rows = run(runner, ["eager-fp32"])
        self.assertEqual(rows["plimsoll fp32"]["ms"], [20, 10])
        self.assertEqual(rows["plimsoll fp32"]["ms_per_step"], 10)
        self.assertAlmostEqual(rows["plimsoll fp32"]["tokens_per_second"], 25600)  # 4 x 64 tokens in 10 ms

    def test_rows_compare_within_a_precision_and_plimsoll_with_the_best_row_of_any(self):
        runner = FakeRunner({"eager-fp32": 40, "eager-fp32 hugetlb": 30, "compiled-bf16": 24, "compiled-bf16 hugetlb": 18},
                            {"fp32": 20, "bf16": 12})
        _, rows = run(runner, ["eager-fp32", "compiled-bf16"])
        self.assertAlmostEqual(rows["torch eager-fp32"]["ratio"], 2.0)
        self.assertAlmostEqual(rows["torch eager-fp32 hugetlb"]["ratio"], 1.5)
        self.assertAlmostEqual(rows["torch compiled-bf16"]["ratio"], 2.0)
        self.assertAlmostEqual(rows["plimsoll fp32"]["ratio_to_best"], 0.9)
        self.assertAlmostEqual(rows["plimsoll bf16"]["ratio_to_best"], 1.5)
        self.assertEqual(rows["plimsoll bf16"]["best_torch"], "torch compiled-bf16 hugetlb")

    def test_another_shape_is_no_peer(self):
        entries = [{"shape": "bb1", "program": "torch", "row": "torch eager-fp32", "precision": "fp32", "ms": [5]},
                   {"shape": "bb3", "program": "plimsoll", "row": "plimsoll fp32", "precision": "fp32", "ms": [1]}]
        for entry in torch_peer.summarize(entries):
            self.assertFalse({"ratio", "ratio_to_best"} & entry.keys())

    def test_the_precision_plimsoll_reports_names_its_row(self):
        runner = FakeRunner({"eager-bf16": 40, "eager-bf16 hugetlb": 40}, {"auto": 20}, answers={"auto": "fp32"})
        _, rows = run(runner, ["eager-bf16"], precision="auto")
        self.assertEqual(list(rows), ["torch eager-bf16", "plimsoll fp32", "torch eager-bf16 hugetlb"])
        self.assertAlmostEqual(rows["torch eager-bf16"]["ratio"], 2.0)  # no plimsoll row in bf16: its best

    def test_a_failure_leaves_the_others_standing(self):
        runner = FakeRunner({"eager-fp32": 40, "eager-fp32 hugetlb": 30}, {"fp32": 10})
        entries, rows = run(runner, ["compiled-fp32", "eager-fp32"])
        self.assertNotIn("ms_per_step", rows["torch compiled-fp32"])
        self.assertEqual(rows["torch compiled-fp32"]["error"], "no compiled-fp32")
        self.assertAlmostEqual(rows["plimsoll fp32"]["ratio_to_best"], 3.0)
        text = torch_peer.table(entries)
        self.assertIn("| gpt2-t64 | torch compiled-fp32 | failed | - | - | - |", text)
        self.assertIn("gpt2-t64, torch compiled-fp32: no compiled-fp32", text)

    def test_torch_alone_has_no_ratios(self):
        runner = FakeRunner({"eager-fp32": 40, "eager-fp32 hugetlb": 30}, {})
        entries, _ = run(runner, ["eager-fp32"], with_plimsoll=False)
        self.assertEqual(torch_peer.table(entries).splitlines()[2:],
                         ["| gpt2-t64 | torch eager-fp32 | 40.0 | 6,400 | - | - |",
                          "| gpt2-t64 | torch eager-fp32 hugetlb | 30.0 | 8,533 | - | - |"])

    def test_table(self):
        runner = FakeRunner({"eager-fp32": 40, "eager-fp32 hugetlb": 30}, {"fp32": 20})
        entries, _ = run(runner, ["eager-fp32"])
        self.assertEqual(torch_peer.table(entries).splitlines(),
                         ["| shape | row | ms/step | tokens/s | plimsoll/torch | plimsoll/best torch |",
                          "|---|---|---:|---:|---:|---:|",
                          "| gpt2-t64 | torch eager-fp32 | 40.0 | 6,400 | 2.00x | - |",
                          "| gpt2-t64 | plimsoll fp32 | 20.0 | 12,800 | - | 1.50x |",
                          "| gpt2-t64 | torch eager-fp32 hugetlb | 30.0 | 8,533 | 1.50x | - |"])


class Processes(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.program = Path(directory.name) / "plimsoll"

    def plimsoll(self, script, shape="bb3"):
        self.program.write_text("#!/bin/sh\n" + script)
        self.program.chmod(0o755)
        return torch_peer.Runner(str(self.program), 3, 2).plimsoll(shape, "auto")

    def answer(self, **changes):
        value = {"shape": "bb3", "tokens": 16384, "ms_per_step": 12.5, "tokens_per_second": 1, "precision": "bf16"}
        return "echo 'a line of log'\necho '" + json.dumps(value | changes) + "'\n"

    def test_plimsoll_is_called_as_documented(self):
        check = '[ "$*" = "bench --step bb3 --precision auto --steps 3 --threads 2 --json" ] || exit 9\n'
        with mock.patch.dict("os.environ", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}):
            self.assertEqual(self.plimsoll(check + '[ -z "$GLIBC_TUNABLES" ] || exit 8\n' + self.answer()), ("bf16", 12.5))

    def test_other_work_is_not_compared(self):
        with self.assertRaisesRegex(torch_peer.Failure, "bb3 of 64 tokens, wanted bb3 of 16384"):
            self.plimsoll(self.answer(tokens=64))
        with self.assertRaisesRegex(torch_peer.Failure, "measured bb3"):
            self.plimsoll(self.answer(), shape="bb1")

    def test_failures_are_told_in_one_line(self):
        with self.assertRaisesRegex(torch_peer.Failure, "^exit status 78: no such step$"):
            self.plimsoll("echo trace >&2\necho no such step >&2\nexit 78\n")
        with self.assertRaisesRegex(torch_peer.Failure, "no JSON"):
            self.plimsoll("echo 12\n")
        with self.assertRaisesRegex(torch_peer.Failure, "lacks ms_per_step"):
            self.plimsoll("echo '{\"shape\": \"bb3\", \"tokens\": 16384, \"precision\": \"fp32\"}'\n")
        with self.assertRaisesRegex(torch_peer.Failure, "cannot start"):
            torch_peer.Runner(str(self.program) + "-missing", 1, 1).plimsoll("bb3", "fp32")


class CommandLine(unittest.TestCase):
    def call(self, *arguments, torch=True):
        errors = io.StringIO()
        with mock.patch("importlib.util.find_spec", return_value=object() if torch else None), \
                contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = torch_peer.main(list(arguments))
            except SystemExit as end:
                status = end.code
        return status, errors.getvalue()

    def test_without_torch_or_plimsoll_one_sentence_says_what_to_do(self):
        status, errors = self.call(torch=False)
        self.assertEqual((status, errors.count("\n")), (1, 1))
        self.assertIn("pip install torch numpy", errors)
        status, errors = self.call("--plimsoll", "nowhere/plimsoll")
        self.assertEqual((status, errors.count("\n")), (1, 1))
        self.assertIn("--torch-only", errors)

    def test_unknown_names_are_refused(self):
        for arguments in (("--shapes", "gpt3"), ("--rows", "eager"), ("--steps", "0"), ("--threads", "two")):
            with self.subTest(arguments=arguments):
                self.assertEqual(self.call(*arguments)[0], 2)

    def test_shapes_are_those_of_the_papers(self):
        tokens = {name: torch_peer.tokens_of(name) for name in torch_peer.SHAPES}
        self.assertEqual(tokens, {"gpt2-t64": 256, "gpt2-t256": 1024, "bb1": 131072, "bb3": 16384, "bb1-relu": 131072})

    def test_results_are_written(self):
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "peer.json"
            with mock.patch.object(torch_peer, "measure", return_value=[
                    {"shape": "bb3", "program": "torch", "row": "torch eager-fp32", "precision": "fp32", "ms": [9, 8]}]):
                self.assertEqual(self.call("--torch-only", "--quick", "--json", str(out))[0], 0)
            written = json.loads(out.read_text())
            self.assertEqual(written["results"][0]["ms_per_step"], 8)
            self.assertEqual(written["machine"]["timed_steps"], 2)


if __name__ == "__main__":
    unittest.main()
