#!/usr/bin/env python3
"""Writes runs as offline runs of Weights & Biases: all of metrics.jsonl, evals.jsonl and probes.jsonl, one step at a
time, and the configuration. Nothing is sent: `wandb sync DIR/wandb/offline-run-*` does that. Again writes them anew.

    scripts/export_wandb.py runs/quickstart/* --out runs/quickstart/wandb-export
    scripts/export_wandb.py runs/mine --follow              # while it trains; needs the Python package wandb
"""

import hashlib
import os
import shutil
import sys

from plimsoll_report.exporting import main as export_main


class WandbWriter:
    def __init__(self, wandb, out, name, path):
        self.wandb, self.out, self.name, self.group = wandb, out, name, path.parent.name
        # The same run has the same id each time, so that a later sync replaces and does not add.
        self.id = f"plimsoll-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        self.run = None
        out.mkdir(parents=True, exist_ok=True)

    def begin(self, settings, config_text):
        self.settings, self.config_text = settings, config_text
        for folder in (self.out / "wandb").glob(f"offline-run-*-{self.id}"):
            shutil.rmtree(folder)
        self.run = self.wandb.init(
            mode="offline", dir=str(self.out), project="plimsoll", name=self.name, id=self.id, group=self.group,
            config=settings, reinit="create_new",
            settings=self.wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True,
                                         disable_git=True, save_code=False))
        self.run.summary["config_toml"] = config_text

    def add(self, point):
        self.run.log(point.values, step=point.step)

    def rewind(self, step):
        """Its steps only ascend: the offline run is written again from the start."""
        self.run.finish()
        self.begin(self.settings, self.config_text)
        return 0

    def flush(self):
        """wandb writes by itself."""

    def close(self):
        if self.run:
            self.run.finish()


def open_writers(out):
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    return lambda name, path: WandbWriter(wandb, out, name, path)


def main(argv=None):
    return export_main("export_wandb", "Write runs as offline runs of Weights & Biases.", argv, "wandb-export", "wandb",
                       open_writers)


if __name__ == "__main__":
    sys.exit(main())
