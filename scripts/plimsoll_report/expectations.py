"""What a variant is expected to show, and what the numbers say. A threshold that does not hold is printed as short."""

from dataclasses import dataclass
from operator import ge, le

from .summary import number

_SIGN = {ge: "\u2265", le: "\u2264"}


@dataclass(frozen=True)
class Threshold:
    """final[key] compared with a limit; `above` names an oracle floor that is added to the limit."""
    key: str
    compare: object
    limit: float
    title: str
    above: str = ""

    def judge(self, row):
        floor = (row["oracle"] or {}).get(self.above) if self.above else 0.0
        if floor is None:
            return None
        value = row["mean"].get(self.key)
        limit = self.limit + floor
        wanted, title = f"{_SIGN[self.compare]} " + (f"{limit:.4f}" if floor else f"{limit:g}"), self.title
        if floor:
            title += f" (floor {floor:.4f} + {self.limit:g})"
        return {"key": self.key, "title": title, "wanted": wanted, "limit": limit, "value": value,
                "digits": 4 if floor or self.key == "loss" else 3,
                "pass": None if value is None else bool(self.compare(value, limit))}


_LEARNED = (
    Threshold("copy_risk", le, 0.05, "back-copy risk", above="copy_risk"),
    Threshold("bigram_risk", le, 0.06, "bigram risk", above="bigram_risk"),
)
# One-layer Bigram-Backcopy after 1,000 steps, by variant.
ONE_LAYER = {
    "softmax": (Threshold("first_mass_effective", ge, 0.5, "effective first-token mass"),
                Threshold("drain_ratio", le, 0.4, "value drain")),
    "sigmoid": (Threshold("first_mass_effective", le, 0.05, "effective first-token mass"),
                Threshold("drain_ratio", ge, 0.5, "value drain")),
    "gated": (Threshold("first_mass_effective", le, 0.12, "effective first-token mass"),
              Threshold("drain_ratio", ge, 0.35, "value drain")),
    "gated_headwise": (Threshold("first_mass_effective", le, 0.12, "effective first-token mass"),
                       Threshold("drain_ratio", ge, 0.35, "value drain")),
    "placeholder": (Threshold("placeholder_mass_effective", ge, 0.4, "effective mass on the placeholder"),
                    Threshold("first_mass_effective", le, 0.2, "effective mass on the first real token")),
}
# Character-level Shakespeare, 2,000 steps of the small CPU recipe: mean loss over the whole validation split.
SHAKESPEARE = {"softmax": 1.92, "gated": 1.94, "placeholder": 1.93, "sigmoid": 1.98}
# The setting of Guo et al.: T = 256, told by its exact bigram floor.
PAPER_FLOOR, PAPER_STEP = 2.2228, 1000
# A softmax control below both has no sink itself: then a sink's absence elsewhere shows nothing.
CONTROL_MASS, CONTROL_RATE = 0.15, 5.0


def is_paper_setting(group):
    """One softmax layer on Bigram-Backcopy with T = 256, as in Guo et al., section 3."""
    oracle = group.runs[0].oracle
    floor = oracle and oracle["bigram_risk"]
    return bool(group.variant == "softmax" and group.info.get("layers") == 1 and floor is not None
                and abs(floor - PAPER_FLOOR) < 1e-3)


def thresholds(row, group):
    another_task = "(task " in (group.info.get("data") or "")  # where nobody has said what a head should do
    one_layer_task = row["oracle"] and row["layers"] == 1 and not another_task
    if is_paper_setting(group):
        judged = [Threshold("bigram_risk", le, 2.26, "bigram risk").judge(row),
                  Threshold("copy_risk", le, 0.05, "back-copy risk").judge(row)]
        return judged + _paper_curve(group)
    if one_layer_task and row["variant"] in ONE_LAYER:
        return [t for t in (rule.judge(row) for rule in ONE_LAYER[row["variant"]] + _LEARNED) if t]
    if row["oracle"]:
        return [t for t in (rule.judge(row) for rule in _LEARNED) if t]
    if group.runs[0].name.startswith("shakespeare") and row["variant"] in SHAKESPEARE:
        return [Threshold("loss", le, SHAKESPEARE[row["variant"]], "validation loss").judge(row)]
    return []


def _paper_curve(group):
    """Attention to <s> at step 1,000, and where the sink's value norm peaks."""
    mass = group.curve("heads", "first_mass_effective")  # no gate: the raw weight, at non-trigger queries
    at = mass[mass["step"] >= PAPER_STEP]
    value = float(at.iloc[0]["mean"]) if len(at) else None
    judged = [{"key": "first_mass_effective", "title": f"attention to <s> at step {PAPER_STEP}", "wanted": "\u2265 0.7",
               "limit": 0.7, "value": value, "digits": 3, "pass": None if value is None else value >= 0.7}]
    norm = group.curve("heads", "wo_value_norm")
    peak = falls = None
    if len(norm):
        top = norm.loc[norm["mean"].idxmax()]
        peak = float(top["step"])
        falls = peak < 250 and float(norm.iloc[-1]["mean"]) < float(top["mean"])
    judged.append({"key": "wo_value_norm", "title": "step at which |W_O v| of <s> peaks (then falls)",
                   "wanted": "< 250, then falling", "limit": 250.0, "value": peak,
                   "digits": 0, "pass": falls})
    return judged


