"""Pictures that are no curves: per-layer x per-head maps, attention maps, cost bars, and the paper's curve."""

import csv
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from .expectations import is_paper_setting
from .figures import WIDTH, Figure, grid, legend, steps_axis
from .groups import is_placeholder
from .metrics import ALL
from .summary import count, number

MAP_TOKENS = 32  # tokens of a sample that are shown, with their labels
PUBLISHED = Path(__file__).with_name("published_bb1.csv")
# Published column -> our table and column, axis label, log axis.
PUBLISHED_PANELS = (
    ("bigram_risk", "evals", "bigram_risk", "Bigram risk", "nats", False),
    ("copy_risk", "evals", "copy_risk", "Back-copy risk", "nats, log", True),
    ("attention", "heads", "first_mass_effective", "Attention to <s>", "weight", False),
    ("logit_delta", "heads", "sink_logit_delta", "Sink-logit delta", "logit difference", False),
    ("value_norm", "heads", "wo_value_norm", "|W_O v| of <s>", "norm", False),
    ("residual_norm", "layers", "residual_norm", "|h| of <s>", "norm, log", True),
)


def heat_maps(groups):
    """Rows: variants; columns: metrics; each cell block is layer x head."""
    keys = ("first_mass_effective", "placeholder_mass_effective", "drain_ratio", "entropy", "gate_mean")
    keys = [key for key in keys if any(group.final_heads(key) for group in groups)]
    groups = [group for group in groups if any(group.final_heads(key) for key in keys)]
    if not keys or not groups:
        return None
    layers = max(group.info.get("layers") or 1 for group in groups)
    row_height = min(2.6, 0.62 + 0.24 * layers)
    figure, panels = plt.subplots(len(groups), len(keys), squeeze=False,
                                  figsize=(WIDTH, row_height * len(groups) + 0.55))
    for row, group in enumerate(groups):
        for axes, key in zip(panels[row], keys):
            _heat_map(axes, group.final_heads(key), key)
            if row == 0:
                axes.set_title(_short_title(key), fontsize=8.5)
        panels[row][0].annotate(group.label.replace(" (", "\n("), (0, 0.5), xycoords="axes fraction", xytext=(-34, 0),
                                textcoords="offset points", ha="right", va="center", fontweight="bold", fontsize=8.5,
                                color=group.color)
    figure.tight_layout(h_pad=0.9, w_pad=0.8)
    return Figure("heads", "Every layer and head at the last probe",
                  "Rows of a panel are layers (first on top), columns are heads, both counted from 1. Masses, "
                  "entropy and gates on a scale from 0 to 1; value drain on a logarithmic scale, teal below 1 (drained), "
                  "brown above. The sink often sits in one layer, which a mean over layers hides.", tuple(keys)).save(figure)


def _short_title(key):
    return {"first_mass_effective": "First token,\neffective mass", "drain_ratio": "Value drain\n|W_O v_p| / mean",
            "placeholder_mass_effective": "Placeholder,\neffective mass", "entropy": "Attention\nentropy",
            "gate_mean": "Gate,\nmean"}[key]


def _heat_map(axes, values, key):
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not values:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "does not apply", ha="center", va="center", transform=axes.transAxes, color="#999",
                  fontsize=8)
        return
    layers = 1 + max(layer for layer, _ in values)
    heads = 1 + max(head for _, head in values)
    matrix = np.full((layers, heads), np.nan)
    for (layer, head), value in values.items():
        matrix[layer, head] = value
    if key == "drain_ratio":
        shown, low, high, colors = np.log2(np.clip(matrix, 1e-6, None)), -3, 3, "BrBG_r"
    else:
        shown, low, high, colors = matrix, 0, 1, "YlOrRd" if "mass" in key else "GnBu"
    axes.imshow(shown, cmap=colors, vmin=low, vmax=high, aspect="auto")
    axes.set_yticks(range(layers) if layers <= 12 else range(0, layers, 4))
    axes.set_xticks(range(heads) if heads <= 12 else range(0, heads, 4))
    axes.set_yticklabels([f"L{int(tick) + 1}" for tick in axes.get_yticks()], fontsize=7)
    axes.set_xticklabels([f"h{int(tick) + 1}" for tick in axes.get_xticks()], fontsize=7)
    axes.tick_params(length=0)
    if layers * heads <= 64 and heads <= 8:
        for (layer, head), value in values.items():
            red, green, blue, _ = plt.get_cmap(colors)(np.clip((shown[layer, head] - low) / (high - low), 0, 1))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(head, layer, "<0.01" if 0 < value < 0.005 else number(value, 2), ha="center", va="center",
                      fontsize=7 if heads > 2 else 8, color="white" if dark else "#222")


