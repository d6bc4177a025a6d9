"""What a sweep says: means over seeds, best learning rates, paired differences from the softmax control, equal budgets.

Every number the page shows is in the dictionary analyze() returns, which summary.json holds as "sweep".
"""

import math
from collections import Counter

from . import expectations, stability
from .budgets import budget_row
from .groups import mean_sd
from .paired import LEVEL, holm, paired
from .summary import number, summarize_run
from .sweep_cells import DONE, MISSING, RATE, value_of

CONTROL = "softmax"
MATCHED = "softmax_matched"  # how the variants of configs/variants/*softmax-matched*.toml begin
MATCHED_WITHIN = 0.005  # relative difference of parameters that counts as equal
SAME_SIZE = 0.01  # up to here softmax itself is the control of a variant's size
# Compared pair by pair: key, title, unit, digits.
METRICS = (
    ("loss_val", "Validation loss", "nats", 4), ("loss_train", "Training loss", "nats", 4),
    ("bigram_risk", "Bigram risk", "nats", 4), ("copy_risk", "Back-copy risk", "nats", 4),
    ("sink_rate", "Sink rate", "percent", 1), ("first_mass_effective", "First-token mass, effective", "", 3),
    ("first_mass_normalized", "First-token mass, row-normalised", "", 3), ("row_mass", "Row mass", "", 3),
    ("placeholder_mass_effective", "Placeholder mass, effective", "", 3), ("drain_ratio", "Value drain", "", 3),
    ("residual_peak_ratio", "Residual peak", "", 2), ("massive_ratio", "Massive activation ratio", "", 1),
    ("max_abs", "Largest activation", "", 2), ("entropy", "Attention entropy", "", 3),
    ("gate_mean", "Gate, mean", "", 3),
)
_RANK = ["softmax", "sigmoid", "gated", "gated_headwise", "placeholder"]


class Sample:
    """One finished run and where it lies on the axes."""

    def __init__(self, cell, other, summary):
        self.cell, self.run, self.variant, self.seed, self.other = cell, cell.run, cell.variant, cell.seed, other
        self.rate = cell.rate if isinstance(cell.rate, float) else None
        self.summary, final = summary, summary["final"]
        rows = cell.run.evals.dropna(subset=["loss"])
        last = rows.iloc[-1] if len(rows) else None
        # Of the last evaluation: how many targets it scored, None where that was not recorded.
        self.scored = int(last["scored"]) if last is not None and math.isfinite(last["scored"]) else None
        is_final = last is not None and int(last["step"]) == cell.run.last_step
        self.values = {key: final.get(key) for key, *_ in METRICS if not key.startswith("loss")}
        self.values["loss_val"] = final["loss"] if is_final else None
        self.values["loss_train"] = final["train_loss"]

    @property
    def setting(self):
        return self.variant, self.rate, self.other

    def mismatch(self, other):
        """Why two runs are no pair; None if they are one."""
        mine, theirs = self.run.info.get("data_hash"), other.run.info.get("data_hash")
        if mine != theirs and mine is not None and theirs is not None:
            return f"other data (hash {mine} against {theirs})"
        if self.run.last_step != other.run.last_step:
            return f"other length ({self.run.last_step} steps against {other.run.last_step})"
        if None not in (self.scored, other.scored) and self.scored != other.scored:
            return (f"other targets ({self.scored} scored against {other.scored}; give all cells the same "
                    "train.shared_placeholders)")
        return None


