"""summary.json and summary.md: the final numbers of every run and their mean and sd over the seeds of a group."""

import math

from .groups import mean_sd
from .metrics import ALL, PER_HEAD

# Scalars of "final" that come from probes; means over layers and heads of the last probe.
PROBE_SCALARS = ("first_mass_raw", "first_mass_normalized", "first_mass_effective", "placeholder_mass_effective",
                 "row_mass", "drain_ratio", "sink_rate")
EXTRA_SCALARS = tuple(key for key in PER_HEAD if key not in PROBE_SCALARS)
TRAIN_WINDOW = 50  # steps averaged for a training loss


def summarize_run(run):
    info = run.info
    final, source = _final(run)
    return {
        "variant": run.variant, "seed": info.get("seed"), "steps": run.last_step, "params": info.get("params"),
        "tokens_per_second": info.get("tokens_per_second"), "seconds": info.get("seconds"),
        "final": final, "oracle": run.oracle,
        "name": run.name, "directory": run.path.name, "status": info.get("status"), "loss_source": source,
        "steps_planned": info.get("max_steps") or info.get("steps"), "probe_step": run.probe_step,
        "params_non_embedding": info.get("params_non_embedding"), "flops_per_token": info.get("flops_per_token"),
        "ms_per_step": info.get("ms_per_step"), "precision": info.get("precision"), "threads": info.get("threads"),
        "qk_norm": info.get("qk_norm"), "placeholders": info.get("placeholders"), "layers": info.get("layers"),
        "heads": info.get("heads"), "commit": info.get("commit"), "data_hash": info.get("data_hash"),
        "per_layer": {key: matrix for key in PER_HEAD if (matrix := _matrix(run, key)) is not None},
        "per_block": {key: row for key, row in _block_rows(run)},
    }


def _final(run):
    final = {"loss": None, "bigram_risk": None, "copy_risk": None}
    source = None
    for key in final:
        rows = run.evals.dropna(subset=[key])
        if len(rows):
            final[key] = float(rows.iloc[-1][key])
    training = run.metrics.dropna(subset=["loss"]).tail(TRAIN_WINDOW)
    final["train_loss"] = float(training["loss"].mean()) if len(training) else None
    if final["loss"] is not None:
        source = f"evaluation at step {int(run.evals.dropna(subset=['loss']).iloc[-1]['step'])}"
    elif len(training):
        final["loss"] = final["train_loss"]
        source = f"training loss, mean of the last {len(training)} steps"
    last = _last_probe(run)
    for key in PROBE_SCALARS + EXTRA_SCALARS:
        final[key] = float(last[key].mean()) if key in last else None
    peak, block = residual_peak(run)
    final["residual_peak_ratio"], final["residual_peak_block"] = peak, block
    for key in ("massive_ratio", "max_abs"):
        rows = _last_layers(run, key)
        final[key] = max((value for layer, value in rows if layer >= 1), default=None)
    return final, source


def _last_probe(run):
    if not len(run.heads):
        return {}
    rows = run.heads[run.heads["step"] == run.heads["step"].max()]
    return {key: values["value"] for key, values in rows.groupby("metric")}


def _last_layers(run, metric):
    if not len(run.layers):
        return []
    rows = run.layers[(run.layers["step"] == run.layers["step"].max()) & (run.layers["metric"] == metric)]
    return [(int(layer), float(value)) for layer, value in zip(rows["layer"], rows["value"])]


def residual_peak(run):
    """|h_p| / mean |h_t| after the block where it is largest -> (ratio, block counted from 1)."""
    rows = [row for row in _last_layers(run, "residual_peak_ratio") if row[0] >= 1]
    if not rows:
        return None, None
    block, ratio = max(rows, key=lambda row: row[1])
    return ratio, block


def _matrix(run, metric):
    """values[layer][head] of the last probe, null where one is missing; None when the metric does not apply."""
    if not len(run.heads):
        return None
    rows = run.heads[(run.heads["step"] == run.heads["step"].max()) & (run.heads["metric"] == metric)]
    if not len(rows):
        return None
    values = {(int(layer), int(head)): float(x) for layer, head, x in zip(rows["layer"], rows["head"], rows["value"])}
    layers = 1 + max(layer for layer, _ in values)
    heads = 1 + max(head for _, head in values)
    return [[values.get((layer, head)) for head in range(heads)] for layer in range(layers)]


