"""The exporters: reading and following a run, what each line becomes, and the real libraries where they are installed.

    python3 -m unittest discover tests/python
"""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import fake_runs  # noqa: E402

import export_tensorboard  # noqa: E402
import export_wandb  # noqa: E402
from plimsoll_report import exporting  # noqa: E402
from plimsoll_report.follow import LineFile, RunFollower, scalars  # noqa: E402


def lacks(package):
    return importlib.util.find_spec(package) is None


class FakeWriter:
    """Keeps what a reader of the export would see."""

    def __init__(self, starts_over=False):
        self.points, self.calls, self.starts_over = {}, [], starts_over

    def begin(self, settings, config_text):
        self.settings, self.config_text = settings, config_text

    def add(self, point):
        if self.points and point.step <= max(self.points):
            raise AssertionError(f"step {point.step} after {max(self.points)}")
        self.points[point.step] = point.values

    def rewind(self, step):
        self.calls.append(("rewind", step))
        self.points = {} if self.starts_over else {s: v for s, v in self.points.items() if s < step}
        return 0 if self.starts_over else step

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


class FollowCase(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        self.run_path = self.root / "run"
        self.run_path.mkdir()
        self.status("running")

    def status(self, status):
        fake_runs.write_json(self.run_path / "run.json", {"status": status, "params": 12, "variant": "softmax"})

    def append(self, name, *rows, end="\n"):
        with open(self.run_path / name, "a") as file:
            file.write("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + end)

    def train(self, *steps, loss=1.0):
        self.append("metrics.jsonl", *[{"step": step, "loss": loss, "seconds": 0.5 * step} for step in steps])

    def call(self, tool, *words):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = tool.main([str(word) for word in words])
        return code, said.getvalue()

    def replace(self, name, keep):
        """As plimsoll drops the lines past a checkpoint: a new file in the old one's place."""
        file = self.run_path / name
        lines = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= keep]
        (self.run_path / "new").write_text("".join(line + "\n" for line in lines))
        os.replace(self.run_path / "new", file)


class Lines(FollowCase):
    def setUp(self):
        super().setUp()
        self.file = LineFile(self.run_path / "metrics.jsonl")

    def steps(self):
        void, rows = self.file.poll()
        return void, [row["step"] for row in rows]

    def test_new_lines_once_each(self):
        self.assertEqual(self.file.read(), [])
        self.assertEqual(self.steps(), (None, []))
        self.train(1, 2)
        self.assertEqual(self.steps(), (None, [1, 2]))
        self.assertEqual(self.steps(), (None, []))
        self.train(3)
        self.assertEqual(self.steps(), (None, [3]))

    def test_a_half_written_line_waits_for_its_end(self):
        self.train(1)
        self.append("metrics.jsonl", '{"step": 2, "lo', end="")
        self.assertEqual([row["step"] for row in self.file.read()], [1])
        self.assertEqual(self.steps(), (None, []))
        self.append("metrics.jsonl", 'ss": 7.0}')
        self.assertEqual(self.file.poll(), (None, [{"step": 2, "loss": 7.0}]))
        self.assertEqual(self.file.bad, 0)

    def test_lines_dropped_by_a_resume(self):
        self.train(1, 2, 3, 4)
        self.file.read()
        self.replace("metrics.jsonl", 2)
        self.assertEqual(self.steps(), (3, []))

    def test_lines_dropped_and_written_again_past_where_they_were(self):
        self.train(1, 2, 3)
        self.file.read()
        self.replace("metrics.jsonl", 1)
        self.train(2, 3, 4, 5, loss=9.0)
        self.assertEqual(self.steps(), (2, []))
        self.assertEqual([(row["step"], row["loss"]) for row in self.file.read()],
                         [(1, 1.0), (2, 9.0), (3, 9.0), (4, 9.0), (5, 9.0)])
        self.assertEqual(self.steps(), (None, []))

    def test_a_new_file_of_which_only_the_end_is_the_same(self):
        self.train(1, 2, 3)
        self.file.read()
        file = self.run_path / "metrics.jsonl"
        (self.run_path / "new").write_text(file.read_text().replace("1.0", "8.0", 2))
        os.replace(self.run_path / "new", file)
        self.assertEqual(self.steps(), (1, []))

    def test_a_new_file_with_the_same_lines_is_no_change(self):
        self.train(1, 2)
        self.file.read()
        self.replace("metrics.jsonl", 2)
        self.train(3)
        self.assertEqual(self.steps(), (None, [3]))

    def test_a_file_that_goes_and_comes_back(self):
        self.train(1, 2)
        self.file.read()
        (self.run_path / "metrics.jsonl").unlink()
        self.assertEqual(self.steps(), (1, []))
        self.file.read()
        self.train(1)
        self.assertEqual(self.steps(), (None, [1]))

    def test_repeated_steps_in_one_file(self):
        self.train(1, 2, 3)
        self.train(2, loss=5.0)
        self.assertEqual([(row["step"], row["loss"]) for row in self.file.read()], [(1, 1.0), (2, 5.0)])
        self.train(3, 1)
        self.assertEqual(self.steps(), (1, []))

    def test_lines_that_are_no_rows(self):
        self.append("metrics.jsonl", "{", "[1]", '{"loss": 1}', '{"step": true}', '{"step": 1e999}', '{"step": -1}', "",
                    {"step": 1}, "[" * 100_000)
        with open(self.run_path / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 2, "a": "\xff"}\n')
        self.assertEqual([row["step"] for row in self.file.read()], [1])
        self.assertEqual(self.file.bad, 8)


class Mapping(unittest.TestCase):
    def test_training(self):
        row = {"step": 3, "loss": 1.5, "tokens": 7, "lr": None, "cad": {"before": 1.25}, "stage_ms": [[1, 2], [3]],
               "skipped": "a spike", "ok": True, "norm": float("inf")}
        self.assertEqual(scalars("train", row), {
            "train/loss": 1.5, "train/tokens": 7.0, "train/cad/before": 1.25, "train/stage_ms/0/0": 1.0,
            "train/stage_ms/0/1": 2.0, "train/stage_ms/1/0": 3.0, "train/skipped": 1.0})

    def test_evaluation(self):
        self.assertEqual(scalars("eval", {"step": 3, "loss": 1.5, "bigram_risk": None}), {"eval/loss": 1.5})

    def test_probes(self):
        row = {"step": 3, "tokens": 9, "per_head": {"drain_ratio": [[1.0, 2.0], [3.0, None]], "gate_mean": None},
               "per_layer": {"rms": [8.0, 1.0, 3.0], "max_abs": "odd"}}
        self.assertEqual(scalars("probe", row), {
            "probe/tokens": 9.0, "probe/drain_ratio/L0H0": 1.0, "probe/drain_ratio/L0H1": 2.0,
            "probe/drain_ratio/L1H0": 3.0, "probe/drain_ratio/mean": 2.0, "probe/rms/block0": 8.0,
            "probe/rms/block1": 1.0, "probe/rms/block2": 3.0, "probe/rms/mean": 2.0, "probe/rms/max": 3.0})
        self.assertEqual(scalars("probe", {"step": 1, "per_head": [1], "per_layer": {"rms": [[1]]}}), {})


class Following(FollowCase):
    def test_a_step_is_given_when_all_files_have_it(self):
        follower = RunFollower(self.run_path)
        self.append("evals.jsonl", {"step": 0, "loss": 4.0})
        self.assertEqual(follower.poll().points, [])  # a probe of step 0 may still come
        self.append("probes.jsonl", {"step": 0, "per_head": {"row_mass": [[1.0]]}})
        self.train(1)
        first = follower.poll().points
        self.assertEqual([point.step for point in first], [0])
        self.assertEqual(first[0].values, {"eval/loss": 4.0, "probe/row_mass/L0H0": 1.0, "probe/row_mass/mean": 1.0})
        self.train(2, 3)
        self.assertEqual([point.step for point in follower.poll().points], [1, 2])
        self.append("evals.jsonl", {"step": 3, "loss": 2.0})
        self.status("done")
        update = follower.poll()
        self.assertTrue(update.ended)
        self.assertEqual([(point.step, point.seconds) for point in update.points], [(3, 1.5)])
        self.assertEqual(update.points[0].values, {"train/loss": 1.0, "train/seconds": 1.5, "eval/loss": 2.0})

    def test_an_evaluation_read_ahead_of_its_training_line(self):
        follower = RunFollower(self.run_path)
        self.train(1)
        self.append("evals.jsonl", {"step": 5, "loss": 2.0})
        self.assertEqual(follower.poll().points, [])
        self.train(2, 3, 4, 5, 6)
        self.assertEqual([point.step for point in follower.poll().points], [1, 2, 3, 4, 5])

    def follow(self, events, starts_over=False):
        """Runs the loop; between two looks the next event happens, then Ctrl-C. -> the writer"""
        writer, said, rest = FakeWriter(starts_over), [], list(events)

        def wait(_):
            if not rest:
                raise KeyboardInterrupt
            rest.pop(0)()
        self.moved = exporting.export({"run": self.run_path}, lambda name, path: writer, True, 1, said.append, wait)
        self.said = " ".join(said)
        self.assertEqual((writer.calls[-1], writer.calls.count("close")), ("close", 1))
        return writer

    def resume(self):
        for name in ("metrics.jsonl", "evals.jsonl"):
            self.replace(name, 4)
        self.append("evals.jsonl", {"step": 5, "loss": 7.0})
        self.train(5, 6, loss=2.0)
        self.append("evals.jsonl", {"step": 6, "loss": 8.0})
        self.train(7, 8, 9, loss=2.0)

    def test_after_a_resume_no_step_stands_twice(self):
        for starts_over in (False, True):
            with self.subTest(starts_over=starts_over):
                for name in ("metrics.jsonl", "evals.jsonl"):
                    (self.run_path / name).unlink(missing_ok=True)
                self.status("running")
                self.append("evals.jsonl", {"step": 0, "loss": 4.0})
                self.train(*range(1, 8))
                self.append("evals.jsonl", {"step": 6, "loss": 3.0})
                writer = self.follow([self.resume, lambda: self.status("done")], starts_over)
                self.assertIn(("rewind", 5), writer.calls)
                self.assertIn("went back to step 5", self.said)
                self.assertEqual(sorted(writer.points), list(range(10)))
                self.assertEqual([writer.points[step]["train/loss"] for step in range(1, 10)], [1.0] * 4 + [2.0] * 5)
                self.assertEqual((writer.points[5]["eval/loss"], writer.points[6]["eval/loss"]), (7.0, 8.0))

    def test_a_resume_of_steps_not_given_yet_is_no_rewind(self):
        self.train(1, 2)

        def resume():
            self.replace("metrics.jsonl", 1)
            self.train(2, 3, loss=5.0)
        writer = self.follow([resume])
        self.assertNotIn("went back", self.said)
        self.assertEqual(writer.points[2]["train/loss"], 5.0)

    def test_ctrl_c_gives_the_last_step_and_closes(self):
        self.train(1, 2)
        writer = self.follow([])
        self.assertEqual((sorted(writer.points), self.moved), ([1, 2], 2))
        self.assertIn("stopped", self.said)

    def test_without_follow_everything_at_once(self):
        self.train(1, 2)
        self.append("metrics.jsonl", "odd")
        writer, said = FakeWriter(), []
        self.assertEqual(exporting.export({"run": self.run_path}, lambda name, path: writer, say=said.append), 2)
        self.assertEqual(sorted(writer.points), [1, 2])
        self.assertIn("1 lines that are no JSON object", said[0])

    def test_settings_have_types(self):
        (self.run_path / "config.toml").write_text('[a]\nx = 1  # why\ny = 1e-3\nz = true\nw = "text"\nl = [1, 2]\nn = -4\n')
        settings = RunFollower(self.run_path).settings()
        self.assertEqual(settings, {"a.x": 1, "a.y": 0.001, "a.z": True, "a.w": "text", "a.l": "[1, 2]", "a.n": -4,
                                    "info.params": 12, "info.variant": "softmax"})


class Commands(FollowCase):
    def test_which_directories_are_runs(self):
        other = self.root / "other/run"
        fake_runs.make_run(other, "softmax", steps=2)
        (self.root / "file").write_text("")
        (self.root / "report").mkdir()
        (self.root / "report/report.html").write_text("")
        (self.root / "empty").mkdir()
        said = []
        found, bad = exporting.run_directories(
            [self.run_path, other, self.run_path, self.root / "file", self.root / "report", self.root / "out",
             self.root / "empty"], self.root / "out", said.append)
        self.assertEqual(found, {"run": self.run_path.resolve(), "other_run": other.resolve()})
        self.assertEqual((bad, len(said)), (1, 1))
        self.assertIn("holds no run.json", said[0])

    def test_without_the_package(self):
        for tool, package in ((export_tensorboard, "tensorboard"), (export_wandb, "wandb")):
            with mock.patch.dict(sys.modules, {package: None}):
                code, said = self.call(tool, self.run_path, "--out", self.root / "out")
            self.assertEqual(code, 2, said)
            self.assertIn(f"pip install {package}", said)
            self.assertFalse((self.root / "out").exists())

    def test_nothing_to_export(self):
        def fail(*_):
            raise AssertionError("opened a writer")
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            self.assertEqual(exporting.main("tool", "", [str(self.root / "absent")], "out", "package", lambda out: fail), 1)
        self.assertIn("nothing was written", said.getvalue())
        with contextlib.redirect_stderr(said), self.assertRaises(SystemExit):
            exporting.parse("", ["run", "--interval", "0"], "out")


@unittest.skipIf(lacks("tensorboard"), "the Python package tensorboard is not installed")
class TensorBoard(FollowCase):
    def read(self, folder):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        return events

    def test_exported_twice_no_point_stands_twice(self):
        run = fake_runs.make_run(self.root / "fake", "softmax", layers=2, heads=2, steps=50)
        out = self.root / "out"
        (out / "fake").mkdir(parents=True)
        foreign = out / "fake/events.out.tfevents.1.other"
        foreign.write_bytes(b"")
        for _ in range(2):
            code, said = self.call(export_tensorboard, run, "--out", out)
            self.assertEqual(code, 0, said)
        self.assertTrue(foreign.exists())
        events = self.read(out / "fake")
        self.assertEqual([event.step for event in events.Scalars("train/loss")], list(range(1, 51)))
        self.assertEqual([event.step for event in events.Scalars("eval/loss")], [0, 50])
        probes = [json.loads(line) for line in (run / "probes.jsonl").read_text().splitlines()]
        self.assertEqual([event.step for event in events.Scalars("probe/drain_ratio/L1H0")], [row["step"] for row in probes])
        self.assertAlmostEqual(events.Scalars("probe/drain_ratio/L1H0")[-1].value,
                               probes[-1]["per_head"]["drain_ratio"][1][0], places=6)
        text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
        self.assertIn("[optimizer]", text)
        self.assertIn("_hparams_/session_start_info", events.Tags()["tensors"])

    def test_a_resume_while_it_is_followed(self):
        self.train(*range(1, 8))
        self.append("evals.jsonl", {"step": 0, "loss": 4.0}, {"step": 6, "loss": 3.0})
        rest = [lambda: Following.resume(self), lambda: self.status("done")]
        exporting.export({"run": self.run_path}, export_tensorboard.open_writers(self.root / "out"), True, 1,
                         lambda text: None, lambda _: rest.pop(0)())
        events = self.read(self.root / "out/run")
        self.assertEqual([(e.step, e.value) for e in events.Scalars("train/loss")],
                         [(step, 1.0 if step < 5 else 2.0) for step in range(1, 10)])
        self.assertEqual([(e.step, e.value) for e in events.Scalars("eval/loss")], [(0, 4.0), (5, 7.0), (6, 8.0)])


@unittest.skipIf(lacks("wandb"), "the Python package wandb is not installed")
class Wandb(FollowCase):
    def history(self, file):
        """-> [{key: value}] of an offline run: records in LevelDB's log format after a header of 7 bytes."""
        from wandb.proto import wandb_internal_pb2
        data, place, parts, rows = file.read_bytes(), 7, b"", []
        while place + 7 <= len(data):
            if 0x8000 - place % 0x8000 < 7:
                place += 0x8000 - place % 0x8000
                continue
            length, kind = int.from_bytes(data[place + 4:place + 6], "little"), data[place + 6]
            parts = (b"" if kind in (1, 2) else parts) + data[place + 7:place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(parts)
                if record.WhichOneof("record_type") == "history":
                    rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json)
                                 for item in record.history.item})
        return rows

    def offline(self, out):
        import wandb
        wandb.teardown()  # as the end of the process: finish() of an id's second run does not wait for the disk
        found = list(out.glob("wandb/offline-run-*/run-*.wandb"))
        self.assertEqual(len(found), 1)
        return self.history(found[0])

    def test_exported_twice_there_is_one_offline_run(self):
        run = fake_runs.make_run(self.root / "fake", "softmax", steps=50)
        for _ in range(2):
            code, said = self.call(export_wandb, run, "--out", self.root / "out")
            self.assertEqual(code, 0, said)
        rows = self.offline(self.root / "out")
        self.assertEqual([row["_step"] for row in rows], list(range(51)))
        self.assertIn("probe/drain_ratio/L0H0", rows[0])
        self.assertIn("eval/loss", rows[50])

    def test_a_resume_while_it_is_followed(self):
        self.train(*range(1, 8))
        rest = [lambda: (self.append("evals.jsonl", {"step": 0, "loss": 4.0}), Following.resume(self)),
                lambda: self.status("done")]
        exporting.export({"run": self.run_path}, export_wandb.open_writers(self.root / "out"), True, 1,
                         lambda text: None, lambda _: rest.pop(0)())
        rows = self.offline(self.root / "out")
        self.assertEqual([row["_step"] for row in rows], list(range(10)))
        self.assertEqual([row.get("train/loss") for row in rows], [None] + [1.0] * 4 + [2.0] * 5)


class Process(FollowCase):
    def test_half_a_command_line(self):
        for script in ("export_tensorboard.py", "export_wandb.py"):
            done = subprocess.run([sys.executable, str(SCRIPTS / script)], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("RUN", done.stderr)


if __name__ == "__main__":
    unittest.main()