def analyze(directory):
    """SweepDirectory -> everything the report says about it, as one dictionary."""
    cells = directory.cells
    keys = _other_keys(directory)
    others = {cell.name: tuple((key, value_of(cell.settings.get(key))) for key in keys) for cell in cells}
    summaries = {cell.name: summarize_run(cell.run) for cell in cells if cell.run}
    samples, notes = _samples(cells, others, summaries)
    settings = _settings(samples, cells, others)
    best = _best_rates(settings, samples)
    comparisons = _compare_all(samples, best)
    return {
        "directory": directory.path.name, "cells": [_cell_row(cell, others[cell.name], summaries) for cell in cells],
        "states": dict(Counter(cell.state for cell in cells)),
        "missing": [cell.name for cell in cells if cell.state == MISSING], "has_plan": directory.has_plan,
        "tries": directory.tries, "tries_source": directory.tries_source,
        "axes": {"variants": _in_order({cell.variant for cell in cells if cell.variant}),
                 "rates": sorted({cell.rate for cell in cells if isinstance(cell.rate, float)}),
                 "seeds": sorted({cell.seed for cell in cells if cell.seed is not None}),
                 "others": {key: sorted({str(dict(other)[key]) for other in others.values()}) for key in keys}},
        "settings": settings, "best": best, "comparisons": comparisons, "level": LEVEL,
        "costs": _costs(best, samples), "size": _size_words(best, samples),
        "sinks": _sink_verdicts(best, settings), "notes": notes,
        "stable_rates": stability.largest_rates(sorted(cells, key=lambda c: _rank(c.variant)), others, label_of),
    }


def _other_keys(directory):
    """Keys beside variant, learning rate and seed along which the cells differ."""
    cells = [cell for cell in directory.cells if cell.settings]
    skipped = (RATE,)
    if directory.has_plan:
        keys = [key for key in directory.set_keys if key not in skipped]
        keys = [key for key in keys if len({value_of(cell.settings.get(key)) for cell in cells}) > 1]
    else:  # what differs between the cells of one variant is no part of the variant
        names = {key for cell in cells if cell.run for key in cell.run.config
                 if not key.startswith("run.") and key not in skipped}
        by_variant = {}
        for cell in cells:
            if cell.run:
                by_variant.setdefault(cell.variant, []).append(cell.run.config)
        keys = [key for key in sorted(names) if any(len({value_of(config.get(key)) for config in configs}) > 1
                                                    for configs in by_variant.values())]
    return [key for key in keys if not _follows_the_rate(key, cells)]


def _follows_the_rate(key, cells):
    values = {}
    for cell in cells:
        values.setdefault(cell.rate, set()).add(value_of(cell.settings.get(key)))
    return all(len(seen) == 1 for seen in values.values())


def _samples(cells, others, summaries):
    """-> ({setting: {seed: Sample}}, notes)."""
    samples, notes = {}, []
    for cell in cells:
        if cell.state != DONE:
            continue
        sample = Sample(cell, others[cell.name], summaries[cell.name])
        if sample.seed is None:
            notes.append(f"{cell.name} records no seed: it is in the table of cells only")
            continue
        if sample.values["loss_val"] is None:
            notes.append(f"{cell.name} has no finite validation loss at its last step")
        if sample.run.info.get("data_hash") is None:
            notes.append(f"{cell.name} records no data hash: that its pairs saw the same data is not checked")
        same = samples.setdefault(sample.setting, {})
        if sample.seed in same:
            notes.append(f"{cell.name} repeats the setting and seed of {same[sample.seed].cell.name}: only the latter "
                         "counts")
        else:
            same[sample.seed] = sample
    return samples, notes


def _cell_row(cell, other, summaries):
    final = summaries[cell.name]["final"] if cell.run else {}
    return {"name": cell.name, "state": cell.state, "variant": cell.variant, "rate": cell.rate, "seed": cell.seed,
            "other": dict(other), "step": cell.run.last_step if cell.run else None, "loss": final.get("loss"),
            "seconds": cell.run.info.get("seconds") if cell.run else None, "tries": cell.tries,
            "exit_code": cell.exit_code, "note": cell.note}


def _in_order(variants):
    return sorted(variants, key=_rank)


def label_of(variant, rate=None, other=()):
    words = ([f"lr {rate:g}"] if rate is not None else []) + [f"{key.split('.')[-1]} {_text(value)}"
                                                              for key, value in dict(other).items()]
    return variant + (f" ({', '.join(words)})" if words else "")