def attention_maps(groups):
    """One sample per variant, from the head that puts most weight on the sink; unnormalised rows also scaled."""
    shown = []  # weights, labels, heading, color
    for group in groups:
        for run in [run for run in group.runs if run.maps][:1]:
            weights, layer, head = _sink_head(run.maps["maps"], group)
            labels, place = run.maps.get("labels") or [], f"layer {layer + 1}, head {head + 1}"
            shown.append((weights, labels, f"{group.label}\n{place}", group.color))
            sums = np.nansum(weights, axis=1, keepdims=True)
            if abs(float(sums.mean()) - 1) > 1e-2:
                scaled = weights / np.where(sums > 0, sums, 1)
                shown.append((scaled, labels, f"{group.label}, rows scaled to sum 1\n{place}", group.color))
    if not shown:
        return None
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    side = WIDTH / 3
    figure, panels = plt.subplots(rows, columns, squeeze=False, figsize=(side * columns, rows * (side + 0.3)))
    for spare in list(panels.flat)[len(shown):]:
        spare.remove()
    for axes, (weights, labels, heading, color) in zip(panels.flat, shown):
        _attention_map(axes, weights[:MAP_TOKENS, :MAP_TOKENS], labels)
        axes.set_title(heading, color=color, fontsize=9)
    figure.tight_layout(h_pad=0.9, w_pad=0.6)
    return Figure("attention_maps", "Attention maps of one sample",
                  f"Raw weights A_ij on one scale from 0 (light) to 1 (dark), queries downwards, keys to the right, "
                  f"first {MAP_TOKENS} tokens of a held-out sample; of each variant the layer and head that puts most "
                  "weight on the placeholder or the first token. A sink is the dark first column. Where weights need "
                  "not sum to 1 the same map stands beside it with its rows scaled: a first column that shows only "
                  "there is a share of almost nothing. The gate is not applied. Figures of this kind: Xiao et al., "
                  "arXiv:2309.17453; Guo et al., arXiv:2410.13835.").save(figure)


def _sink_head(maps, group):
    best = None
    for layer, heads in enumerate(maps):
        for head, rows in enumerate(heads):
            size = max(len(rows), max(len(row) for row in rows))
            matrix = np.full((len(rows), size), np.nan)
            for query, row in enumerate(rows):
                matrix[query, :len(row)] = [math.nan if x is None else x for x in row]
            matrix[np.triu_indices(len(rows), 1, size)] = np.nan  # the future is no weight of 0
            columns = [0, 1] if is_placeholder(group) and size > 1 else [0]
            mass = float(np.nan_to_num(matrix[2:, columns]).sum())
            if best is None or mass > best[0]:
                best = (mass, matrix, layer, head)
    return best[1:]


def _attention_map(axes, weights, labels):
    axes.axis("on")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color("#ddd")
    axes.imshow(np.ma.masked_invalid(weights), cmap="YlGnBu", vmin=0, vmax=1, interpolation="nearest")
    names = [_label(labels[i]) if i < len(labels) else str(i) for i in range(len(weights))]
    axes.set_xticks(range(len(names)))
    axes.set_yticks(range(len(names)))
    axes.set_xticklabels(names, fontsize=6, family="monospace")
    axes.set_yticklabels(names, fontsize=6, family="monospace")
    for name, text in zip(names, axes.get_xticklabels()):
        text.set_rotation(90 if len(name) > 1 else 0)
    axes.tick_params(length=0, pad=1.5)


def _label(token):
    text = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}.get(str(token), str(token))
    for mark in ("<|", "|>"):
        text = text.replace(mark, "")
    return text.replace("$", "\\$")[:6]


