"""Runs that differ only in their seed form one group: one colour, one curve (mean, band of one sd), one table row."""

import math
from dataclasses import dataclass, field

import pandas as pd

# Okabe and Ito's colours, told apart with every common kind of colour blindness; one per variant, in every figure.
COLORS = {
    "softmax": "#D55E00", "sigmoid": "#0072B2", "gated": "#009E73", "gated_headwise": "#CC79A7",
    "placeholder": "#E69F00", "softmax1": "#56B4E9", "sink_logit": "#56B4E9", "relu": "#8C6D31", "window": "#7F7F7F",
}
_SPARE = ["#332288", "#882255", "#44AA99", "#999933", "#661100", "#6699CC", "#AA4499", "#117733"]
_ORDER = ["softmax", "sigmoid", "gated", "gated_headwise", "placeholder"]
_DASHES = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3))]
# Settings that may differ between seeds of one experiment, or that do not change what is trained.
_NOT_IDENTITY = ("seed", "dir", "name", "threads", "resume")


@dataclass
class Group:
    runs: list
    label: str = ""
    color: str = "#333333"
    dash: object = "-"

    @property
    def variant(self):
        return self.runs[0].variant

    @property
    def info(self):
        return self.runs[0].info

    def curve(self, frame, column, **selected):
        """-> DataFrame step, mean, sd over the seeds. `selected` narrows e.g. the layer; other axes are averaged."""
        curves = []
        for run in self.runs:
            table = getattr(run, frame)
            if frame in ("heads", "layers"):
                table = table[table["metric"] == column].rename(columns={"value": column})
            for key, value in selected.items():
                table = table[table[key] == value]
            table = table.dropna(subset=[column])
            if len(table):
                curves.append(table.groupby("step")[column].mean())
        return _across_seeds(curves)

    def peak_curve(self, column):
        """Like curve() of a per-layer metric, of the block where it is largest (index 0, the embedding, left out)."""
        curves = []
        for run in self.runs:
            table = run.layers[(run.layers["metric"] == column) & (run.layers["layer"] >= 1)]
            if len(table):
                curves.append(table.groupby("step")["value"].max())
        return _across_seeds(curves)

    def final_heads(self, metric):
        """-> {(layer, head): mean over the seeds} at each run's last probe."""
        return _mean_by([run.heads for run in self.runs], metric, ["layer", "head"])

    def final_layers(self, metric):
        return _mean_by([run.layers for run in self.runs], metric, ["layer"])


def _across_seeds(curves):
    if not curves:
        return pd.DataFrame({"step": [], "mean": [], "sd": []})
    table = pd.concat(curves, axis=1)
    return pd.DataFrame({"step": table.index, "mean": table.mean(axis=1).values,
                         "sd": table.std(axis=1, ddof=1).fillna(0.0).values}).sort_values("step")


def _mean_by(frames, metric, keys):
    last = []
    for frame in frames:
        table = frame[frame["metric"] == metric]
        if len(table):
            last.append(table[table["step"] == frame["step"].max()])
    table = pd.concat(last) if last else pd.DataFrame()
    return {} if table.empty else table.groupby(keys if len(keys) > 1 else keys[0])["value"].mean().to_dict()


def group_runs(runs):
    """-> groups in the order softmax, sigmoid, gated, gated_headwise, placeholder, others as given."""
    by_identity = {}
    for run in runs:
        by_identity.setdefault(_identity(run), []).append(run)
    groups = []
    for same in by_identity.values():
        # Two runs of one seed are no sample of seeds: they stand side by side.
        seeds = [run.info.get("seed") for run in same]
        if len(set(seeds)) == len(seeds):
            groups.append(Group(runs=sorted(same, key=lambda run: run.info.get("seed") or 0)))
        else:
            groups += [Group(runs=[run]) for run in same]
    rank = {variant: place for place, variant in enumerate(_ORDER)}
    groups.sort(key=lambda group: rank.get(group.variant, len(_ORDER)))
    _label(groups)
    return groups


def _identity(run):
    info = [(key, str(run.info.get(key))) for key in
            ("variant", "params", "layers", "heads", "precision", "qk_norm", "placeholders", "steps", "oracle")]
    config = [(key, value) for key, value in sorted(run.config.items()) if not _free(key)]
    return tuple(info + config)


def _free(key):
    words = key.lower().replace("-", "_").split(".")
    return words[0] == "run" or any(part in _NOT_IDENTITY for part in words[-1].split("_"))


def _label(groups):
    spare = iter(_SPARE * 4)
    chosen = dict(COLORS)
    by_variant = {}
    for group in groups:
        if group.variant not in chosen:
            chosen[group.variant] = next(spare)
        group.color = chosen[group.variant]
        by_variant.setdefault(group.variant, []).append(group)
    for variant, same in by_variant.items():
        for place, group in enumerate(same):
            group.dash = _DASHES[place % len(_DASHES)]
            group.label = variant if len(same) == 1 else f"{variant} ({_difference(group, same)})"
        labels = [group.label for group in same]
        for group in same:
            if labels.count(group.label) > 1:
                group.label = f"{variant} ({group.runs[0].path.parent.name}/{group.runs[0].path.name})"


def variant_colors(groups):
    return {group.variant: group.color for group in groups}


def _difference(group, same):
    """What sets this group apart from the others of its variant, in at most two settings; else its name."""
    infos = {key: {str(other.info.get(key)) for other in same} for key in ("layers", "heads", "precision", "qk_norm")}
    parts = [f"{key} {_words(group.info.get(key))}" for key, values in infos.items() if len(values) > 1]
    keys = sorted({key for other in same for key in other.runs[0].config if not _free(key)})
    for key in keys:
        values = {other.runs[0].config.get(key) for other in same}
        if len(values) > 1 and not any(part.split()[0] in key for part in parts):
            parts.append(f"{key.split('.')[-1]} {group.runs[0].config.get(key, 'unset')}")
    return ", ".join(parts) if 0 < len(parts) <= 2 else group.runs[0].name


def _words(value):
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unknown" if value is None else value


def mean_sd(values):
    """-> (mean, sd with n - 1, count) of the values that are not None."""
    known = [value for value in values if value is not None]
    if not known:
        return None, None, 0
    mean = sum(known) / len(known)
    sd = math.sqrt(sum((x - mean) ** 2 for x in known) / (len(known) - 1)) if len(known) > 1 else None
    return mean, sd, len(known)


def is_placeholder(group):
    return bool(group.info.get("placeholders"))