def _text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(samples, cells, others):
    """Rows of the table: one per variant, learning rate and other axes, with mean and sd over the seeds that ended."""
    rows = []
    for setting in sorted(samples, key=_sort_key):
        variant, rate, other = setting
        same = [samples[setting][seed] for seed in sorted(samples[setting])]
        stats = {key: mean_sd([sample.values[key] for sample in same]) for key, *_ in METRICS}
        rows.append({
            "label": label_of(variant, rate, other), "variant": variant, "rate": rate, "other": dict(other),
            "seeds": [sample.seed for sample in same], "lost": _lost(cells, others, setting),
            "values": {key: [sample.values[key] for sample in same] for key, *_ in METRICS},
            "mean": {key: stat[0] for key, stat in stats.items()}, "sd": {key: stat[1] for key, stat in stats.items()},
            "n": {key: stat[2] for key, stat in stats.items()},
            "layers": same[0].summary["layers"], "heads": same[0].summary["heads"],
        })
    return rows


def _rank(variant):
    return _RANK.index(variant) if variant in _RANK else len(_RANK), variant or ""


def _sort_key(setting):
    variant, rate, other = setting
    return (*_rank(variant), str(other), rate or 0.0)


def _lost(cells, others, setting):
    """Cells of a setting that did not finish: its mean is over the survivors."""
    return [f"{cell.name} ({cell.state})" for cell in cells if cell.state != DONE and
            (cell.variant, cell.rate if isinstance(cell.rate, float) else None, others[cell.name]) == setting]


def _best_rates(settings, samples):
    """The learning rate with the lowest mean validation loss of each variant (and other axes)."""
    rows = []
    for variant, other in dict.fromkeys((row["variant"], tuple(row["other"].items())) for row in settings):
        tried = [row for row in settings if (row["variant"], tuple(row["other"].items())) == (variant, other)
                 and row["mean"]["loss_val"] is not None]
        if not tried:
            continue
        # A rate at which seeds were lost shows its survivors: it is no candidate beside a complete one.
        full = [row for row in tried if not row["lost"] and row["n"]["loss_val"] == len(row["seeds"])]
        ranked = sorted(full or tried, key=lambda row: row["mean"]["loss_val"])
        first, rates = ranked[0], sorted(row["rate"] for row in tried if row["rate"] is not None)
        row = {"variant": variant, "other": dict(other), "rate": first["rate"], "loss": first["mean"]["loss_val"],
               "sd": first["sd"]["loss_val"], "seeds": first["seeds"], "rates": rates, "edge": None, "next": None,
               "passed_over": [r["label"] for r in tried if full and r not in full]}
        if len(rates) > 1 and first["rate"] in (rates[0], rates[-1]):
            row["edge"] = "lowest" if first["rate"] == rates[0] else "highest"
        if len(ranked) > 1:
            here, there = (samples[(variant, r["rate"], other)] for r in ranked[:2])
            result = paired(_differences(there, here, "loss_val")[0])
            row["next"] = {"rate": ranked[1]["rate"], "difference": ranked[1]["mean"]["loss_val"] - row["loss"],
                           "pairs": result.n if result else 0, "p": result and result.p}
        row["sentence"] = _best_words(row)
        rows.append(row)
    return rows


def _best_words(row):
    if len(row["rates"]) < 2:
        text = "One learning rate with a result: nothing was tuned."
    else:
        text = f"Lowest mean validation loss at lr {row['rate']:g}"
        if row["edge"]:
            text += f", the {row['edge']} rate of the grid: a better one may lie beyond it"
        text += "."
    beside = row["next"]
    if beside:
        text += f" The next, lr {beside['rate']:g}, is {beside['difference']:.4f} nats higher"
        if beside["pairs"] < 2:
            text += "; with one seed no noise is known to compare that with."
        elif beside["p"] is None or beside["p"] < 1 - LEVEL:
            text += "." if beside["p"] is None else f" (p = {p_text(beside['p'])})."
        else:
            text += f", which is below the noise (p = {p_text(beside['p'])}, {beside['pairs']} seeds)."
    if row["passed_over"]:
        text += f" Not a candidate, since seeds of it did not finish: {', '.join(row['passed_over'])}."
    return text


