"""Figures of a sweep: loss against learning rate, differences from the control, sink metrics; every seed is a point."""

import math

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .figures import WIDTH, Figure, grid
from .sweep import CONTROL, is_told_apart, label_of

_SINKS = ("first_mass_effective", "placeholder_mass_effective", "sink_rate", "drain_ratio", "residual_peak_ratio",
          "massive_ratio")
_TITLES = {"first_mass_effective": "First-token mass, effective", "placeholder_mass_effective": "Placeholder mass",
           "sink_rate": "Sink rate, percent", "drain_ratio": "Value drain", "residual_peak_ratio": "Residual peak, ratio",
           "massive_ratio": "Massive activation ratio"}


def _others(rows):
    return list(dict.fromkeys(tuple(row["other"].items()) for row in rows))


def _other_words(other):
    return label_of("", None, other).strip(" ()")


def loss_by_rate(analysis, colors):
    """Seeds as points, mean and one standard deviation as a line with bars, one panel per value of the other axes."""
    rows = [row for row in analysis["settings"] if row["rate"] is not None and row["mean"]["loss_val"] is not None]
    if not rows:
        return None
    others, variants = _others(rows), list(dict.fromkeys(row["variant"] for row in rows))
    figure, panels = grid(len(others), 2 if len(others) > 1 else 1, 3.6)
    for axes, other in zip(panels, others):
        here = [row for row in rows if tuple(row["other"].items()) == other]
        rates = sorted({row["rate"] for row in here})
        for place, variant in enumerate(variants):
            same = sorted((row for row in here if row["variant"] == variant), key=lambda row: row["rate"])
            if not same:
                continue
            shift = 10 ** (0.012 * (place - (len(variants) - 1) / 2))  # side by side on the logarithmic axis
            xs = [row["rate"] * shift for row in same]
            means = [row["mean"]["loss_val"] for row in same]
            axes.errorbar(xs, means, yerr=[row["sd"]["loss_val"] or 0.0 for row in same], color=colors[variant],
                          marker="_", markersize=9, capsize=3, linewidth=1.3, label=variant if other == others[0] else None)
            for x, row in zip(xs, same):
                seeds = [value for value in row["values"]["loss_val"] if value is not None]
                axes.plot([x] * len(seeds), seeds, linestyle="none", marker="o", markersize=4.5, alpha=0.65,
                          color=colors[variant], markeredgewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(rates))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_xlim(rates[0] / 1.35, rates[-1] * 1.35)
        axes.set_xlabel("peak learning rate")
        axes.set_ylabel("validation loss, nats per token")
        axes.set_title(_other_words(other) or "Validation loss at the last step")
    _legend_above(figure, *panels[0].get_legend_handles_labels())
    return Figure("sweep_rates", "Validation loss against learning rate",
                  "Final validation loss, scored on identical targets. Points: seeds; line and bars: mean and one standard "
                  "deviation (n \u2212 1). Variants are moved sideways a little so that they can be told apart.").save(figure)


def _legend_above(figure, handles, labels):
    columns = max(1, min(len(labels), int(105 / (max(map(len, labels)) + 7))))
    strip = (0.12 + 0.19 * -(-len(labels) // columns)) / figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, 0, 1, 1 - strip), h_pad=1.4, w_pad=1.6)
    figure.legend(handles, labels, loc="upper center", ncol=columns, fontsize=8.5, bbox_to_anchor=(0.5, 1.0))


def forest(analysis, colors):
    """Paired differences of the validation loss: one line per comparison, its seeds as points, its interval as a bar."""
    rows = [row for row in analysis["comparisons"] if "loss_val" in row["metrics"]]
    if not rows:
        return None
    lines, kinds = [], (("best rate", "each at its best learning rate"), ("equal parameters", "beside a softmax of its size"),
                        ("equal rate", "at equal learning rate"))
    for kind, title in kinds:
        same = [row for row in rows if row["kind"] == kind]
        lines += [(title, None)] * bool(same) + [(None, row) for row in same]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.3 * len(lines)))
    names = []
    for y, (title, row) in enumerate(lines):
        names.append(title if row is None else _forest_name(row))
        if row is None:
            continue
        metric, color = row["metrics"]["loss_val"], colors[row["variant"]]
        if metric["low"] is not None:
            axes.plot([metric["low"], metric["high"]], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot(metric["differences"], [y + 0.25] * metric["n"], linestyle="none", marker="o", markersize=4.2, color=color,
                  alpha=0.55, markeredgewidth=0)
        axes.plot([metric["mean"]], [y], marker="D", markersize=6, color=color,
                  markerfacecolor=color if is_told_apart(metric) else "white", zorder=4)
        interval = (f"{metric['mean']:+.4f}" + ("" if metric["low"] is None else
                                                f" [{metric['low']:+.4f}, {metric['high']:+.4f}]") + f"  n = {metric['n']}")
        axes.annotate(interval, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5, color="#333",
                      annotation_clip=False)
    axes.axvline(0, color="#333", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    for text, (title, row) in zip(axes.get_yticklabels(), lines):
        text.set_fontweight("bold" if row is None else "normal")
        text.set_fontsize(8.5 if row is None else 8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(lines) - 0.4, -0.7)
    axes.set_xlabel("difference in validation loss from the control, nats (left of 0: lower than the control)")
    figure.tight_layout()
    return Figure("sweep_differences", "Differences from the softmax control",
                  f"Paired by seed, data and other settings. Points below a bar: seeds; diamond: mean; bar: {100 * analysis['level']:.0f} % "
                  "interval of Student's t. A filled diamond is told apart from 0 after Holm's correction over the "
                  "variants of its block, an open one is not.").save(figure)


def _forest_name(row):
    against = "" if row["control"] == CONTROL else f" \u2212 {row['control']}"
    return label_of(row["variant"], row["rate"], row["other"]) + against


def sinks(analysis, colors):
    """Sink metrics of every variant at its best rate: seeds as points, means as lines."""
    chosen = {(row["variant"], row["rate"], tuple(row["other"].items())) for row in analysis["best"]}
    rows = [row for row in analysis["settings"] if (row["variant"], row["rate"], tuple(row["other"].items())) in chosen]
    keys = [key for key in _SINKS if any(row["mean"][key] is not None for row in rows)]
    if not keys:
        return None
    figure, panels = grid(len(keys), 3, 1.0 + 0.24 * len(rows))
    for place, (axes, key) in enumerate(zip(panels, keys)):
        for y, row in enumerate(rows):
            seeds, color = [value for value in row["values"][key] if value is not None], colors[row["variant"]]
            axes.plot(seeds, [y] * len(seeds), linestyle="none", marker="o", markersize=5, color=color, alpha=0.6,
                      markeredgewidth=0)
            if row["mean"][key] is not None and math.isfinite(row["mean"][key]):
                axes.plot([row["mean"][key]] * 2, [y - 0.3, y + 0.3], color=color, linewidth=2)
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows] if place % 3 == 0 else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(_TITLES[key])
    figure.tight_layout(h_pad=1.4, w_pad=1.2)
    return Figure("sweep_sinks", "Sink metrics at the best learning rates", "At the last probe, each variant at its best "
                  "learning rate. Points: seeds; line: their mean. Read the sink rate, which scales rows to sum 1, "
                  "together with the effective mass, which does not.", tuple(keys)).save(figure)


def figures_of(analysis, colors):
    return {"sweep_rates": loss_by_rate(analysis, colors), "sweep_differences": forest(analysis, colors),
            "sweep_sinks": sinks(analysis, colors)}
