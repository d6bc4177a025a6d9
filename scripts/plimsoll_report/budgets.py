"""Losses at equal budgets: what a run had reached when it had spent what the control spent, in FLOPs or in seconds."""

import numpy as np

from .groups import mean_sd
from .summary import TRAIN_WINDOW

_SAME = 1e-9  # relative: budgets that differ by rounding are equal


def budget_row(mine, theirs):
    """{seed: Sample} of a variant and of its control (or None) -> sizes, ratios, and losses at the control's budget."""
    first = next(iter(mine.values())).run.info
    control = next(iter(theirs.values())).run.info if theirs else {}
    row = {"params": first.get("params"), "flops_per_token": first.get("flops_per_token"),
           "seconds": _mean_seconds(mine), "params_ratio": _ratio(first.get("params"), control.get("params")),
           "flops_ratio": _ratio(first.get("flops_per_token"), control.get("flops_per_token")),
           "time_ratio": _ratio(_mean_seconds(mine), _mean_seconds(theirs)) if theirs else None}
    for budget in ("flops", "seconds"):
        for key, curve in (("loss_val", _validation), ("loss_train", _training)):
            row[f"{key}_at_{budget}"] = _at_budget(mine, theirs, budget, curve)
    return row


def _mean_seconds(samples):
    ends = [_training(sample, "seconds")[0] for sample in samples.values()]
    return mean_sd([float(spent[-1]) if len(spent) else None for spent in ends])[0]


def _ratio(value, reference):
    return value / reference if value and reference else None


def _at_budget(mine, theirs, budget, curve):
    """-> mean, sd and n over paired seeds, and the mean difference from the control; or None and the reason."""
    if not theirs:
        return {"mean": None, "reason": "no softmax control"}
    values, differences = [], []
    for seed in sorted(set(mine) & set(theirs)):
        if mine[seed].mismatch(theirs[seed]):
            continue
        spent, reached = curve(theirs[seed], budget)
        if not len(spent):
            return {"mean": None, "reason": f"{'FLOPs' if budget == 'flops' else 'seconds'} not recorded"}
        value, reason = interpolate(spent[-1], *curve(mine[seed], budget))
        if value is None:
            return {"mean": None, "reason": f"seed {seed}: {reason}"}
        values.append(value)
        differences.append(value - float(reached[-1]))
    if not values:
        return {"mean": None, "reason": "no pair of seeds"}
    mean, sd, n = mean_sd(values)
    return {"mean": mean, "sd": sd, "n": n, "difference": mean_sd(differences)[0]}


def interpolate(x, xs, ys):
    """-> (y at x on straight lines between the points, None) or (None, why not). Never beyond the points."""
    if len(xs) < 2:
        return None, "fewer than two points"
    if not np.all(np.diff(xs) > 0):
        return None, "the budget does not grow from point to point"
    if x > xs[-1] * (1 + _SAME):
        return None, f"ended at {xs[-1] / x:.3f} of the control's budget; beyond it would be extrapolation"
    if x < xs[0]:
        return None, "the control's budget lies before the first point"
    return float(np.interp(x, xs, ys)), None


def _validation(sample, budget):
    return _along(sample, sample.run.evals.dropna(subset=["loss"]), budget)


def _training(sample, budget):
    """Mean of the last TRAIN_WINDOW steps, so that the end of the curve is the final training loss."""
    table = sample.run.metrics.dropna(subset=["loss"])
    table = table.assign(loss=table["loss"].rolling(TRAIN_WINDOW, min_periods=1).mean())
    return _along(sample, table, budget)


def _along(sample, table, budget):
    if budget == "seconds":
        spent = table["seconds"]
    else:
        spent = table["tokens"] * (sample.run.info.get("flops_per_token") or float("nan"))
    known = spent.notna()
    return spent[known].to_numpy(dtype=float), table["loss"][known].to_numpy(dtype=float)
