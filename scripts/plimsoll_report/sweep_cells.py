"""Reads the directory of a sweep: its cells, how far each is, and every try. Nothing that was planned is left out.

A sweep's directory holds one run directory per cell, CELL.txt with what a cell printed, sweep.jsonl (the plan, begins
and ends) and, where the trainer wrote one, ledger.jsonl (one line per process that ended).
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from .runs import UnusableRun, read_run

DONE, FAILED, INTERRUPTED, UNREADABLE, MISSING = "done", "failed", "interrupted", "unreadable", "missing"
# Exit statuses after which the same command goes on: a passing fault, and saved on a signal.
_GOES_ON = (75, 85)
RATE, SEED = "optimizer.lr", "run.seed"


@dataclass
class Cell:
    name: str
    state: str = MISSING
    variant: str | None = None
    settings: dict = field(default_factory=dict)  # "section.key" -> text: config.toml, else what the sweep sets
    exit_code: int | None = None  # of the last process
    tries: int = 0
    planned: bool = True
    note: str = ""
    run: object = None  # Run, where it can be read

    @property
    def rate(self):
        return value_of(self.settings.get(RATE))

    @property
    def seed(self):
        if self.run is not None and self.run.info.get("seed") is not None:
            return self.run.info["seed"]
        seed = value_of(self.settings.get(SEED))
        return int(seed) if isinstance(seed, float) else None


@dataclass
class SweepDirectory:
    path: Path
    cells: list
    has_plan: bool
    set_keys: list  # keys that the plan sets, run.* left out; [] without a plan
    tries: list  # lines of ledger.jsonl, else the ends in sweep.jsonl
    tries_source: str
    messages: list


def is_sweep(path):
    """A directory of runs, not a run."""
    path = Path(path)
    return (path / "sweep.jsonl").is_file() and not (path / "run.json").exists()


def value_of(text):
    """'1e-3' and '0.001' are one number, and so is a list of it alone, as a value per layer is written."""
    try:
        return float(re.sub(r"^\[([^,]*)\]$", r"\1", text))
    except (TypeError, ValueError):
        return text


def read_sweep(path):
    """-> SweepDirectory. Throws UnusableRun if the directory holds no cell."""
    path = Path(path)
    if not path.is_dir():
        raise UnusableRun(f"sweep '{path}': no such directory")
    messages = []
    events = _lines(path / "sweep.jsonl", messages)
    cells, plan = _planned(events)
    for event in events:
        if event.get("event") in ("begin", "end") and isinstance(event.get("cell"), str):
            cell = cells.setdefault(event["cell"], Cell(event["cell"], planned=not plan))
            cell.state = INTERRUPTED
            cell.tries += event["event"] == "begin"
            cell.exit_code = event.get("status") if event["event"] == "end" else None
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and any((folder / name).exists() for name in ("run.json", "config.toml", "checkpoints")):
            cells.setdefault(folder.name, Cell(folder.name, planned=not plan)).state = INTERRUPTED
    if not cells:
        raise UnusableRun(f"sweep '{path}': no run directory and no sweep.jsonl with cells in it; is this the "
                          "sweep's directory (sweep.dir, by default runs/NAME)?")
    for cell in cells.values():
        _read_cell(path, cell, messages)
    if not plan:
        _add_gaps(cells)
    tries = _lines(path / "ledger.jsonl", messages) if (path / "ledger.jsonl").exists() else None
    source = "ledger.jsonl"
    if tries is None:
        source = "sweep.jsonl"
        tries = [{"time": e.get("time"), "run": e.get("cell"), "exit_code": e.get("status")} for e in events
                 if e.get("event") == "end"]
    keys = sorted({key for entry in plan for key in _settings(entry) if not key.startswith("run.")})
    return SweepDirectory(path, list(cells.values()), bool(plan), keys, tries, source, messages)


def _lines(file, messages):
    """Objects of a JSON-lines file; a line that is none is named and left out."""
    if not file.exists():
        messages.append(f"sweep '{file.parent.name}': {file.name} is missing")
        return []
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            found.append(entry)
        elif line.strip():
            messages.append(f"sweep '{file.parent.name}': {file.name}:{number} is no JSON object; skipped")
    return found


def _planned(events):
    """-> ({name: Cell}, entries) of the last plan: a sweep's file may have changed between two starts."""
    plans = [event["cells"] for event in events if event.get("event") == "plan" and isinstance(event.get("cells"), list)]
    entries = [entry for entry in (plans[-1] if plans else []) if isinstance(entry, dict) and entry.get("name")]
    cells = {}
    for entry in entries:
        variant = Path(str(entry.get("variant") or "")).stem or None
        cells[entry["name"]] = Cell(entry["name"], variant=variant, settings=_settings(entry))
    return cells, entries


def _settings(entry):
    pairs = (str(setting).split("=", 1) for setting in entry.get("settings") or ())
    return {pair[0]: pair[1].strip("'\"") for pair in pairs if len(pair) == 2}


def _read_cell(path, cell, messages):
    if (path / cell.name).is_dir():
        try:
            cell.run = read_run(path / cell.name)
        except UnusableRun as error:
            cell.note = str(error).split(": ", 1)[-1]
    if cell.run is not None:
        cell.variant = cell.run.variant
        cell.settings = {**cell.settings, **cell.run.config}
        wanted = cell.run.info.get("max_steps")
        finished = cell.run.info.get("status") == "done" and (wanted is None or cell.run.last_step >= wanted)
        cell.state = DONE if finished else INTERRUPTED
        if not finished:
            cell.note = f"step {cell.run.last_step}" + (f" of {wanted}" if wanted is not None else "")
        messages += [text for text in cell.run.messages if "status is '" not in text]  # the table says so
    if cell.state != DONE and cell.exit_code not in (None, 0, *_GOES_ON):
        cell.state = FAILED
        cell.note = "; ".join(filter(None, [f"exit status {cell.exit_code}", cell.note, _last_words(path, cell)]))
    elif cell.state == INTERRUPTED and cell.run is None and cell.exit_code == 0:
        cell.state = UNREADABLE
    elif cell.state == INTERRUPTED and cell.tries and cell.exit_code is None:
        cell.note = "; ".join(filter(None, [cell.note, "began, no end recorded: under way or killed"]))
    if not cell.planned:
        cell.note = "; ".join(filter(None, [cell.note, "not in the sweep's plan"]))


def _last_words(path, cell):
    """The last line a failed cell printed."""
    try:
        lines = (path / f"{cell.name}.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f"said: {said[-1][:200]}" if said else ""


def _add_gaps(cells):
    """Without a plan: a seed that ran with some setting is expected with every setting."""
    seeds = sorted({cell.seed for cell in cells.values() if cell.seed is not None})
    by_setting = {}
    for cell in cells.values():
        if cell.seed is not None:
            by_setting.setdefault(re.sub(rf"-?seed{cell.seed}$", "", cell.name), []).append(cell)
    for base, same in by_setting.items():
        for seed in seeds if all(cell.name.endswith(f"seed{cell.seed}") for cell in same) else ():
            name = f"{base}-seed{seed}" if base else f"seed{seed}"
            if name not in cells:
                settings = {**same[0].settings, SEED: str(seed)}
                cells[name] = Cell(name, variant=same[0].variant, settings=settings,
                                   note="no trace of it; expected because this seed ran with other settings")