def _differences(first, second, key):
    """-> (first - second for every seed that both have and that may be paired, its seeds, reasons for the others)."""
    found, seeds, refused = [], [], []
    for seed in sorted(set(first) | set(second)):
        if seed not in first or seed not in second:
            refused.append(f"seed {seed}: only one of the two finished")
            continue
        reason = first[seed].mismatch(second[seed])
        values = first[seed].values[key], second[seed].values[key]
        if reason:
            refused.append(f"seed {seed}: {reason}")
        elif None in values:
            refused.append(f"seed {seed}: not measured in both")
        else:
            found.append(values[0] - values[1])
            seeds.append(seed)
    return found, seeds, refused


def _compare_all(samples, best):
    """Blocks of comparisons: at each learning rate, each variant at its best one, each against softmax of its size."""
    rows = []
    for rate, other in dict.fromkeys((s[1], s[2]) for s in sorted(samples, key=_sort_key) if s[0] == CONTROL):
        variants = _in_order({s[0] for s in samples if s[1:] == (rate, other)} - {CONTROL})
        rows += _block("equal rate", [(variant, rate, other, CONTROL, rate) for variant in variants], samples)
    rate_of = {(row["variant"], tuple(row["other"].items())): row["rate"] for row in best}
    for other in dict.fromkeys(other for _, other in rate_of):
        control = rate_of.get((CONTROL, other))
        if (CONTROL, other) in rate_of:
            named = [(variant, rate_of[variant, other], other, CONTROL, control)
                     for variant, o in rate_of if o == other and variant != CONTROL]
            rows += _block("best rate", named, samples)
        matched = []
        for variant, o in rate_of:
            if o == other and not variant.startswith(CONTROL):
                name = _matched_control(variant, other, rate_of, samples)
                if name:
                    matched.append((variant, rate_of[variant, other], other, name, rate_of[name, other]))
        rows += _block("equal parameters", matched, samples)
    return rows


def _block(kind, named, samples):
    """Holm's correction runs over the variants of one block, for each metric by itself."""
    rows = []
    for variant, rate, other, control, control_rate in named:
        first, second = samples[variant, rate, other], samples[control, control_rate, other]
        metrics, refused = {}, []
        for key, *_ in METRICS:
            differences, seeds, reasons = _differences(first, second, key)
            if key == "loss_val":
                refused = reasons
            result = paired(differences)
            if result:
                metrics[key] = {"seeds": seeds, "differences": differences, "n": result.n, "mean": result.mean,
                                "sd": result.sd, "low": result.low, "high": result.high, "t": result.t, "p": result.p,
                                "p_holm": None, "flip_p": result.flip_p, "flip_floor": result.flip_floor}
        rows.append({"kind": kind, "variant": variant, "rate": rate, "other": dict(other), "control": control,
                     "control_rate": control_rate, "metrics": metrics, "refused": refused})
    for key, *_ in METRICS:
        held = [row for row in rows if key in row["metrics"]]
        for row, adjusted in zip(held, holm([row["metrics"][key]["p"] for row in held])):
            row["metrics"][key]["p_holm"] = adjusted
    for row in rows:
        row["family"] = sum("loss_val" in other["metrics"] for other in rows)
        row["verdict"] = _verdict(row)
    return rows


def is_told_apart(metric):
    return metric["p_holm"] is not None and metric["p_holm"] < 1 - LEVEL


