"""Reads a run directory. Whatever is missing becomes a message that names the run and the file, never an exception
for the reader to decode: without run.json or without any numbers a run is unusable, everything else is optional."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from .config_file import parse_config
from .metrics import PER_HEAD, PER_LAYER


class UnusableRun(Exception):
    """A run directory that cannot appear in the report; the text names the run and the file."""


# run.json: key -> (type, wanted). A wanted key that is missing is reported once.
_INFO = {
    "name": (str, False), "variant": (str, True), "command": (str, False), "commit": (str, False),
    "build": (dict, False), "cpu": (str, False), "threads": (int, False), "precision": (str, False),
    "seed": (int, True), "data_hash": (str, False), "params": (int, True), "params_non_embedding": (int, False),
    "flops_per_token": (float, False), "qk_norm": (bool, False), "placeholders": (int, False), "steps": (int, True),
    "tokens_per_second": (float, True), "ms_per_step": (float, False), "seconds": (float, True),
    "status": (str, False), "oracle": (dict, False), "max_steps": (int, False), "vocab": (list, False), "layers": (int, True),
    "heads": (int, True),
}


WAYS = ("forward", "backward")
CAD = tuple("cad." + key for key in ("before", "after", "planned_bytes", "most_bytes", "sent_bytes", "exposed_ms",
                                     "plan_ms"))


@dataclass
class Run:
    path: Path
    info: dict
    config: dict  # "section.key" -> text of the value
    config_text: str
    metrics: pd.DataFrame  # step, loss, norm, lr, tokens, seconds, cad.before, ... (NaN without plans)
    evals: pd.DataFrame  # step, tokens, seconds, loss, scored, bigram_risk, copy_risk
    heads: pd.DataFrame  # step, metric, layer, head, value
    layers: pd.DataFrame  # step, metric, layer, value
    maps: dict | None
    cad: list = field(default_factory=list)  # lines of cad.jsonl, in the order of their steps
    messages: list = field(default_factory=list)

    @property
    def name(self):
        return self.info.get("name") or self.path.name

    @property
    def variant(self):
        return self.info["variant"]

    @property
    def oracle(self):
        oracle = self.info.get("oracle") or {}
        return {key: _number(oracle.get(key)) for key in ("bigram_risk", "copy_risk")} if oracle else None

    @property
    def last_step(self):
        ends = [frame["step"].max() for frame in (self.metrics, self.evals, self.heads) if len(frame)]
        return int(max(ends)) if ends else 0

    @property
    def probe_step(self):
        return int(self.heads["step"].max()) if len(self.heads) else None


def _number(value):
    """A finite float or None. JSON has no NaN: the writer stores null for one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def read_run(path):
    path = Path(path)
    if not path.is_dir():
        raise UnusableRun(f"run '{path}': no such directory")
    messages = []

    def note(text):
        messages.append(f"run '{path.name}': {text}")

    info = _read_info(path, note)
    metrics = _read_rows(path, "metrics.jsonl", ("step", "loss", "norm", "lr", "tokens", "seconds") + CAD, ("loss",),
                         note)
    evals = _read_rows(path, "evals.jsonl", ("step", "tokens", "seconds", "loss", "scored", "bigram_risk", "copy_risk"),
                       ("loss",), note)
    heads, layers = _read_probes(path, info, note)
    if not len(metrics) and not len(evals) and not len(heads):
        raise UnusableRun(f"run '{path.name}': metrics.jsonl, evals.jsonl and probes.jsonl hold no step; "
                          "has the run started?")
    config, text = _read_config(path, note)
    run = Run(path=path, info=info, config=config, config_text=text, metrics=metrics, evals=evals, heads=heads,
              layers=layers, maps=_read_maps(path, note), cad=_read_cad(path, note), messages=messages)
    wanted = info.get("max_steps") or info.get("steps")
    if info.get("status") not in (None, "done"):
        note(f"status is '{info['status']}' at step {run.last_step} of {wanted if wanted is not None else 'unknown'}; "
             "the figures show what there is")
    if run.probe_step is not None and run.probe_step < run.last_step:
        note(f"the last probe is of step {run.probe_step}, the last step is {run.last_step}")
    return run


