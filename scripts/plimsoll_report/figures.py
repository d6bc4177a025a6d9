"""Curves against the training step and per-layer profiles. Every function returns a Figure or None when the runs hold
nothing to draw; one colour per variant, one dash per setting of it, a band of one sd where there are several seeds."""

import base64
import io
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator  # noqa: E402

from .metrics import ALL, PER_HEAD  # noqa: E402

DPI = 144
WIDTH = 10.0  # inches
SMOOTHING = 0.1  # the smoothed training loss at step s is the mean over (1 +- SMOOTHING) s: even on a log axis

plt.rcParams.update({
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelsize": 8.5, "axes.labelcolor": "#444", "axes.edgecolor": "#999",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "xtick.color": "#555", "ytick.color": "#555",
    "xtick.labelsize": 8, "ytick.labelsize": 8, "lines.linewidth": 1.7, "legend.frameon": False,
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.titlepad": 7,
})


@dataclass
class Figure:
    name: str  # file name without .png
    title: str
    caption: str
    metrics: tuple = ()  # keys whose definition and source stand below the caption
    png: bytes = b""

    def save(self, figure):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        plt.close(figure)
        self.png = buffer.getvalue()
        return self

    @property
    def data_uri(self):
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def steps_axis(axes, last, label=True):
    """Log axis that still shows step 0."""
    start = 10 if last > 2000 else 1
    axes.set_xscale("symlog", linthresh=start, linscale=0.35)
    ticks, tick = [0], start
    while tick <= max(last, start):
        ticks.append(tick)
        tick *= 10
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(FixedLocator([m * t for t in ticks[1:] for m in range(2, 10) if m * t <= last]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.set_xlim(0, max(last, start) * 1.08)
    if label:
        axes.set_xlabel("step")


def value_axis(axes, metric):
    if metric.scale == "log":
        low = min((min(y for y in line.get_ydata() if y > 0) for line in axes.get_lines()
                   if any(y > 0 for y in line.get_ydata())), default=None)
        if low is not None:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: ""))
            bottom, top = axes.get_ylim()
            for digits in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5)):
                ticks = [d * 10.0 ** e for e in range(-6, 9) for d in digits if bottom <= d * 10.0 ** e <= top]
                if len(ticks) <= 6:
                    break
            if 2 <= len(ticks) <= 6:
                axes.yaxis.set_major_locator(FixedLocator(ticks))
                axes.yaxis.set_minor_locator(NullLocator())
    elif metric.scale == "unit":
        axes.set_ylim(-0.03, max(0.35, axes.get_ylim()[1]))
        if axes.get_ylim()[1] > 0.8:
            axes.set_ylim(-0.03, 1.03)
    if metric.reference is not None:
        axes.axhline(metric.reference, color="#888", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    axes.set_ylabel(metric.label)


def draw(axes, curve, group, x="step", **style):
    if not len(curve):
        return False
    options = {"color": group.color, "linestyle": group.dash, "alpha": 0.92, **style}
    if len(curve) == 1:
        options["marker"] = "o"
    axes.plot(curve[x], curve["mean"], **options)
    if (curve["sd"] > 0).any():
        axes.fill_between(curve[x], curve["mean"] - curve["sd"], curve["mean"] + curve["sd"], color=group.color,
                          alpha=0.15, linewidth=0)
    return True


def legend(figure, groups, extra=()):
    """One legend above the panels. Call after the layout is fixed."""
    handles = [Line2D([], [], color=g.color, linestyle=g.dash, linewidth=2.2, label=g.label) for g in groups]
    handles += [Line2D([], [], label=label, **style) for label, style in extra]
    widest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(105 / (widest + 7))))
    rows = -(-len(handles) // columns)
    height = figure.get_size_inches()[1]
    strip = (0.10 + 0.19 * rows) / height
    figure.tight_layout(rect=(0, 0, 1, 1 - strip), h_pad=1.4, w_pad=1.6)
    figure.legend(handles=handles, loc="upper center", ncol=columns, fontsize=8.5, bbox_to_anchor=(0.5, 1.0),
                  handlelength=2.0, columnspacing=1.6, borderaxespad=0.25)


def grid(count, columns=3, height=2.45):
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows + 0.35), squeeze=False)
    flat = list(axes.flat)
    for spare in flat[count:]:
        spare.remove()
    return figure, flat[:count]


def _last(groups):
    return max(run.last_step for group in groups for run in group.runs)


