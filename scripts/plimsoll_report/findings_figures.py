"""Figures of the findings, drawn of summaries alone: the runs may be gone."""

import math

from .figures import Figure, grid, steps_axis
from .groups import COLORS
from .measured import TITLES

# What each sweep is about; the first metric also shows the published figures where there are some by variant.
_METRICS = {
    "optimizers": ("residual_first_block", "residual_growth", "first_mass_normalized", "copy_risk"),
    "variants": ("sink_rate", "first_mass_normalized", "first_mass_effective", "row_mass", "drain_ratio", "loss"),
    "placeholder": ("first_mass_normalized", "placeholder_mass_normalized", "sink_rate", "loss"),
    "training": ("first_mass_normalized", "sink_rate", "drain_ratio", "loss"),
    "gates": ("first_mass_normalized", "first_mass_effective", "sink_rate", "loss"),
    "rates": ("loss",),
    "windows": ("first_mass_normalized", "sink_rate", "drain_ratio", "loss"),
    "hybrid": ("copy_risk", "first_mass_normalized", "top_first_mass", "loss"),
}
_CURVE_TITLES = {"bigram_risk": "Bigram risk", "copy_risk": "Back-copy risk",
                 "first_mass_normalized": "First-token mass, strongest head", "wo_value_norm": "|W_O v_<s>|, strongest head",
                 "residual_first_block": "|h_<s>| after block 0"}
_SHADES = ["#333333", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31"]


def label(cell):
    values = [f"{key.split('.')[-1]} {value:g}" if isinstance(value, float) else str(value)
              for key, value in cell["settings"].items()]
    return ", ".join([cell["variant"] or "run", *values])


def settings_of(summary):
    """-> {label: cells that are done}, in the order of the sweep."""
    found = {}
    for cell in summary["cells"]:
        found.setdefault(label(cell), [])
        if cell.get("values"):
            found[label(cell)].append(cell)
    return found


def _color(name, cells, place):
    return COLORS.get(cells[0]["variant"], _SHADES[place % len(_SHADES)]) if cells else "#999999"


def dots(summary, published=None):
    """A panel per metric, a line per setting: seeds as points, their mean as a bar, published values as diamonds."""
    rows = settings_of(summary)
    metrics = [key for key in _METRICS.get(summary["sweep"], ())
               if any(cell["values"].get(key) is not None for cells in rows.values() for cell in cells)]
    if not metrics:
        return None
    figure, panels = grid(len(metrics), 2, 0.9 + 0.24 * len(rows))
    for place, (axes, key) in enumerate(zip(panels, metrics)):
        for y, (name, cells) in enumerate(rows.items()):
            values = [cell["values"][key] for cell in cells if cell["values"].get(key) is not None]
            color = _color(name, cells, y)
            axes.plot(values, [y] * len(values), linestyle="none", marker="o", markersize=5, color=color, alpha=0.6,
                      markeredgewidth=0)
            if values:
                axes.plot([math.fsum(values) / len(values)] * 2, [y - 0.3, y + 0.3], color=color, linewidth=2)
            theirs = (published or {}).get(cells[0]["variant"]) if cells and place == 0 else None
            if theirs is not None:
                axes.plot([theirs], [y], linestyle="none", marker="D", markersize=6, markerfacecolor="white", color="#333")
        axes.set_yticks(range(len(rows)), list(rows) if place % 2 == 0 else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        title = TITLES[key]
        axes.set_title(title[:1].upper() + title[1:])
    figure.tight_layout(h_pad=1.4, w_pad=1.2)
    caption = "At the end of training. Points: seeds; line: their mean."
    if published:
        caption += " Diamonds in the first panel: the published values, of 60 M parameters."
    return Figure(f"findings_{summary['scale']}_{summary['sweep']}", "Measured", caption).save(figure)


def curves(summary):
    """Against the step, a line per seed, a colour per setting."""
    rows = {name: [cell for cell in cells if cell.get("curves")] for name, cells in settings_of(summary).items()}
    keys = [key for key in _CURVE_TITLES if any(cell["curves"].get(key) for cells in rows.values() for cell in cells)]
    if not keys:
        return None
    figure, panels = grid(len(keys), 2, 2.6)
    for axes, key in zip(panels, keys):
        last = 1
        for place, (name, cells) in enumerate(rows.items()):
            for cell in cells:
                points = cell["curves"].get(key) or []
                axes.plot([step for step, _ in points], [value for _, value in points], color=_SHADES[place % len(_SHADES)],
                          linewidth=1.2, alpha=0.8, label=name if cell is cells[0] else None)
                last = max([last, *(step for step, _ in points)])
        axes.set_title(_CURVE_TITLES[key])
        steps_axis(axes, last)
    if len(rows) > 1:
        panels[0].legend(fontsize=7.5)
    figure.tight_layout(h_pad=1.4, w_pad=1.6)
    return Figure(f"findings_{summary['scale']}_{summary['sweep']}_steps", "Against the step",
                  "One line per seed.").save(figure)
