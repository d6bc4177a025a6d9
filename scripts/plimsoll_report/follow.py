"""Follows the JSON-lines files of a run while it goes on, and turns their lines into named numbers. No packages needed.

A run appends whole lines. A resume, and a roll-back, replace a file by one without the lines past the checkpoint, and
write those steps again; --fresh deletes the files. The last line may be half written at any moment.
"""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from .config_file import parse_config

# metrics.jsonl first: once it holds a step, the other files hold all they ever will of the steps before.
FILES = {"metrics.jsonl": "train", "evals.jsonl": "eval", "probes.jsonl": "probe"}
ENDED = ("done", "stopped")


class LineFile:
    """One file. read() gives all there is, poll() what came since."""

    def __init__(self, path):
        self.path = Path(path)
        self.bad = 0  # whole lines that are no JSON object with a step
        self._forget()

    def _forget(self):
        self._seen = []  # (hash, step) of every line read, step None for a bad one
        self._offset = self._inode = self._last_line = None

    def read(self):
        """-> rows in the order of their steps. Where a step comes again, what stood from it on is void."""
        self._forget()
        self.bad = 0
        rows = []
        for row in self._take(self._load()):
            while rows and rows[-1]["step"] >= row["step"]:
                rows.pop()
            rows.append(row)
        return rows

    def poll(self):
        """-> (step from which on earlier rows are void or None, new rows); after a step the rows must be read again."""
        lines = self._load(self._offset) if self._offset else None
        if lines is None:
            lines, old = self._load(), self._seen
            hashes = [hash(line) for line in lines]
            same = next((i for i, (seen, new) in enumerate(zip(old, hashes)) if seen[0] != new),
                        min(len(old), len(hashes)))
            void = [step for _, step in old[same:] if step is not None]
            if void:
                return min(void), []
            self._seen = old[:same]
            lines = lines[same:]
        last = next((step for _, step in reversed(self._seen) if step is not None), -1)
        rows = self._take(lines)
        steps = [last] + [row["step"] for row in rows]
        again = [step for before, step in zip(steps, steps[1:]) if step <= before]
        return (min(again), []) if again else (None, rows)

    def _load(self, offset=0):
        """Whole lines from an offset on; None if what was read before it no longer stands there."""
        try:
            with open(self.path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if offset:
                    file.seek(offset - len(self._last_line))
                    if inode != self._inode or file.read(len(self._last_line)) != self._last_line:
                        return None
                data = file.read()
        except OSError:
            data, inode = b"", None
            if offset:
                return None
        whole = data[:data.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        if lines:
            self._last_line, self._offset, self._inode = lines[-1], offset + len(whole), inode
        elif not offset:
            self._offset = None
        return lines

    def _take(self, lines):
        rows = []
        for line in lines:
            row = _row(line)
            self._seen.append((hash(line), row["step"] if row else None))
            self.bad += row is None and bool(line.strip())
            if row:
                rows.append(row)
        return rows


def _row(line):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 <= step < 2 ** 62:
        return None
    return {**row, "step": int(step)}


@dataclass
class Point:
    step: int
    seconds: float | None = None  # of training, where a line says so
    values: dict = field(default_factory=dict)  # tag -> number


@dataclass
class Update:
    points: list = field(default_factory=list)  # steps ascend, and never repeat without a rewind
    rewind: int | None = None  # what was given from this step on is void: call restart() with a step
    ended: bool = False


class RunFollower:
    """Points of a run, each complete: a step is given when no file can add to it any more."""

    def __init__(self, path):
        self.path = Path(path)
        self.files = {name: LineFile(self.path / name) for name in FILES}
        self.restart(0)

    @property
    def bad_lines(self):
        return sum(file.bad for file in self.files.values())

    def restart(self, step):
        """Goes on from this step, reading everything again."""
        self._pending, self._given, self._trained = {}, step - 1, -1
        for name, file in self.files.items():
            self._add(name, file.read())

    def poll(self, all_of_it=False):
        """-> Update. `all_of_it`: the last step too, although a file might still add to it."""
        ended = self.info().get("status") in ENDED  # before the lines: a run ends after its last one
        void = []
        for name, file in self.files.items():
            step, rows = file.poll()
            void += [step] if step is not None else []
            self._add(name, rows)
        if void:
            if min(void) <= self._given:
                return Update(rewind=min(void))
            self.restart(self._given + 1)
        complete = sorted(step for step in self._pending if all_of_it or ended or step < self._trained)
        points = [self._pending.pop(step) for step in complete]
        if points:
            self._given = points[-1].step
        return Update(points=points, ended=ended)

    def _add(self, name, rows):
        for row in rows:
            if FILES[name] == "train":
                self._trained = max(self._trained, row["step"])
            if row["step"] > self._given:
                point = self._pending.setdefault(row["step"], Point(row["step"]))
                point.values.update(scalars(FILES[name], row))
                if isinstance(row.get("seconds"), (int, float)):
                    point.seconds = float(row["seconds"])

    def info(self):
        """run.json, {} where it cannot be read: it is replaced as a whole, so this passes."""
        try:
            info = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return info if isinstance(info, dict) else {}

    def config_text(self):
        try:
            return (self.path / "config.toml").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def settings(self):
        """Every setting, and what run.json says about the run, as one flat dictionary."""
        info = {f"info.{key}": value for key, value in self.info().items()
                if isinstance(value, (str, int, float, bool)) and key not in ("status", "command")}
        return {**{key: _typed(value) for key, value in parse_config(self.config_text()).items()}, **info}


def _typed(text):
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if not text.lstrip("-").isdigit() else int(text)
    except ValueError:
        return text


def scalars(kind, row):
    """-> {tag: number} of one line: 'train/loss', 'train/cad/before', 'probe/drain_ratio/L0H1', 'probe/rms/block2'.

    Layers and heads count from 0; of a metric per layer, block 0 is the state after the embedding. With 'mean' over
    layers and heads, for a metric per layer over the blocks after the embedding, and 'max' over those.
    """
    found = {}
    for key, value in row.items():
        if kind == "probe" and key == "per_head":
            _add_heads(found, value)
        elif kind == "probe" and key == "per_layer":
            _add_layers(found, value)
        elif key == "skipped":  # why a step was not updated
            found[f"{kind}/skipped"] = 1.0
        elif key != "step":
            _flatten(found, f"{kind}/{key}", value)
    return found


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _flatten(found, tag, value):
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(found, f"{tag}/{key}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _flatten(found, f"{tag}/{place}", item)
    elif _number(value) is not None:
        found[tag] = _number(value)


def _add_heads(found, metrics):
    for key, layers in metrics.items() if isinstance(metrics, dict) else ():
        if not isinstance(layers, list):
            continue
        values = {f"L{layer}H{head}": _number(value) for layer, heads in enumerate(layers)
                  for head, value in enumerate(heads if isinstance(heads, list) else ())}
        _add_summary(found, key, values, values, ("mean",))


def _add_layers(found, metrics):
    for key, blocks in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(blocks, list):
            values = {f"block{block}": _number(value) for block, value in enumerate(blocks)}
            after = {name: value for name, value in values.items() if name != "block0"}
            _add_summary(found, key, values, after, ("mean", "max"))


def _add_summary(found, key, values, summarized, kinds):
    found.update({f"probe/{key}/{name}": value for name, value in values.items() if value is not None})
    known = [value for value in summarized.values() if value is not None]
    if known:
        found.update({f"probe/{key}/{kind}": max(known) if kind == "max" else math.fsum(known) / len(known)
                      for kind in kinds})