def has_sink(row):
    """Whether a softmax control sinks, by its effective mass or its sink rate; either may be unmeasured."""
    return _sinks(row["mean"]["first_mass_effective"], row["mean"]["sink_rate"])


def _sink_numbers(row):
    mass, rate = row["mean"]["first_mass_effective"], row["mean"]["sink_rate"]
    return f"mass {number(mass, 2)}, sink rate {number(rate, 1)}%"


def sink_verdict(row, control):
    """-> (headline, sentence): a variant is called sink-free only beside a softmax control that has a sink.

    Both are settings of a sweep: means over seeds, and the seeds' values.
    """
    final = row["mean"]
    if final["first_mass_effective"] is None:
        return "not measured", "No probes, so nothing can be said about its sink."
    if row["variant"] == "softmax":
        if has_sink(row):
            return "sinks, as a control should", f"The control has a sink ({_sink_numbers(row)})."
        return "no sink: no evidence about any variant", (
            f"The control has no sink ({_sink_numbers(row)}; wanted a mass above {CONTROL_MASS:g} or a sink rate above "
            f"{CONTROL_RATE:g}%), so the absence of a sink elsewhere shows nothing. Train longer or at a larger rate.")
    headline, text = _sink_words(row)
    if headline != "no sink":
        return headline, text
    free = _seeds(row, lambda mass, rate: mass is not None and mass <= CONTROL_MASS)
    if control is None:
        return "not judged", f"{text} No softmax control finished beside it, so this is not called sink-free."
    if control["mean"]["first_mass_effective"] is None:
        return "not judged", f"{text} The softmax control holds no probes, so this is not called sink-free."
    if not has_sink(control):
        return "not judged", (f"{text} The softmax control does not sink either ({_sink_numbers(control)}), so this is "
                              "not called sink-free.")
    rate = final["sink_rate"]
    if rate is not None and rate > CONTROL_RATE:
        text += f" Rows scaled to sum 1 still give a sink rate of {number(rate, 1)}%."
    sunk = _seeds(control, _sinks)
    text += f" The softmax control sinks ({_sink_numbers(control)}; in {sunk[0]} of {sunk[1]} seeds)."
    if free[0] < free[1]:
        return f"sink-free in {free[0]} of {free[1]} seeds", text
    return "sink-free" if sunk[0] == sunk[1] else f"sink-free where {sunk[0]} of {sunk[1]} controls sink", text


def _sinks(mass, rate):
    return (mass or 0.0) > CONTROL_MASS or (rate or 0.0) > CONTROL_RATE


def _seeds(row, holds):
    """-> (seeds for which it holds, seeds) of a sweep's setting."""
    values = list(zip(row["values"]["first_mass_effective"], row["values"]["sink_rate"]))
    return sum(bool(holds(*pair)) for pair in values), len(values)


def _sink_words(row):
    """-> (headline, sentences) from the masses alone."""
    final = row["mean"]
    if row["variant"] == "placeholder" or final["placeholder_mass_effective"] is not None:
        return _placeholder_words(final)
    effective, normalized = final["first_mass_effective"], final["first_mass_normalized"]
    headline = "sink on the first token" if effective >= 0.3 else \
        "weak sink on the first token" if effective > CONTROL_MASS else "no sink"
    text = (f"{_percent(effective)} of a query's weight effectively goes to the first token"
            + (" (mean over layers and heads)" if (row["layers"] or 0) * (row["heads"] or 0) > 1 else "")
            + (f", {_percent(normalized)} of its row once normalised"
               if normalized is not None and abs(normalized - effective) > 0.02 else "") + ".")
    if normalized is not None and normalized - effective > 0.1:
        text += " " + _why_ineffective(final)
    return headline, text