def metric_curves(name, title, keys, groups, caption, columns=3):
    """One panel per metric that any run recorded, every variant in it, against the step."""
    keys, constant = _varying({key: pd.concat([_curve(group, key)["mean"] for group in groups]) for key in keys})
    if not keys:
        return None
    figure, panels = grid(len(keys), columns)
    shown = []
    for axes, key in zip(panels, keys):
        for group in groups:
            if draw(axes, _curve(group, key), group) and group not in shown:
                shown.append(group)
        value_axis(axes, ALL[key])
        steps_axis(axes, _last(groups))
        axes.set_title(ALL[key].title)
    legend(figure, [group for group in groups if group in shown])
    return Figure(name, title, caption + constant, tuple(keys)).save(figure)


def _varying(values):
    """-> (metrics worth a panel, a sentence about those that are one constant in every run)."""
    known = {key: column.dropna() for key, column in values.items() if len(column.dropna())}
    flat = {key: column.iloc[0] for key, column in known.items()
            if len(column) > 1 and column.max() - column.min() <= 1e-9}
    text = ", ".join(f"{ALL[key].title} ({value:g})" for key, value in flat.items())
    return [key for key in known if key not in flat], f" Constant in every run and not drawn: {text}." if text else ""


def _curve(group, key):
    return group.curve("heads", key) if key in PER_HEAD else group.peak_curve(key)


def losses(groups):
    if not any(len(run.metrics) or len(run.evals) for group in groups for run in group.runs):
        return None
    figure, (left, right) = grid(2, 2, 3.1)
    for group in groups:
        curve = group.curve("metrics", "loss")
        if len(curve):
            left.plot(curve["step"], curve["mean"], color=group.color, alpha=0.13, linewidth=0.8)
            draw(left, _smooth(curve), group)
        draw(right, group.curve("evals", "loss"), group, marker="o", markersize=3)
    for axes, text in ((left, "Training loss (faint: each step)"), (right, "Held-out loss")):
        steps_axis(axes, _last(groups))
        axes.set_title(text)
        axes.set_ylabel("nats per token")
    legend(figure, groups)
    return Figure("loss", "Loss", "Cross-entropy in nats per token against the step. Left: every training step faint, "
                  f"over it the mean of the steps within {100 * SMOOTHING:g}%. Right: the held-out evaluations, "
                  "scored on the targets that all variants share. An equal loss with and without a sink is what "
                  "Qiu et al. (arXiv:2505.06708) and Ramapuram et al. (arXiv:2409.04431) report.").save(figure)


def _smooth(curve):
    steps, loss = curve["step"].to_numpy(), curve["mean"].to_numpy()
    sums = np.concatenate(([0.0], np.cumsum(loss)))
    first = np.searchsorted(steps, steps * (1 - SMOOTHING), "left")
    end = np.searchsorted(steps, steps * (1 + SMOOTHING), "right")
    return curve.assign(mean=(sums[end] - sums[first]) / (end - first), sd=0.0)


def risks(groups):
    shown = [group for group in groups if len(group.curve("evals", "bigram_risk"))]
    if not shown:
        return None
    figure, panels = grid(3, 3, 2.9)
    floors = sorted({round(oracle["bigram_risk"], 6) for group in shown for run in group.runs
                     if (oracle := run.oracle) and oracle["bigram_risk"] is not None})
    for group in shown:
        bigram = group.curve("evals", "bigram_risk")
        draw(panels[0], bigram, group, marker="o", markersize=2.5)
        floor = (group.runs[0].oracle or {}).get("bigram_risk")
        if floor is not None:
            excess = bigram.assign(mean=(bigram["mean"] - floor).clip(lower=1e-6))
            draw(panels[1], excess, group, marker="o", markersize=2.5)
        copy = group.curve("evals", "copy_risk")
        draw(panels[2], copy.assign(mean=copy["mean"].clip(lower=1e-7)), group, marker="o", markersize=2.5)
    bottom, top = panels[0].get_ylim()
    panels[0].set_ylim(min([bottom, *floors]) - 0.09 * (top - bottom), top)
    for floor in floors:
        panels[0].axhline(floor, color="#333", linewidth=1, linestyle=(0, (4, 2)))
        panels[0].annotate(f"exact floor {floor:.4f}", (0.98, floor), xycoords=("axes fraction", "data"), fontsize=7.5,
                           color="#333", ha="right", va="top", xytext=(0, -2), textcoords="offset points")
    panels[1].axhline(0.06, color="#888", linewidth=0.9, linestyle=(0, (2, 2)))
    panels[2].axhline(0.05, color="#888", linewidth=0.9, linestyle=(0, (2, 2)))
    copying = all(not (run.oracle or {}).get("copy_risk") for group in shown for run in group.runs)
    copy_title = "Back-copy risk (floor 0)" if copying else "Back-copy risk"
    for axes, text, label in zip(panels, ("Bigram risk", "Bigram risk above its floor", copy_title),
                                 ("nats", "nats, log", "nats, log")):
        steps_axis(axes, _last(groups))
        axes.set_title(text)
        axes.set_ylabel(label)
    for axes in panels[1:]:
        if axes.get_lines():
            axes.set_yscale("log")
    legend(figure, shown)
    return Figure("risk", "Risk split: bigram and back-copy", "Cross-entropy against the oracle's conditional "
                  "distribution on held-out sequences: bigram risk where the current token is not a trigger, back-copy "
                  "risk where it is. Dashed: the exact floor of the bigram task for the run's own context length; the "
                  "back-copy floor is 0. Dotted: the limits of the verdicts, 0.06 nats above the floor and 0.05. The "
                  "bigram is learned first (by the MLP), back-copy abruptly afterwards (by attention). Task and "
                  "figure: Guo et al., arXiv:2410.13835.").save(figure)


