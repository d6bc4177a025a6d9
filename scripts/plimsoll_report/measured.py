"""What a sweep of configs/findings measured: a small dictionary per cell, which a summary.json under
configs/findings/results keeps when the runs are gone. Verdicts are made of these numbers alone."""

import json
import math
from pathlib import Path

from .summary import summarize_run
from .sweep_cells import DONE, read_sweep, value_of

# Of the last evaluation and the last probe; means over layers and heads.
_FINAL = ("loss", "bigram_risk", "copy_risk", "sink_rate", "first_mass_raw", "first_mass_normalized",
          "first_mass_effective", "placeholder_mass_normalized", "placeholder_mass_effective", "row_mass", "drain_ratio",
          "residual_peak_ratio", "massive_ratio", "max_abs", "gate_mean")
TITLES = {
    "loss": "validation loss", "bigram_risk": "bigram risk", "copy_risk": "back-copy risk", "sink_rate": "sink rate, percent",
    "first_mass_raw": "first-token mass, raw", "first_mass_normalized": "first-token mass, row-normalised",
    "first_mass_effective": "first-token mass, effective", "top_first_mass": "first-token mass of the strongest head",
    "placeholder_mass_normalized": "placeholder mass, row-normalised",
    "placeholder_mass_effective": "placeholder mass, effective", "row_mass": "row mass",
    "column_mass": "mass on the added column (1 - row mass)", "drain_ratio": "value drain",
    "residual_peak_ratio": "residual peak, ratio", "massive_ratio": "massive activation ratio",
    "max_abs": "largest activation", "kurtosis": "excess kurtosis of h_<s>, largest of any block", "gate_mean": "mean gate",
    "residual_first_block": "|h_<s>| after block 0", "residual_growth": "|h_<s>| after block 0, end over half of the steps",
    "step_bigram": "step at which 90 % of the bigram risk's fall is done",
    "step_copy": "step at which 90 % of the back-copy risk's fall is done",
    "copy_fall": "factor in steps from a back-copy risk of 2 nats to one of 0.4",
    "step_sink": "step at which the first-token mass is half of its last value",
    "sink_to_copy": "step at which the first-token mass is half of its last value, over that at which the back-copy risk "
                    "passes 1 nat",
    "step_value_peak": "step at which |W_O v_<s>| peaks", "value_left": "last |W_O v_<s>| over its peak",
}
_CURVES = {"bigram_risk": "evals", "copy_risk": "evals", "first_mass_normalized": "heads", "wo_value_norm": "heads"}
_DIGITS = 6  # significant; more would be noise in a committed file
VERSION = 1


def measure(directory, name, scale, curves=False):
    """A sweep's directory -> the dictionary of a summary.json. Throws UnusableRun if it holds no cell."""
    sweep = read_sweep(directory)
    keys, planned = _axes(sweep), [cell for cell in sweep.cells if cell.planned]  # others are of an earlier plan
    cells = [_cell(cell, keys, curves) for cell in planned]
    runs = [cell.run for cell in planned if cell.run is not None and cell.state == DONE]
    return {"version": VERSION, "sweep": name, "scale": scale, "made": _made(runs), "cells": cells,
            "messages": list(sweep.messages)}


def _axes(sweep):
    """The keys that set the cells apart beside variant and seed."""
    cells = [cell for cell in sweep.cells if cell.settings]
    keys = {key for cell in cells for key in cell.settings if not key.startswith("run.")} if not sweep.has_plan \
        else set(sweep.set_keys)
    return sorted(key for key in keys if len({value_of(cell.settings.get(key)) for cell in cells}) > 1)


def _cell(cell, keys, curves):
    run = cell.run
    row = {"name": cell.name, "variant": cell.variant, "seed": cell.seed, "state": cell.state,
           "settings": {key: value_of(cell.settings.get(key)) for key in keys}, "exit_code": cell.exit_code}
    if run is None or cell.state != DONE:
        return row
    row.update(steps=run.last_step, data_hash=run.info.get("data_hash"), params=run.info.get("params"),
               values={key: _rounded(value) for key, value in values_of(run).items()})
    if curves:
        row["curves"] = {key: curve for key, frame in _CURVES.items() if (curve := _curve(run, frame, key))}
        norms = _block_curve(run, "residual_norm", 1)
        if norms:
            row["curves"]["residual_first_block"] = norms
    return row


def values_of(run):
    """Every number a criterion may ask for; None where a run does not have it."""
    final = summarize_run(run)["final"]
    values = {key: final.get(key) for key in _FINAL}
    values["column_mass"] = None if final.get("row_mass") is None else 1 - final["row_mass"]
    top = _strongest_head(run)
    mass = _head_curve(run, "first_mass_normalized", top)
    values["top_first_mass"] = mass[-1][1] if mass else None
    values["kurtosis"] = _largest_of_blocks(run, "kurtosis_first")
    norms = _block_curve(run, "residual_norm", 1)
    if norms:
        values["residual_first_block"] = norms[-1][1]
        values["residual_growth"] = norms[-1][1] / at_step(norms, norms[-1][0] / 2)
    values.update(_dynamics(run, mass, _head_curve(run, "wo_value_norm", top)))
    return values


