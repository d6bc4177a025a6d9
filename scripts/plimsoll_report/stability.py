"""Training stability: spikes of the gradient norm and of the loss, runs that diverged, and how large a learning rate a
variant bears."""

import math

from .summary import number
from .sweep_cells import DONE, FAILED
from .tables import Table

DECAY = 0.99  # of the running means: a memory of 100 steps
SETTLED = 20  # steps before a running mean is compared with
TIMES = 5  # a spike is so many times what is usual
WINDOW = 50  # steps averaged where a run begins, ends and is at its lowest
DIVERGED, HELD, UNKNOWN = "diverged", "held", "unknown"
_INTERNAL = 70  # exit status of a run that gave up: too many bad steps in a row


def norm_spikes(values):
    """Gradient norms -> (steps whose norm is above TIMES the running mean of those before, the largest ratio to it).

    A spike counts in the mean as TIMES the mean, so that it hides no other. What is not finite is a spike."""
    mean, spikes, largest = None, 0, None
    for place, value in enumerate(values):
        if mean is None:
            mean = value if math.isfinite(value) else None
            continue
        if not math.isfinite(value):
            spikes += place >= SETTLED
            continue
        if place >= SETTLED and mean > 0:
            largest = max(largest or 0.0, value / mean)
            spikes += value > TIMES * mean
        mean = DECAY * mean + (1 - DECAY) * min(value, TIMES * mean)
    return spikes, largest


def loss_spikes(values):
    """Losses -> steps whose loss lies above the running mean by more than TIMES the running mean distance from it.

    (TIMES the loss itself is no scale: from 2 nats it is more than a model that knows nothing has.)"""
    mean, distance, spikes = None, None, 0
    for place, value in enumerate(values):
        if not math.isfinite(value):
            spikes += place >= SETTLED
            continue
        if mean is None:
            mean = value
            continue
        above = value - mean
        if distance is None:
            distance = abs(above)
        elif place >= SETTLED and above > TIMES * distance:
            spikes += 1
            above = TIMES * distance
        mean += (1 - DECAY) * above
        distance = DECAY * distance + (1 - DECAY) * abs(above)
    return spikes


def of_run(run):
    """-> {"steps", "norm_spikes", "largest_norm_ratio", "loss_spikes", "not_finite", "diverged"}; None without steps."""
    rows = run.metrics
    if not len(rows):
        return None
    losses, norms = [float(x) for x in rows["loss"]], [float(x) for x in rows["norm"]]
    spikes, largest = norm_spikes(norms)
    return {"steps": len(losses), "norm_spikes": spikes, "largest_norm_ratio": largest, "loss_spikes": loss_spikes(losses),
            "not_finite": sum(not math.isfinite(loss) for loss in losses), "diverged": diverged(losses)}


def diverged(losses):
    """Whether a run ended without a finite loss, or with more than half of what it had learned lost again."""
    if not losses or not math.isfinite(losses[-1]):
        return True
    width = max(1, min(WINDOW, len(losses) // 2))
    ends = [*range(width, len(losses), width), len(losses)]
    means = [mean for mean in (_mean(losses[end - width:end]) for end in ends) if mean is not None]
    lowest = min(means)
    return means[-1] - lowest > max(0.0, means[0] - lowest) / 2


def _mean(values):
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def table(groups, runs):
    """One row per group; None where no run has steps. `runs`: id(run) -> what of_run() gave."""
    result = Table("Variant", "Runs", "Steps", "Norm spikes", "Largest norm / usual", "Loss spikes", "Loss not finite",
                   "Diverged")
    for group in groups:
        found = [runs[id(run)] for run in group.runs if runs[id(run)]]
        if found:
            ratios = [one["largest_norm_ratio"] for one in found if one["largest_norm_ratio"] is not None]
            result.add(group.label, len(found), sum(one["steps"] for one in found),
                       sum(one["norm_spikes"] for one in found), number(max(ratios), 2) if ratios else "\u2013",
                       sum(one["loss_spikes"] for one in found), sum(one["not_finite"] for one in found),
                       sum(one["diverged"] for one in found))
    return result if result.rows else None


NOTE = (f"A norm spike is a step whose gradient norm, before clipping, exceeds {TIMES} times the running mean of the steps "
        f"before it (decay {DECAY}, from step {SETTLED}); a loss spike lies above the running mean by more than {TIMES} "
        "times the running mean distance from it. Sums over the runs of a variant. Diverged: ended without a finite loss, "
        "or with more than half of what it had learned lost again.")


# --- sweeps ---

def cell_state(cell):
    """What a cell says about its learning rate."""
    if cell.state == FAILED and cell.exit_code == _INTERNAL:
        return DIVERGED
    if cell.run is None or not len(cell.run.metrics):
        return UNKNOWN
    if diverged([float(x) for x in cell.run.metrics["loss"]]):
        return DIVERGED
    return HELD if cell.state == DONE else UNKNOWN


def largest_rates(cells, others, label_of):
    """The largest learning rate at which no run of a variant (and other axes) diverged and one at least ended, below
    which none diverged either. others: cell's name -> other axes."""
    by_setting = {}
    for cell in cells:
        if cell.variant and isinstance(cell.rate, float):
            rates = by_setting.setdefault((cell.variant, others[cell.name]), {})
            rates.setdefault(cell.rate, []).append((cell.name, cell_state(cell)))
    rows = []
    for (variant, other), rates in by_setting.items():
        lost = [rate for rate in sorted(rates) if any(state == DIVERGED for _, state in rates[rate])]
        held = [rate for rate in sorted(rates) if all(state == HELD for _, state in rates[rate])
                and (not lost or rate < lost[0])]
        rows.append({"label": label_of(variant, None, other), "variant": variant, "other": dict(other),
                     "largest": held[-1] if held else None, "diverged_from": lost[0] if lost else None,
                     "is_bound": bool(lost), "tried": sorted(rates),
                     "diverged": [name for rate in lost for name, state in rates[rate] if state == DIVERGED],
                     "unknown": [name for rate in sorted(rates) for name, state in rates[rate] if state == UNKNOWN]})
    return rows


def rates_table(rows):
    result = Table("Variant", "Largest stable rate", "Diverges from", "Rates tried", "Runs that diverged", "No answer from")
    for row in rows:
        largest = "none" if row["largest"] is None else f"{row['largest']:g}"
        if row["largest"] is not None and not row["is_bound"]:
            largest = f"at least {largest}"
        result.add(row["label"], largest, "\u2013" if row["diverged_from"] is None else f"{row['diverged_from']:g}",
                   ", ".join(f"{rate:g}" for rate in row["tried"]), "; ".join(row["diverged"]) or "\u2013",
                   "; ".join(row["unknown"]) or "\u2013")
    return result


RATES_NOTE = ("The largest learning rate of the grid at which every run of the variant ended and none diverged, with none "
              "that diverged below it. A run diverged if it gave up (exit status 70), has no finite loss at its end, or "
              "has lost more than half of what it had learned. It is as fine as the grid: rates between were not tried.")