def _read_json(path, name):
    try:
        return json.loads((path / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UnusableRun(f"run '{path.name}': {name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UnusableRun(f"run '{path.name}': {name} is not valid JSON: {error}") from None


def _read_info(path, note):
    if not (path / "run.json").exists():
        raise UnusableRun(f"run '{path.name}': run.json is missing; is '{path}' a run directory?")
    raw = _read_json(path, "run.json")
    if not isinstance(raw, dict):
        raise UnusableRun(f"run '{path.name}': run.json holds a {type(raw).__name__}, not an object")
    info = dict(raw)
    missing = []
    for key, (kind, wanted) in _INFO.items():
        value = raw.get(key)
        if value is None:
            info[key] = None
            if wanted:
                missing.append(key)
            continue
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int)) \
            or (kind is int and isinstance(value, float) and value == int(value))
        if not fits or (isinstance(value, bool) and kind is not bool):
            note(f"run.json: '{key}' is {json.dumps(value)[:60]}, wanted {kind.__name__}; ignored")
            info[key] = None
        elif kind is int:
            info[key] = int(value)
    if missing:
        note("run.json has no " + ", ".join(f"'{key}'" for key in missing))
    if not info["variant"]:
        info["variant"] = path.name
    return info


def _json_lines(path, name, note):
    """(line number, object) of every readable line. A process that was killed leaves half a last line: skipped."""
    file = path / name
    if not file.exists():
        note(f"{name} is missing")
        return
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        note(f"{name} cannot be read: {error.strerror}")
        return
    lines = text.splitlines()
    if not any(line.strip() for line in lines):
        note(f"{name} is empty")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            note(f"{name}:{number} is not valid JSON" + (" (cut short?)" if number == len(lines) else "") + "; skipped")
            continue
        if not isinstance(row, dict) or _number(row.get("step")) is None:
            note(f"{name}:{number} has no 'step'; skipped")
            continue
        yield number, row


def _latest(rows):
    """After a resume steps repeat; the later line wins. -> rows in the order of their steps."""
    by_step = {int(row["step"]): row for row in rows}
    return [by_step[step] for step in sorted(by_step)]


def _read_rows(path, name, columns, wanted, note):
    rows = _latest(row for _, row in _json_lines(path, name, note))
    for column in wanted:
        absent = sum(1 for row in rows if _number(row.get(column)) is None)
        if absent:
            note(f"{name}: '{column}' is missing or not finite in {absent} of {len(rows)} lines")
    values = {column: [_number(_inner(row, column)) for row in rows] for column in columns}
    frame = pd.DataFrame(values, columns=list(columns), dtype="float64")
    frame["step"] = frame["step"].astype("int64")
    return frame


def _inner(row, column):
    """'cad.before' is row["cad"]["before"]."""
    for key in column.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    return row


def _read_cad(path, note):
    if not (path / "cad.jsonl").exists():
        return []
    samples = []
    for sample in _latest(row for _, row in _json_lines(path, "cad.jsonl", note)):
        try:
            for way in WAYS:
                _check_plan(sample[way], sample["ranks"])
            samples.append(sample)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            note(f"cad.jsonl: step {sample['step']}: {reason}; not shown")
    return samples


def _check_plan(plan, ranks):
    for key in ("loads_before", "loads", "sent", "received"):
        if len(plan[key]) != ranks or not all(_number(value) is not None for value in plan[key]):
            raise ValueError(f"'{key}' is not a number for each of {ranks} ranks")
    owners = [home for _, home, _, _, _ in plan["segments"]]
    servers = [server for segment, server, _, _, _ in plan["tasks"] if 0 <= segment < len(owners)]
    if len(servers) != len(plan["tasks"]) or not all(0 <= rank < ranks for rank in owners + servers):
        raise ValueError("a task or a segment is of no rank")
    for rank, _, _, phase, begin, end in plan.get("timeline", ()):
        if not 0 <= rank < ranks or _number(begin) is None or _number(end) is None or not isinstance(phase, str):
            raise ValueError("the timeline is not rank, lane, layer, phase, begin, end")


def _read_probes(path, info, note):
    head_rows, layer_rows, unknown, ragged = [], [], set(), set()
    for row in _latest(row for _, row in _json_lines(path, "probes.jsonl", note)):
        step = int(row["step"])
        for group, known in (("per_head", PER_HEAD), ("per_layer", PER_LAYER)):
            metrics = row.get(group)
            if not isinstance(metrics, dict):
                if metrics is not None:
                    ragged.add(group)
                continue
            for key, value in metrics.items():
                if key not in known:
                    unknown.add(key)
                elif value is None:
                    continue
                elif not isinstance(value, list):
                    ragged.add(key)
                elif group == "per_layer":
                    layer_rows += [(step, key, layer, _number(x)) for layer, x in enumerate(value)
                                   if _number(x) is not None]
                elif not all(isinstance(heads, list) or heads is None for heads in value):
                    ragged.add(key)
                else:
                    head_rows += [(step, key, layer, head, _number(x)) for layer, heads in enumerate(value)
                                  for head, x in enumerate(heads or ()) if _number(x) is not None]
    if unknown:
        note("probes.jsonl: unknown metric " + ", ".join(sorted(unknown)) + "; not shown")
    if ragged:
        note("probes.jsonl: not an array per layer (and head): " + ", ".join(sorted(ragged)) + "; not shown")
    heads = pd.DataFrame(head_rows, columns=["step", "metric", "layer", "head", "value"])
    layers = pd.DataFrame(layer_rows, columns=["step", "metric", "layer", "value"])
    for key, column in (("layers", "layer"), ("heads", "head")):
        seen = int(heads[column].max()) + 1 if len(heads) else 0
        if info.get(key) is None and seen:
            info[key] = seen
        elif seen and seen != info[key]:
            note(f"probes.jsonl holds {seen} {key}, run.json says {info[key]}")
    return heads, layers


def _read_config(path, note):
    try:
        text = (path / "config.toml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        note("config.toml is missing or cannot be read")
        return {}, ""
    return parse_config(text), text


def _read_maps(path, note):
    if not (path / "attention_maps.json").exists():
        return None
    try:
        maps = _read_json(path, "attention_maps.json")
    except UnusableRun as error:
        note(str(error).split(": ", 1)[1])
        return None
    try:
        layers = maps["maps"]
        sides = {(len(head), len(row)) for heads in layers for head in heads for row in head}
        if not sides or len({a for a, _ in sides}) != 1:
            raise ValueError("the maps are empty or differ in size")
        if any(b > a for a, b in sides):
            raise ValueError("a map has more keys than queries")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        note(f"attention_maps.json is not maps[layer][head][query][key]: {reason}; not shown")
        return None
    return maps