def _block_rows(run):
    for key in ALL:
        if key not in PER_HEAD:
            rows = dict(_last_layers(run, key))
            if rows:
                yield key, [rows.get(layer) for layer in range(1 + max(rows))]


def summarize_group(group, summaries):
    """Mean, sd (n - 1) and count over the seeds of a group of every number in "final"."""
    keys = [key for key in summaries[0]["final"] if key != "residual_peak_block"]
    top = ("params", "params_non_embedding", "flops_per_token", "ms_per_step", "tokens_per_second", "seconds")
    values = {key: [summary["final"][key] for summary in summaries] for key in keys}
    values.update({key: [summary[key] for summary in summaries] for key in top})
    stats = {key: mean_sd(column) for key, column in values.items()}
    blocks = [summary["final"]["residual_peak_block"] for summary in summaries]
    return {
        "label": group.label, "variant": group.variant, "seeds": [summary["seed"] for summary in summaries],
        "steps": min(summary["steps"] for summary in summaries), "oracle": summaries[0]["oracle"],
        "qk_norm": summaries[0]["qk_norm"], "layers": summaries[0]["layers"], "heads": summaries[0]["heads"],
        "mean": {key: stat[0] for key, stat in stats.items()}, "sd": {key: stat[1] for key, stat in stats.items()},
        "residual_peak_block": blocks[0] if len(set(blocks)) == 1 else None,
    }


# Columns of the headline table: key, heading, digits, hint.
COLUMNS = (
    ("loss", "Loss", 4, "final held-out loss, nats per token"),
    ("bigram_risk", "Bigram risk", 4, "cross-entropy against the oracle on non-trigger positions, nats"),
    ("copy_risk", "Copy risk", 4, "the same on trigger positions; floor 0"),
    ("first_mass_effective", "First-token mass, effective", 3, ALL["first_mass_effective"].definition),
    ("first_mass_normalized", "row-norm.", 3, ALL["first_mass_normalized"].definition),
    ("first_mass_raw", "raw", 3, ALL["first_mass_raw"].definition),
    ("placeholder_mass_effective", "Placeholder mass", 3, ALL["placeholder_mass_effective"].definition),
    ("row_mass", "Row mass", 3, ALL["row_mass"].definition),
    ("sink_rate", "Sink rate %", 1, ALL["sink_rate"].definition),
    ("drain_ratio", "Value drain", 3, ALL["drain_ratio"].definition),
    ("residual_peak_ratio", "Residual peak", 2, ALL["residual_peak_ratio"].definition),
)
COSTS = (
    ("params", "Parameters", "all, with embeddings"),
    ("flops_per_token", "FLOPs/token", "forward and backward"),
    ("ms_per_step", "ms/step", "wall clock"),
    ("tokens_per_second", "Tokens/s", "wall clock"),
)


def number(value, digits=3):
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\u2013"
    if value and abs(value) < 0.5 * 10 ** -digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.3g}"


def count(value):
    """1234567 -> '1.23 M'; whole below ten thousand."""
    if value is None:
        return "\u2013"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * (10 if unit == "k" else 1):
            return f"{value / size:.3g}\u202f{unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(row, key, digits):
    """'mean' or 'mean ± sd' for groups of several seeds."""
    text = number(row["mean"][key], digits)
    sd = row["sd"][key]
    return text if sd is None or row["mean"][key] is None else f"{text} ± {number(sd, digits)}"


def markdown(rows):
    """The headline table: one row per variant and setting."""
    head = ["Variant", "Seeds", "Steps"] + [column[1] for column in COLUMNS] + ["Bigram floor"] \
        + [cost[1] for cost in COSTS] + ["QK-norm"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * 3 + "---:|" * (len(head) - 4) + "---|"]
    for row in rows:
        floor = (row["oracle"] or {}).get("bigram_risk")
        cells = [row["label"], str(len(row["seeds"])), str(row["steps"])]
        cells += [spread(row, key, digits) for key, _, digits, _ in COLUMNS]
        cells += [number(floor, 4)] + [count(row["mean"][key]) for key, _, _ in COSTS] + [qk_norm(row)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def qk_norm(row):
    return {True: "on", False: "off", None: "\u2013"}[row["qk_norm"]]