def verdict(row, group, judged):
    """-> (headline, sentences): what the numbers of one group say, in words."""
    final = row["mean"]
    sentences = []
    if final["first_mass_effective"] is None:
        headline = "no probes"
        sentences.append("This run holds no probes, so nothing can be said about its sink.")
    else:
        headline, text = _sink_words(row)
        sentences.append(text)
    if (row["layers"] or 0) * (row["heads"] or 0) > 1:
        sentences += _strongest_words(group)
    drain = final["drain_ratio"]
    if drain is not None:
        words = "strongly drained" if drain <= 0.4 else "partly drained" if drain < 0.8 else "not drained"
        who = "placeholder's" if final["placeholder_mass_effective"] is not None else "first token's"
        mean = " on average" if (row["layers"] or 0) * (row["heads"] or 0) > 1 else ""
        sentences.append(f"The {who} value is {words}{mean}: {number(drain, 2)} of the other tokens' after W_O.")
    peak = final["residual_peak_ratio"]
    if peak is not None and (row["layers"] or 0) > 1:
        block = f" after block {row['residual_peak_block']}" if row["residual_peak_block"] else ""
        words = "There is a residual peak" if peak >= 1.5 else "There is no marked residual peak"
        sentences.append(f"{words}: the state's norm is {number(peak, 2)} times the others'{block}.")
    floor = (row["oracle"] or {}).get("bigram_risk")
    if floor is not None and final["bigram_risk"] is not None and final["copy_risk"] is not None:
        sentences.append(f"The task: bigram risk {number(final['bigram_risk'] - floor, 3)} nats above its floor, "
                         f"back-copy risk {number(final['copy_risk'] - (row['oracle'].get('copy_risk') or 0), 3)}.")
    short = [item for item in judged if item["pass"] is False]
    unknown = [item for item in judged if item["pass"] is None]
    if judged and not short and not unknown:
        sentences.append(f"All {len(judged)} thresholds hold.")
    if short:
        sentences.append(f"{len(short)} of {len(judged)} thresholds {'does' if len(short) == 1 else 'do'} not hold: "
                         + "; ".join(f"{item['title']} is {number(item['value'], item['digits'])}, "
                                     f"wanted {item['wanted']}"
                                     for item in short) + ".")
    if unknown:
        sentences.append("Not measured: " + ", ".join(item["title"] for item in unknown) + ".")
    return headline, sentences


def _strongest_words(group):
    """The head with the strongest sink: means over heads hide a sink that sits in one layer."""
    masses, where = group.final_heads("placeholder_mass_effective"), "the placeholder"
    if not masses:
        masses, where = group.final_heads("first_mass_effective"), "the first token"
    if not masses:
        return []
    place = max(masses, key=masses.get)
    drain = group.final_heads("drain_ratio").get(place)
    text = f" with a value drain of {number(drain, 2)}" if drain is not None else ""
    return [f"The strongest head (layer {place[0] + 1}, head {place[1] + 1}) puts {_percent(masses[place])} on "
            f"{where}{text}."]


def _placeholder_words(final):
    holder, first = final["placeholder_mass_effective"], final["first_mass_effective"]
    if holder is None:
        return "no placeholder mass recorded", "The mass on the placeholder was not recorded."
    if holder >= max(first, 0.3):
        headline = "sink on the placeholder"
    elif first >= 0.3:
        headline = "sink still on the first real token"
    else:
        headline = "sink shared" if holder + first >= 0.3 else "no sink"
    return headline, (f"{_percent(holder)} of a query's weight effectively goes to the placeholder, {_percent(first)} "
                      f"to the first real token, {_percent(holder + first)} together.")


def _why_ineffective(final):
    reasons = []
    if final["row_mass"] is not None and final["row_mass"] < 0.8:
        reasons.append(f"whole rows weigh only {number(final['row_mass'], 3)}")
    if final["gate_mean"] is not None:
        reasons.append(f"the gate passes {_percent(final['gate_mean'])} on average")
    return "The normalised share overstates the sink" + (": " + " and ".join(reasons) if reasons else "") + "."


def _percent(value):
    return f"{100 * value:.0f}%" if abs(value) >= 0.0995 else f"{100 * value:.1f}%"


def control_statement(rows):
    """Absence of a sink is evidence only beside a softmax control that has one. Judged per layer count and task."""
    if len(rows) < 2 or all(row["mean"]["first_mass_effective"] is None for row in rows):
        return None
    settings = {}
    for row in rows:
        settings.setdefault((row["layers"], row["heads"], bool(row["oracle"])), []).append(row)
    lines = []
    for same in settings.values():
        others = [row["label"] for row in same if row["variant"] != "softmax"]
        controls = [row for row in same if row["variant"] == "softmax"]
        if not others:
            continue
        if not controls:
            lines.append(f"No softmax control of the same shape and task stands beside {', '.join(others)}: the "
                         "absence of a sink there is not evidence.")
            continue
        if not any(map(has_sink, controls)):
            mass = max((row["mean"]["first_mass_effective"] or 0.0) for row in controls)
            rate = max((row["mean"]["sink_rate"] or 0.0) for row in controls)
            lines.append(f"The softmax control has no sink itself (mass {number(mass, 2)}, sink rate "
                         f"{number(rate, 1)}%): its absence in {', '.join(others)} is not evidence. Train longer.")
    return " ".join(lines) or ("The softmax control has a sink, so its absence elsewhere is an observation about the "
                               "variant, not about too little training.")