def _verdict(row):
    """The validation loss in plain words."""
    metric = row["metrics"].get("loss_val")
    if metric is None:
        return "No pair of seeds: " + ("; ".join(row["refused"]) or "none finished") + "."
    mean, n = metric["mean"], metric["n"]
    size = "equal" if mean == 0 else f"{number(abs(mean), 4)} nats {'lower' if mean < 0 else 'higher'}"
    if n == 1:
        return f"{size} with the one seed there is: nothing can be said about a difference from one seed."
    if metric["p"] is None:
        return (f"Equal to the last bit in all {n} pairs." if mean == 0 else
                f"{size}, the same in all {n} pairs: without a spread there is no test.")
    text = (f"{size}, {100 * LEVEL:.0f} % CI [{metric['low']:+.4f}, {metric['high']:+.4f}], p = {p_text(metric['p'])}"
            + (f", {p_text(metric['p_holm'])} after Holm over {row['family']} variants" if row["family"] > 1 else ""))
    if not is_told_apart(metric):
        return f"{text}: not distinguishable at {n} seeds."
    text += f": {'lower' if mean < 0 else 'higher'} than {row['control']} beyond the noise of {n} seeds."
    floor = metric["flip_floor"]
    if floor is not None and floor > 1 - LEVEL:
        text += (f" This rests on normally distributed differences: {n} pairs allow no sign-flip p below "
                 f"{p_text(floor)}.")
    return text


def p_text(p):
    return "\u2013" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _params(samples, variant, rate, other):
    return next((sample.run.info["params"] for sample in samples[variant, rate, other].values()
                 if sample.run.info.get("params")), None)


def _matched_control(variant, other, rate_of, samples):
    """The softmax of this variant's number of parameters, if the sweep holds one beside softmax itself."""
    params = _params(samples, variant, rate_of[variant, other], other)
    for name, o in rate_of:
        if o == other and name.startswith(MATCHED) and params:
            theirs = _params(samples, name, rate_of[name, other], other)
            if theirs and abs(theirs / params - 1) <= MATCHED_WITHIN:
                return name
    return None


def _costs(best, samples):
    """Each variant at its best rate beside the control at its own: size, FLOPs, time, and losses at equal budgets."""
    rows = []
    controls = {tuple(row["other"].items()): row for row in best if row["variant"] == CONTROL}
    for row in best:
        other = tuple(row["other"].items())
        control = controls.get(other)
        mine = samples[row["variant"], row["rate"], other]
        theirs = samples[CONTROL, control["rate"], other] if control else None
        rows.append({"label": label_of(row["variant"], row["rate"], row["other"]), "variant": row["variant"],
                     "other": row["other"], "rate": row["rate"], **budget_row(mine, theirs)})
    return rows


def _size_words(best, samples):
    """For each variant whether its size alone could explain a lower loss."""
    rate_of = {(row["variant"], tuple(row["other"].items())): row["rate"] for row in best}
    words = []
    for variant, other in rate_of:
        if variant.startswith(CONTROL) or (CONTROL, other) not in rate_of:
            continue
        mine = _params(samples, variant, rate_of[variant, other], other)
        theirs = _params(samples, CONTROL, rate_of[CONTROL, other], other)
        if not mine or not theirs or abs(mine / theirs - 1) <= SAME_SIZE:
            continue
        more = f"{label_of(variant, None, other)} has {100 * abs(mine / theirs - 1):.1f} % " \
               f"{'more' if mine > theirs else 'fewer'} parameters than softmax"
        matched = _matched_control(variant, other, rate_of, samples)
        words.append(f"{more}; its control of equal size is {matched}, compared below." if matched else
                     f"{more}, and no softmax of its size ran (configs/variants/*softmax-matched*.toml): a difference "
                     "in loss may be due to size.")
    return words


def _sink_verdicts(best, settings):
    """Each variant at its best rate, judged beside the control at its own."""
    row_of = {(row["variant"], row["rate"], tuple(row["other"].items())): row for row in settings}
    chosen = {(row["variant"], tuple(row["other"].items())): row_of[row["variant"], row["rate"],
                                                                    tuple(row["other"].items())] for row in best}
    rows = []
    for (variant, other), row in chosen.items():
        headline, text = expectations.sink_verdict(row, chosen.get((CONTROL, other)))
        rows.append({"variant": variant, "other": dict(other), "rate": row["rate"], "label": row["label"],
                     "headline": headline, "text": text, "seeds": len(row["seeds"])})
    return rows