def sink_curves(groups):
    return metric_curves(
        "sink", "Sink metrics against the step",
        ("first_mass_effective", "first_mass_normalized", "first_mass_raw", "placeholder_mass_effective",
         "placeholder_mass_normalized", "placeholder_mass_raw", "row_mass", "sink_rate", "dormant", "dormant_0p9"), groups,
        "Means over layers and heads; read the first three together with the row mass: a normalised share can call a "
        "sigmoid row of total mass 0.004, or a closed gate, a sink. In a placeholder run the first token is the token "
        "after the placeholder.")


def mechanism_curves(groups):
    return metric_curves(
        "mechanism", "How a sink is made: logits, keys and entropy",
        ("sink_logit_delta", "sink_logit_delta_std", "entropy", "key_ratio", "query_key_cosine", "logit_max",
         "dead_rows", "head_output_ratio"), groups,
        "Means over layers and heads; p is the placeholder where a run has one, else token 0. The sink's logit grows "
        "with the logarithm of the step long after the loss has converged (Guo et al.); its key is small and points "
        "where queries point (Gu et al.).")


def drain_curves(groups):
    return metric_curves(
        "drain", "Value drain", ("drain_ratio", "value_ratio", "wo_value_norm"), groups,
        "Means over layers and heads; p is the placeholder where a run has one, else token 0. A sink's value shrinks "
        "so that attending to it adds nothing; dotted: no drain.")


def gate_curves(groups):
    gated = [group for group in groups if len(group.curve("heads", "gate_mean"))]
    if not gated:
        return None
    return metric_curves(
        "gate", "Gates", ("gate_mean", "gate_below_0p1"), gated,
        "Means over layers, heads, tokens and channels of the sigmoid gate after attention; 0.5 at initialisation. "
        "Sparse, input-dependent gates take over the work of the sink.", columns=2)


def _profiles(name, title, keys, groups, caption):
    """Per-layer profile at the last probe: x = 0 after the embedding, l after block l."""
    keys, constant = _varying({key: pd.Series([x for group in groups for x in group.final_layers(key).values()],
                                              dtype="float64") for key in keys})
    if not keys:
        return None
    figure, panels = grid(len(keys), 3, 2.55)
    for axes, key in zip(panels, keys):
        for group in groups:
            values = group.final_layers(key)
            if values:
                xs = sorted(values)
                axes.plot(xs, [values[x] for x in xs], color=group.color, linestyle=group.dash, marker="o",
                          markersize=3.5)
        value_axis(axes, ALL[key])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.set_xlabel("after block (0: embedding)")
        axes.set_title(ALL[key].title)
    legend(figure, groups)
    return Figure(name, title, caption + constant, tuple(keys)).save(figure)


def residual_profiles(groups):
    return _profiles("residual", "Residual-state peaks by layer",
                     ("residual_peak_ratio", "residual_peak", "residual_norm", "cosine_with_first"), groups,
                     "State of the residual stream at the last probe, p = the placeholder where there is one, else "
                     "token 0; norms are averaged over sequences. With one layer the last state feeds only the final "
                     "norm, so read the peak in runs of several layers (Guo et al.).")


def massive_profiles(groups):
    return _profiles("massive", "Massive activations by layer",
                     ("max_abs", "massive_ratio", "massive_count", "massive_at_first", "kurtosis_first",
                      "kurtosis_rest"), groups,
                     "At the last probe. The absolute criterion of 100 rarely fires in small models, so the ratio "
                     "stands beside it.")


def residual_curves(groups):
    return metric_curves("residual_steps", "Residual peaks and massive activations against the step",
                         ("residual_peak_ratio", "residual_peak", "massive_ratio", "max_abs", "kurtosis_first",
                          "kurtosis_rest"), groups,
                         "At every probe the block in which the value is largest (the embedding left out).")