def _dynamics(run, mass, norm):
    bigram, copy = _curve(run, "evals", "bigram_risk"), _curve(run, "evals", "copy_risk")
    found = {"step_bigram": _fallen(bigram, 0.9), "step_copy": _fallen(copy, 0.9)}
    early, late, middle = (_falls_below(copy, level) for level in (2.0, 0.4, 1.0))
    if early and late:
        found["copy_fall"] = late / early
    if len(mass) > 1 and mass[-1][1] > 0:
        found["step_sink"] = _crosses(mass, mass[-1][1] / 2)
        if found["step_sink"] and middle:
            found["sink_to_copy"] = found["step_sink"] / middle
    if norm:
        peak = max(norm, key=lambda point: point[1])
        found["step_value_peak"], found["value_left"] = float(peak[0]), norm[-1][1] / peak[1] if peak[1] else None
    return found


def _strongest_head(run):
    """(layer, head) with the largest first-token mass at the end; None without probes."""
    table = run.heads[run.heads["metric"] == "first_mass_normalized"] if len(run.heads) else run.heads
    if not len(table):
        return None
    last = table[table["step"] == table["step"].max()]
    row = last.loc[last["value"].idxmax()]
    return int(row["layer"]), int(row["head"])


def _head_curve(run, metric, place):
    if place is None:
        return []
    table = run.heads[(run.heads["metric"] == metric) & (run.heads["layer"] == place[0]) & (run.heads["head"] == place[1])]
    return [(int(step), float(value)) for step, value in zip(table["step"], table["value"])]


def _block_curve(run, metric, block):
    if not len(run.layers):
        return []
    table = run.layers[(run.layers["metric"] == metric) & (run.layers["layer"] == block)]
    return [(int(step), _rounded(float(value))) for step, value in zip(table["step"], table["value"])]


def _largest_of_blocks(run, metric):
    """At the last probe, behind any block."""
    if not len(run.layers):
        return None
    table = run.layers[(run.layers["metric"] == metric) & (run.layers["layer"] >= 1)]
    last = table[table["step"] == run.layers["step"].max()]
    return float(last["value"].max()) if len(last) else None


def _curve(run, frame, key):
    if frame == "heads":
        return [(step, _rounded(value)) for step, value in _head_curve(run, key, _strongest_head(run))]
    table = run.evals.dropna(subset=[key])
    return [(int(step), _rounded(float(value))) for step, value in zip(table["step"], table[key])]


def at_step(curve, step):
    """On a straight line between the points beside it."""
    before = max((point for point in curve if point[0] <= step), default=curve[0])
    after = min((point for point in curve if point[0] >= step), default=curve[-1])
    if after[0] == before[0]:
        return before[1]
    return before[1] + (after[1] - before[1]) * (step - before[0]) / (after[0] - before[0])


def _fallen(curve, share):
    """The step at which `share` of the way from the first to the lowest point is done."""
    if len(curve) < 2:
        return None
    first, lowest = curve[0][1], min(value for _, value in curve)
    return _falls_below(curve, first - share * (first - lowest)) if first > lowest else None


def _falls_below(curve, level):
    return _crosses([(step, -value) for step, value in curve], -level)


def _crosses(curve, level):
    """The first step at which a curve reaches a level from below, on the straight line between two points."""
    for (a, low), (b, high) in zip(curve, curve[1:]):
        if low < level <= high:
            return a + (b - a) * (level - low) / (high - low)
    return None


def _rounded(value):
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def _made(runs):
    """What all finished runs have in common, and what a reader must know about their size."""
    facts = {"runs": len(runs), "seconds": round(sum(run.info.get("seconds") or 0 for run in runs))}
    for key in ("layers", "heads", "context", "precision", "cpu", "device", "commit"):
        seen = {run.info.get(key) for run in runs if run.info.get(key) is not None}
        facts[key] = seen.pop() if len(seen) == 1 else None
    steps, params = ([run.info.get(key) for run in runs if run.info.get(key)] for key in ("steps", "params"))
    batches = {run.config.get("train.batch_tokens") for run in runs}
    facts.update(steps=max(steps, default=None), params=[min(params), max(params)] if params else None,
                 batch_tokens=int(batches.pop()) if len(batches) == 1 and None not in batches else None,
                 channels=_channels(runs))
    return facts


def _channels(runs):
    seen = {run.config.get("model.channels") for run in runs}
    return int(seen.pop()) if len(seen) == 1 and None not in seen else None


def read_summary(file):
    """Throws ValueError, naming the file, for what this version did not write."""
    try:
        summary = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(summary, dict) or summary.get("version") != VERSION:
        raise ValueError(f"{file} is no summary of version {VERSION}; write it again with scripts/findings.py")
    return summary


def write_summary(file, summary):
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = json.dumps({key: value for key, value in summary.items() if key != "cells"}, indent=1)[:-2]
    cells = ",\n".join("  " + json.dumps(cell) for cell in summary["cells"])  # a line each, so that git shows what changed
    file.write_text(f'{lines},\n "cells": [\n{cells}\n ]\n}}\n', encoding="utf-8")
