#!/usr/bin/env python3
"""Writes runs as TensorBoard event files: all of metrics.jsonl, evals.jsonl and probes.jsonl, the configuration as text
and hyperparameters. Again writes them anew, without repeating a point.

    scripts/export_tensorboard.py runs/quickstart/* --out runs/quickstart/tensorboard
    scripts/export_tensorboard.py runs/mine --follow        # while it trains; needs the Python package tensorboard
"""

import sys

from plimsoll_report.exporting import main as export_main

SUFFIX = ".plimsoll"  # of the event files that this script may delete
CURVES = ("eval/loss", "train/loss", "eval/bigram_risk", "eval/copy_risk", "probe/first_mass_effective/mean",
          "probe/sink_rate/mean")  # columns of the table of hyperparameters


class TensorBoardWriter:
    def __init__(self, folder, started):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams import summary_v2 as hparams
        from tensorboard.plugins.text import metadata as text
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from tensorboard.util import tensor_util
        self.event, self.summary, self.hparams, self.text, self.tensors = (
            event_pb2, summary_pb2.Summary, hparams, text, tensor_util)
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            file.unlink()
        self.started, self.clock = started, 0.0
        self.file = EventFileWriter(str(folder), filename_suffix=SUFFIX)

    def begin(self, settings, config_text):
        value = self.summary.Value(tag="config/text_summary", metadata=self.text.create_summary_metadata("config", ""),
                                   tensor=self.tensors.make_tensor_proto([f"```toml\n{config_text}\n```"]))
        self._write(0, self.summary(value=[value]))
        self._write(0, self.hparams.hparams_config_pb(
            hparams=[self.hparams.HParam(key) for key in settings],
            metrics=[self.hparams.Metric(tag) for tag in CURVES]))
        self._write(0, self.hparams.hparams_pb(settings, trial_id="run", start_time_secs=self.started))

    def _write(self, step, summary):
        self.file.add_event(self.event.Event(step=step, wall_time=self.started + self.clock, summary=summary))

    def add(self, point):
        self.clock = point.seconds if point.seconds is not None else self.clock
        self._write(point.step, self.summary(value=[self.summary.Value(tag=tag, simple_value=value)
                                                    for tag, value in point.values.items()]))

    def rewind(self, step):
        """As tf.summary does after a restart: readers forget what they have from this step on."""
        log = self.event.SessionLog(status=self.event.SessionLog.START)
        self.file.add_event(self.event.Event(step=step, wall_time=self.started + self.clock, session_log=log))
        return step

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


def open_writers(out):
    import tensorboard  # noqa: F401

    def open_writer(name, path):
        config = path / "config.toml"
        return TensorBoardWriter(out / name, (config if config.exists() else path).stat().st_mtime)
    return open_writer


def main(argv=None):
    return export_main("export_tensorboard", "Write runs as TensorBoard event files.", argv, "tensorboard", "tensorboard",
                       open_writers)


if __name__ == "__main__":
    sys.exit(main())