def costs(rows, groups):
    keys = [key for key in ("params", "flops_per_token", "ms_per_step")
            if any(row["mean"][key] is not None for row in rows)]
    if not keys:
        return None
    figure, panels = grid(len(keys), 3, 0.75 + 0.23 * len(rows))
    titles = {"params": "Parameters", "flops_per_token": "FLOPs per token", "ms_per_step": "Milliseconds per step"}
    for place, (axes, key) in enumerate(zip(panels, keys)):
        values = [row["mean"][key] or 0.0 for row in rows]
        axes.barh(range(len(rows)), values, color=[group.color for group in groups], height=0.62)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, max(max(values) * 1.25, 1e-9))
        for row, value in enumerate(values):
            axes.text(value, row, f" {count(value)}", va="center", fontsize=8, color="#333")
        axes.set_yticks(range(len(rows)))
        axes.set_yticklabels([row["label"] for row in rows] if place == 0 else [])
        axes.set_xticks([])
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(titles[key])
    figure.tight_layout(w_pad=1.2)
    return Figure("cost", "What each variant costs", "Parameters of the whole model, FLOPs of a forward and backward "
                  "pass per token, and wall time per step on this machine.").save(figure)


def published():
    lines = [line for line in PUBLISHED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]


def paper_groups(groups):
    return [group for group in groups if is_paper_setting(group)]


def _measured(group, table, column):
    return group.peak_curve(column) if table == "layers" else group.curve(table, column)


def published_curves(groups):
    """The measured curve of the paper's own setting over the published one."""
    measured = paper_groups(groups)
    if not measured:
        return None
    theirs = published()
    last = max(run.last_step for group in measured for run in group.runs)
    theirs = [row for row in theirs if row["step"] <= 10 * last] or theirs[:1]
    ours = [panel for panel in PUBLISHED_PANELS if any(len(_measured(g, panel[1], panel[2])) for g in measured)]
    if not ours:
        return None
    figure, panels = grid(len(ours), 3, 2.5)
    for axes, (column, table, key, title, label, log) in zip(panels, ours):
        axes.plot([row["step"] for row in theirs], [row[column] for row in theirs], color="#222", linestyle="none",
                  marker="D", markersize=4.5, markerfacecolor="white", zorder=3, clip_on=False)
        for group in measured:
            curve = _measured(group, table, key)
            axes.plot(curve["step"], curve["mean"], color=group.color, linestyle=group.dash)
        if log:
            axes.set_yscale("log")
        steps_axis(axes, max(last, theirs[-1]["step"]))
        axes.set_title(title)
        axes.set_ylabel(label)
    legend(figure, measured, [("published (Guo et al.)", {"color": "#222", "linestyle": "none", "marker": "D",
                                                          "markerfacecolor": "white"})])
    return Figure("published", "Beside the published curve",
                  "Bigram-Backcopy, one softmax layer, T 256. Diamonds: the authors' saved results with d 256, batch "
                  "512, AdamW 3e-4 (Guo et al., arXiv:2410.13835); lines: these runs, whose settings stand at the end. "
                  "Their logit delta averages token types with triggers, so it lies a little below a mean over "
                  "non-trigger queries.", ("sink_logit_delta", "wo_value_norm")).save(figure)


def published_table(groups):
    """-> (heading, rows): for each published step the nearest measured one within 10%."""
    rows = []
    for group in paper_groups(groups):
        curves = {panel[0]: _measured(group, panel[1], panel[2]) for panel in PUBLISHED_PANELS}
        last = max(run.last_step for run in group.runs)
        for theirs in published():
            if theirs["step"] > last:
                break
            cells = []
            for column, *_ in PUBLISHED_PANELS:
                curve = curves[column]
                near = curve[(curve["step"] - theirs["step"]).abs() <= 0.1 * theirs["step"]] if len(curve) else curve
                ours = None
                if len(near):
                    ours = float(near.loc[(near["step"] - theirs["step"]).abs().idxmin(), "mean"])
                cells.append((ours, theirs[column]))
            rows.append((group.label, int(theirs["step"]), cells))
    return [panel[3] for panel in PUBLISHED_PANELS], rows
