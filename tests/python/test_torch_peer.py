"""scripts/bench/torch_peer.py with a fake runner: screening, order of runs, medians, verdicts, tables, files; needs no
PyTorch."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/bench"))
import peer_rows  # noqa: E402
import peer_runner  # noqa: E402
import peer_tables  # noqa: E402
import processes  # noqa: E402
import torch_peer  # noqa: E402
from peer_rows import Row  # noqa: E402

SETTINGS = {"processor": "CPU", "cores": 2, "bf16": ["amx_bf16"], "transparent_huge_pages": "madvise", "threads": 2,
            "timed_steps": 5, "torch": "2.9", "plimsoll": "plimsoll 0.1"}


class FakeRunner:
    """Answers from a table of milliseconds; a missing number is a failure, a list is used up run by run."""

    def __init__(self, times, megabytes=None):
        self.times, self.megabytes, self.calls, self.asked = times, megabytes or {}, [], []

    def _run(self, name):
        self.calls.append(name)
        value = self.times.get(name)
        if isinstance(value, list):
            value = value.pop(0)
        if value is None:
            raise processes.Failure(f"no {name}")
        return {"ms": value, "steps": [value], "bytes": 10**6 * self.megabytes.get(name, 100), "seconds": 1}

    steps = 5

    def torch(self, shape, row, steps=None):
        self.asked.append(steps)
        return self._run(row.name)

    def plimsoll(self, shape, precision, threads=None):
        return self._run("plimsoll" if threads is None else f"plimsoll on {threads}")

    def attention(self, T, heads, size):
        self.calls.append(f"attention {T}")
        return {"softmax": {"forward": T * T / 1e3, "backward": T * T / 500}}


def measure(runner, rows, rounds=5, count=2, **options):
    result = {"settings": SETTINGS, "date": "2026-01-01", "screening": {}, "rounds": []}
    torch_peer.measure_shape("gpt2-t64", "auto", [Row.parse(row) for row in rows], runner, result, rounds, count,
                             lambda text: None, lambda: None, **options)
    return result


class Measurement(unittest.TestCase):
    ROWS = ("eager bf16", "eager bf16 hugetlb", "compiled bf16")

    def runner(self, **changes):
        return FakeRunner({"eager bf16": 40, "eager bf16 hugetlb": 24, "compiled bf16": 30, "plimsoll": 10} | changes,
                          {"plimsoll": 50, "compiled bf16": 80})

    def test_the_fastest_of_the_screening_take_turns_with_plimsoll(self):
        runner = self.runner()
        result = measure(runner, self.ROWS, rounds=3)
        self.assertEqual(runner.calls, [*self.ROWS,
                                        "plimsoll", "eager bf16 hugetlb", "compiled bf16",
                                        "eager bf16 hugetlb", "compiled bf16", "plimsoll",
                                        "compiled bf16", "plimsoll", "eager bf16 hugetlb"])
        self.assertEqual([len(one) for one in result["rounds"]], [3, 3, 3])
        self.assertEqual(runner.asked, [2] * 3 + [None] * 6)  # the screening is short

    def test_the_estimate(self):
        rows = peer_rows.rows_of(("eager", "compiled"), ("bf16",), ("default", "hugetlb"))
        self.assertAlmostEqual(peer_rows.guess_seconds("gpt2-t64", rows), 4 * (10 + 5 * 0.5) + 40)
        self.assertAlmostEqual(peer_rows.seconds_of_round({"seconds": 20, "ms": 1000}, 5), 1.1 * 23)

    def test_what_is_there_is_not_measured_again(self):
        first = measure(self.runner(), self.ROWS, rounds=2)
        runner = self.runner()
        torch_peer.measure_shape("gpt2-t64", "auto", [Row.parse(row) for row in (*self.ROWS, "eager fp32")], runner, first, 3, 2,
                                 lambda text: None, lambda: None)
        self.assertEqual(runner.calls[0], "eager fp32")
        self.assertEqual(len(runner.calls), 4)

    def test_ratios_are_of_medians_and_their_spread_is_of_rounds(self):
        runner = self.runner(**{"plimsoll": [10, 12, 11, 50, 10], "eager bf16 hugetlb": [20, 24, 24, 33, 25, 22]})
        entries = peer_rows.summarize("gpt2-t64", measure(runner, self.ROWS))
        self.assertEqual([entry["row"] for entry in entries], ["plimsoll", "eager bf16 hugetlb", "compiled bf16", "eager bf16"])
        own, best, other, screened = entries
        self.assertEqual((own["ms"], own["low"], own["high"], own["rounds"]), (11, 10, 50, 5))
        self.assertAlmostEqual(own["tokens_per_second"], 256e3 / 11)
        self.assertAlmostEqual(best["ratio"], 24 / 11)
        self.assertAlmostEqual(best["ratio_low"], 25 / 50)
        self.assertAlmostEqual(best["ratio_high"], 33 / 11)
        self.assertAlmostEqual(other["ratio"], 30 / 11)
        self.assertEqual((screened["rounds"], screened["ms"]), (0, 40))
        self.assertNotIn("ratio", screened)

    def test_a_claim_names_the_best_row_and_the_leanest(self):
        result = measure(self.runner(), self.ROWS)
        claim = peer_rows.claim("gpt2-t64", "auto", result)
        self.assertEqual((claim["best"], claim["leanest"], claim["rounds"]), ("eager bf16 hugetlb", "compiled bf16", 5))
        self.assertAlmostEqual(claim["ratio"], 2.4)
        self.assertAlmostEqual(claim["memory"], 0.5)
        self.assertAlmostEqual(claim["memory_leanest"], 50 / 80)
        self.assertTrue(claim["reached"])

    def test_verdicts(self):
        def verdict(own, rounds=5, shape="gpt2-t64", precision="auto"):
            result = measure(self.runner(plimsoll=own), self.ROWS, rounds)
            return peer_tables.verdict(shape, precision, result)
        self.assertIn("2.40x PyTorch's best row (eager bf16 hugetlb; 2.40x to 2.40x over 5 rounds); wanted 1.9x: reached.",
                      verdict(10))
        self.assertIn("1.85x PyTorch's best row", verdict(13))
        self.assertIn("wanted 1.9x: not reached.", verdict(13))
        self.assertIn("not judged, 4 rounds of 5", verdict(10, rounds=4))
        self.assertIn("no aim", verdict(10, shape="bb1-relu"))
        self.assertIn("fp32 without AMX: 1.20x", verdict(20, precision="fp32"))
        self.assertIn("wanted 1.1x: reached", verdict(20, precision="fp32"))

    def test_without_amx_the_aim_is_that_of_fp32(self):
        self.assertEqual(peer_rows.aim("bb1", "auto", SETTINGS), 3.0)
        self.assertEqual(peer_rows.aim("bb1", "auto", SETTINGS | {"bf16": ["avx512_bf16"]}), 1.1)
        self.assertIsNone(peer_rows.aim("bb1-relu", "auto", SETTINGS))

    def test_a_failure_leaves_the_others_standing(self):
        result = measure(self.runner(**{"compiled bf16": None}), self.ROWS)
        self.assertTrue(torch_peer.failed(result))
        text = peer_tables.shape_report("gpt2-t64", "auto", result)
        self.assertIn("| compiled bf16 | failed: no compiled bf16 |", text)
        self.assertIn("2.40x", text)

    def test_a_row_that_fails_in_a_round_is_not_compared(self):
        result = measure(self.runner(**{"eager bf16 hugetlb": [20, 20, None, 20, 20, 20]}), self.ROWS)
        entries = peer_rows.summarize("gpt2-t64", result)
        self.assertEqual(entries[-1], {"row": "eager bf16 hugetlb", "error": "no eager bf16 hugetlb"})
        self.assertEqual(peer_rows.claim("gpt2-t64", "auto", result)["best"], "compiled bf16")

    def test_a_missing_allocator_is_a_row_but_no_failure(self):
        self.assertFalse(torch_peer.failed({"eager bf16 jemalloc": {"error": "jemalloc: not found (apt-get ...)"}}))
        self.assertTrue(torch_peer.failed([{"rounds": [{"plimsoll": {"error": "exit status 1"}}]}]))

    def test_torch_alone_has_no_verdict(self):
        result = measure(self.runner(), self.ROWS, with_plimsoll=False)
        text = peer_tables.shape_report("gpt2-t64", "auto", result)
        self.assertIn("no ratio without a round of both", text)
        self.assertNotIn("x (", text)

    def test_rows_are_every_combination(self):
        rows = peer_rows.rows_of(peer_rows.MODES, peer_rows.PRECISIONS, peer_rows.ALLOCATORS)
        self.assertEqual(len({row.name for row in rows}), 3 * 2 * 4)
        self.assertTrue(all(Row.parse(row.name) == row for row in rows))


class Tables(unittest.TestCase):
    def test_a_shape(self):
        runner = FakeRunner({"eager bf16": 40, "compiled bf16": 30, "plimsoll": 10}, {"plimsoll": 50})
        lines = peer_tables.shape_report("gpt2-t64", "auto", measure(runner, ("eager bf16", "compiled bf16"), count=1)).splitlines()
        self.assertEqual(lines[0], "CPU (amx_bf16), 2 threads on 2 cores, transparent huge pages madvise, PyTorch 2.9, "
                                   "2026-01-01.")
        self.assertEqual(lines[2:7], [
            "| gpt2-t64 | rounds | ms/step | fastest to slowest | tokens/s | peak MB | plimsoll is faster by |",
            "|---|---:|---:|---:|---:|---:|---:|",
            "| plimsoll | 5 | 10.0 | 10.0 to 10.0 | 25,600 | 50 |  |",
            "| compiled bf16 | 5 | 30.0 | 30.0 to 30.0 | 8,533 | 100 | 3.00x (3.00 to 3.00) |",
            "| eager bf16 | screening | 40.0 | 40.0 to 40.0 | 6,400 | 100 |  |"])

    def test_threads(self):
        runner = FakeRunner({"plimsoll on 1": [20, 22, 30], "plimsoll on 2": [10, 11, 12]})
        found = torch_peer.measure_scaling(["bb3"], [1, 2], runner, 3, lambda text: None)
        self.assertEqual(runner.calls, ["plimsoll on 1", "plimsoll on 2", "plimsoll on 2", "plimsoll on 1", "plimsoll on 1",
                                        "plimsoll on 2"])
        self.assertEqual(peer_tables.scaling_table({"shapes": found}).splitlines(),
                         ["| step | 1 thread | 2 threads |", "|---|---:|---:|",
                          "| `bb3` | 22.0 ms | 11.0 ms, 2.00x (2.00 to 2.50) |"])

    def test_lengths(self):
        runner = FakeRunner({})
        rounds = torch_peer.measure_lengths([256, 1024], runner, 2, lambda text: None)
        self.assertEqual(runner.calls, [f"attention {T}" for T in (256, 1024, 1024, 256)])
        lines = peer_tables.attention_table({"rounds": rounds}).splitlines()
        self.assertIn("softmax forward, µs/token", lines[0])
        self.assertEqual(lines[2], "| 256 | 256.00 | 512.00 | 1,992,218 | 3,984,436 |")
        self.assertEqual(lines[3], "| 1,024 | 1024.00 | 2048.00 | 1,998,049 | 3,996,098 |")

    def test_readme(self):
        self.assertEqual([text_of({}) for text_of in peer_tables.PAGES.values()], ["", ""])
        result = measure(FakeRunner({"eager bf16": 40, "plimsoll": 10}, {"plimsoll": 50}), ("eager bf16",))
        text = peer_tables.steps_text({"steps": {"auto": {"gpt2-t64": result}}})
        self.assertIn("| `gpt2-t64` | 10.0 ms, 25,600 tokens/s | 40.0 ms, 6,400 tokens/s, eager bf16 | 4.00 (4.00 to 4.00) | "
                      "1.9: reached | 50 MB | 0.50 | 0.50, eager bf16 |", text)
        self.assertIn("Medians of 5 rounds in turns, a run the median of 5 steps", text)
        scaling = {"settings": SETTINGS, "date": "2026-01-01", "shapes": {"bb3": [{"1": {"ms": 2}, "2": {"ms": 1}}]}}
        attention = {"settings": SETTINGS, "date": "2026-01-01", "rounds": [{"256": {"softmax": {"forward": 1, "backward": 2}}}]}
        text = peer_tables.details_text({"scaling": scaling, "attention": attention})
        self.assertIn("medians of 1 rounds: CPU (amx_bf16), 2 threads on 2 cores, transparent huge pages madvise, 2026", text)
        self.assertIn("| `bb3` | 2.0 ms | 1.0 ms, 2.00x (2.00 to 2.00) |", text)
        self.assertIn("best of 7 calls", text)

    def test_readme_has_a_section_for_each_machine(self):
        before = f"# a\n{peer_tables.BEGIN}\n{peer_tables.END}\nb\n"
        one = peer_tables.put_into(before, SETTINGS, "old\n")
        self.assertEqual(one, f"# a\n{peer_tables.BEGIN}\n### CPU (amx_bf16)\n\nold\n{peer_tables.END}\nb\n")
        two = peer_tables.put_into(one, SETTINGS | {"bf16": []}, "other\n")
        self.assertEqual(two, one.replace("old\n", "old\n\n### CPU (no bf16 units)\n\nother\n"))
        self.assertEqual(peer_tables.put_into(two, SETTINGS, "new\n"), two.replace("old", "new"))
        self.assertRaises(ValueError, peer_tables.put_into, "no markers", SETTINGS, "new\n")
        for page in peer_tables.PAGES:
            self.assertIn(peer_tables.BEGIN, (ROOT / page).read_text())
            self.assertIn(peer_tables.END, (ROOT / page).read_text())


class Processes(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.program = Path(directory.name) / "plimsoll"

    def runner(self, program=None):
        return peer_runner.Runner(str(program or self.program), 3, 2, "script")

    def plimsoll(self, script, shape="bb3", precision="auto"):
        self.program.write_text("#!/bin/sh\n" + script)
        self.program.chmod(0o755)
        return self.runner().plimsoll(shape, precision)

    def answer(self, **changes):
        value = {"shape": "bb3", "tokens": 16384, "ms": [12.5, 11, 30], "precision": "bf16"}
        return "echo 'a line of log'\necho '" + json.dumps(value | changes) + "'\n"

    def test_plimsoll_is_called_as_documented_and_its_median_counts(self):
        check = '[ "$*" = "bench --step bb3 --no-clip --precision auto --steps 3 --threads 2 --json" ] || exit 9\n'
        with mock.patch.dict("os.environ", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PLIMSOLL_AMX": "0"}):
            run = self.plimsoll(check + '[ -z "$GLIBC_TUNABLES$PLIMSOLL_AMX" ] || exit 8\n' + self.answer())
        self.assertEqual((run["ms"], run["steps"], run["precision"]), (12.5, [12.5, 11, 30], "bf16"))
        self.assertGreater(run["bytes"], 10**5)

    def test_fp32_is_without_amx(self):
        self.assertEqual(self.plimsoll('[ "$PLIMSOLL_AMX" = 0 ] || exit 9\n' + self.answer(), precision="fp32")["ms"], 12.5)

    def test_memory_is_the_process_own(self):
        hungry = "import json; a = bytearray(300_000_000); print(json.dumps({'x': 1}))"
        answer, peak = processes.run_with_memory([sys.executable, "-c", hungry], dict(os.environ))
        self.assertEqual(answer, {"x": 1})
        self.assertGreater(peak, 300e6)
        self.assertLess(peak, 400e6)

    def test_other_work_is_not_compared(self):
        with self.assertRaisesRegex(processes.Failure, "bb3 of 64 tokens, wanted bb3 of 16384"):
            self.plimsoll(self.answer(tokens=64))
        with self.assertRaisesRegex(processes.Failure, "measured bb3"):
            self.plimsoll(self.answer(), shape="bb1")

    def test_failures_are_told_in_one_line(self):
        with self.assertRaisesRegex(processes.Failure, "^exit status 78: no such step$"):
            self.plimsoll("echo trace >&2\necho no such step >&2\nexit 78\n")
        with self.assertRaisesRegex(processes.Failure, "no JSON"):
            self.plimsoll("echo 12\n")
        with self.assertRaisesRegex(processes.Failure, "lacks ms"):
            self.plimsoll("echo '{\"shape\": \"bb3\", \"tokens\": 16384, \"precision\": \"fp32\"}'\n")
        with self.assertRaisesRegex(processes.Failure, "cannot start"):
            self.runner(str(self.program) + "-missing").plimsoll("bb3", "fp32")
        with mock.patch.object(processes, "TIMEOUT_SECONDS", 0.2), self.assertRaisesRegex(processes.Failure, "no result in 0.2 s"):
            self.plimsoll("exec sleep 60\n")

    def torch(self, row, jemalloc, loaded):
        runner = self.runner()
        runner.jemalloc = jemalloc
        answer = {"ms": [3, 1, 2], "jemalloc": loaded, "bytes": 7}
        with mock.patch.object(peer_runner, "run_with_memory", return_value=(answer, 9)) as called:
            return runner.torch("bb3", Row.parse(row)), called.call_args

    def test_allocators_are_settings_of_the_process(self):
        run, (command, environment) = self.torch("compiled bf16 jemalloc-thp", "libjemalloc.so.2", True)[0], \
            self.torch("compiled bf16 jemalloc-thp", "libjemalloc.so.2", True)[1].args
        self.assertEqual((run["ms"], run["bytes"]), (2, 7))
        self.assertEqual(environment["LD_PRELOAD"], "libjemalloc.so.2")
        self.assertIn("thp:always", environment["MALLOC_CONF"])
        self.assertIn("compiled bf16 jemalloc-thp", command)
        environment = self.torch("eager fp32 hugetlb", None, False)[1].args[1]
        self.assertEqual(environment["GLIBC_TUNABLES"], "glibc.malloc.hugetlb=1")
        self.assertNotIn("LD_PRELOAD", environment)

    def test_a_row_without_its_allocator_is_no_row(self):
        with self.assertRaisesRegex(processes.Failure, "jemalloc: not found"):
            self.torch("eager bf16 jemalloc", None, False)
        with self.assertRaisesRegex(processes.Failure, "was not loaded"):
            self.torch("eager bf16 jemalloc", "libjemalloc.so.2", False)


class CommandLine(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.out = Path(directory.name) / "bench" / "peer.json"

    def call(self, *arguments, torch=True, runner=None):
        errors, printed = io.StringIO(), io.StringIO()
        with mock.patch.object(torch_peer, "torch_version", return_value="2.9" if torch else None), \
                mock.patch.object(torch_peer, "Runner", return_value=runner), \
                contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
            try:
                status = torch_peer.main([*arguments, "--json", str(self.out)])
            except SystemExit as end:
                status = end.code
        return status, errors.getvalue(), printed.getvalue()

    def test_without_torch_or_plimsoll_one_sentence_says_what_to_do(self):
        status, errors, _ = self.call(torch=False)
        self.assertEqual((status, errors.count("\n")), (1, 1))
        self.assertIn("pip install torch numpy", errors)
        status, errors, _ = self.call("--plimsoll", "nowhere/plimsoll")
        self.assertEqual((status, errors.count("\n")), (1, 1))
        self.assertIn("--torch-only", errors)

    def test_unknown_names_are_refused(self):
        for arguments in (("--shapes", "gpt3"), ("--modes", "jit"), ("--allocators", "tcmalloc"), ("--steps", "0"),
                          ("--rounds", "few"), ("--threads", "two")):
            with self.subTest(arguments=arguments):
                self.assertEqual(self.call(*arguments)[0], 2)

    def test_shapes_are_those_of_the_papers(self):
        tokens = {name: peer_rows.tokens_of(name) for name in peer_rows.SHAPES}
        self.assertEqual(tokens, {"gpt2-t64": 256, "gpt2-t256": 1024, "bb1": 131072, "bb3": 16384, "bb1-relu": 131072})

    def test_results_are_kept_and_gone_on_with(self):
        times = {"eager bf16": 40, "eager fp32": 60}
        options = ("--torch-only", "--shapes", "bb3", "--modes", "eager", "--allocators", "default", "--finalists", "1")
        runner = FakeRunner(times)
        status, errors, printed = self.call(*options, "--rounds", "2", runner=runner)
        self.assertEqual((status, len(runner.calls)), (0, 4))
        self.assertIn("screening 1 shapes x 2 PyTorch rows: about", errors)
        self.assertIn("| eager bf16 | 2 | 40.0 |", printed)
        kept = json.loads(self.out.read_text())["steps"]["auto"]["bb3"]
        self.assertEqual((kept["settings"]["timed_steps"], len(kept["rounds"])), (5, 2))
        runner = FakeRunner(times)
        self.assertEqual(self.call(*options, "--rounds", "3", "--resume", runner=runner)[0], 0)
        self.assertEqual(runner.calls, ["eager bf16"])
        runner = FakeRunner(times)
        self.assertEqual(self.call(*options, "--rounds", "3", "--resume", "--steps", "4", runner=runner)[0], 0)
        self.assertEqual(len(runner.calls), 5)

    def test_failures_are_a_status(self):
        options = ("--torch-only", "--shapes", "bb3", "--modes", "eager", "--allocators", "default")
        self.assertEqual(self.call(*options, runner=FakeRunner({"eager bf16": 40}))[0], 1)

    def test_a_damaged_file_is_named(self):
        self.out.parent.mkdir()
        self.out.write_text("{")
        self.assertIn("is not JSON", str(self.call("--torch-only")[0]))


if __name__ == "__main__":
    unittest.main()
