"""The sections of the page, and the tables of summary.md, that a sweep adds."""

from datetime import datetime, timezone
from html import escape

from . import stability
from .page import figure_html
from .summary import count, number
from .sweep import METRICS, is_told_apart, label_of, p_text
from .sweep_cells import DONE
from .tables import PILLS, Table

_KINDS = (("best rate", "Each at its best learning rate"), ("equal parameters", "Beside a softmax of as many parameters"),
          ("equal rate", "At equal learning rate"))
_TRY_KEYS = ("time", "run", "variant", "seed", "status", "exit_code", "steps", "loss_final", "loss_val", "loss_best",
             "seconds", "tokens_per_second", "probes", "parent", "change")


def sections(analysis, drawn):
    """-> [(heading, html)] in the order of the page."""
    parts = [("Cells of the sweep", _counts_html(analysis) + _folded("All cells", cells_table(analysis).html())
              + _tries_html(analysis))]
    if not analysis["settings"]:
        return parts
    parts.append(("Differences from softmax", _paragraphs(_difference_words(analysis))
                  + _figure(drawn["sweep_differences"]) + "".join(
                      f"<h3>{title}</h3>" + _list(words) + table.html() for title, words, table in difference_tables(analysis))
                  + _folded("The other metrics, each variant at its best learning rate", other_metrics(analysis).html())))
    parts.append(("Learning rates", _list(_best_sentences(analysis)) + _figure(drawn["sweep_rates"])
                  + settings_table(analysis).html() + "<h3>How large a rate each variant bears</h3>"
                  + stability.rates_table(analysis["stable_rates"]).html()
                  + f'<p class="note">{escape(stability.RATES_NOTE)}</p>'))
    parts.append(("Sinks beside the control", sinks_table(analysis).html() + _figure(drawn["sweep_sinks"])))
    parts.append(("Size and equal budgets", _list(analysis["size"]) + costs_table(analysis).html()
                  + _list(_budget_reasons(analysis)) + f'<p class="note">{escape(_BUDGET_NOTE)}</p>'))
    return parts


def markdown(analysis):
    parts = ["## Cells", _counts_words(analysis), cells_table(analysis).markdown()]
    if analysis["settings"]:
        parts += ["## Differences from softmax", "\n\n".join(_difference_words(analysis))]
        for title, words, table in difference_tables(analysis):
            parts += [f"### {title}", _bullets(words), table.markdown()]
        parts += ["### The other metrics, each variant at its best learning rate", other_metrics(analysis).markdown(),
                  "## Learning rates", _bullets(_best_sentences(analysis)), settings_table(analysis).markdown(),
                  "### How large a rate each variant bears", stability.rates_table(analysis["stable_rates"]).markdown(),
                  stability.RATES_NOTE,
                  "## Sinks beside the control", sinks_table(analysis).markdown(),
                  "## Size and equal budgets", _bullets(analysis["size"]), costs_table(analysis).markdown(),
                  _bullets(_budget_reasons(analysis)), _BUDGET_NOTE]
    return "\n" + "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _counts_words(analysis):
    states = ", ".join(f"{analysis['states'][state]} {state}" for state in PILLS if analysis["states"].get(state))
    text = f"{len(analysis['cells'])} cells: {states}."
    if analysis["missing"]:
        text += f" Missing: {', '.join(analysis['missing'])}."
    if not analysis["has_plan"]:
        text += " sweep.jsonl holds no plan: cells are known by their traces, missing ones by gaps among the seeds."
    if len(analysis["cells"]) > analysis["states"].get(DONE, 0):
        text += " Statistics are over the cells that are done."
    return text


def _counts_html(analysis):
    return _paragraphs([_counts_words(analysis), *analysis["notes"]])


def cells_table(analysis):
    table = Table("Cell", "State", "Step", "Loss", "Seconds", "Tries", "Note")
    for row in analysis["cells"]:
        table.add(row["name"], row["state"], "\u2013" if row["step"] is None else row["step"], number(row["loss"], 4),
                  number(row["seconds"], 1), row["tries"], row["note"])
    return table


def _tries_html(analysis):
    tries = analysis["tries"]
    if not tries:
        return ""
    keys = [key for key in _TRY_KEYS if any(entry.get(key) not in (None, "") for entry in tries)]
    table = Table(*[key.replace("_", " ") for key in keys])
    for entry in tries:
        table.add(*[_try_text(key, entry.get(key)) for key in keys])
    return _folded(f"All {len(tries)} tries ({analysis['tries_source']})", table.html())


def _try_text(key, value):
    if value is None:
        return "\u2013"
    if key == "time" and isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return number(value, 4 if key.startswith("loss") else 3 if abs(value) < 10 else 1)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_try_text(name, item)}" for name, item in value.items())
    return str(value)[:160]


def settings_table(analysis):
    keys = [metric for metric in METRICS if any(row["mean"][metric[0]] is not None for row in analysis["settings"])]
    table = Table("Setting", "Seeds", *[title for _, title, _, _ in keys], "Did not finish")
    for row in analysis["settings"]:
        cells = []
        for key, _, _, digits in keys:
            mean, sd = row["mean"][key], row["sd"][key]
            cells.append(number(mean, digits) + (f" ± {number(sd, digits)}" if sd is not None else ""))
        table.add(row["label"], len(row["seeds"]), *cells, "; ".join(row["lost"]) or "\u2013")
    return table


def _best_sentences(analysis):
    return [f"{label_of(row['variant'], None, row['other'])}: {row['sentence']}" for row in analysis["best"]]


def difference_tables(analysis):
    """-> (title, sentences, table) of every block: the validation loss, paired."""
    for kind, title in _KINDS:
        rows = [row for row in analysis["comparisons"] if row["kind"] == kind]
        if not rows:
            continue
        table = Table("Variant", "Control", "Pairs", "Mean difference", f"{100 * analysis['level']:.0f} % CI", "t", "p",
                      "p, Holm", "p, sign flips", "smallest possible", text=2)
        words = []
        for row in rows:
            metric, name = row["metrics"].get("loss_val"), label_of(row["variant"], row["rate"], row["other"])
            table.add(name, label_of(row["control"], row["control_rate"]), *_numbers(metric, 4))
            words.append(f"{name}: {row['verdict']}"
                         + (f" Not paired: {'; '.join(row['refused'])}." if metric and row["refused"] else ""))
        yield title, words, table


def _numbers(metric, digits):
    if metric is None:
        return ["0"] + ["\u2013"] * 7
    return [metric["n"], f"{metric['mean']:+.{digits}f}", _interval(metric, digits), number(metric["t"], 2),
            p_text(metric["p"]), p_text(metric["p_holm"]), p_text(metric["flip_p"]), p_text(metric["flip_floor"])]


def _interval(metric, digits):
    return "\u2013" if metric["low"] is None else f"[{metric['low']:+.{digits}f}, {metric['high']:+.{digits}f}]"


def other_metrics(analysis):
    table = Table("Metric", "Variant", "Pairs", "Mean difference", f"{100 * analysis['level']:.0f} % CI", "p, Holm",
                  "Told apart", text=2)
    for key, title, unit, digits in METRICS:
        if key == "loss_val":
            continue
        for row in analysis["comparisons"]:
            metric = row["metrics"].get(key)
            if row["kind"] != "best rate" or metric is None:
                continue
            table.add(title + (f", {unit}" if unit else ""), label_of(row["variant"], row["rate"], row["other"]),
                      metric["n"], f"{metric['mean']:+.{digits}f}", _interval(metric, digits), p_text(metric["p_holm"]),
                      "yes" if is_told_apart(metric) else "no" if metric["p_holm"] is not None else "\u2013")
    return table


def _difference_words(analysis):
    words = ["Variant minus control, paired by seed: two runs are a pair if seed, other settings, data and scored targets "
             "are equal. Intervals and p values are Student's t on the differences; Holm's correction is over the variants "
             "of a block. The sign-flip p is exact and assumes no distribution; n pairs cannot make it smaller than "
             "2^(1 \u2212 n). What is not distinguishable is not thereby equal: the interval says which differences remain "
             "possible. A best learning rate is chosen on the seeds it is judged by, which favours variants with more "
             "rates."]
    if not analysis["comparisons"]:
        words.append("No softmax control finished beside another variant: there is nothing to compare with.")
    return words


def sinks_table(analysis):
    table = Table("Variant", "Verdict", "In words", "Seeds", text=3)
    for row in analysis["sinks"]:
        table.add(row["label"], row["headline"], row["text"], row["seeds"])
    return table


_BUDGET_NOTE = ("Each variant and the control at their best rates. Losses at equal FLOPs and equal time: on straight lines "
                "between the points of a run's curve, where it had spent what the control spent in all, in brackets the "
                "mean paired difference from the control; training losses are means of the last 50 steps. Nothing is "
                "extrapolated. At such an earlier point the learning rate had not fallen as far as the control's at its "
                "end, so a costlier variant looks a little worse than one that was planned for the budget. Time is as "
                "recorded, with evaluations and probes, and only as equal as the machine was quiet.")


def costs_table(analysis):
    table = Table("Variant", "Parameters", "/ softmax", "FLOPs/token", "/ softmax", "Seconds", "/ softmax",
                  "Val. loss at equal FLOPs", "Train. loss at equal FLOPs", "Val. loss at equal time",
                  "Train. loss at equal time")
    for row in analysis["costs"]:
        table.add(row["label"], count(row["params"]), number(row["params_ratio"], 3), count(row["flops_per_token"]),
                  number(row["flops_ratio"], 3), number(row["seconds"], 1), number(row["time_ratio"], 3),
                  *[_budget_text(row[key]) for key in _BUDGETS])
    return table


_BUDGETS = ("loss_val_at_flops", "loss_train_at_flops", "loss_val_at_seconds", "loss_train_at_seconds")


def _budget_text(cell):
    if cell["mean"] is None:
        return "\u2013"
    return number(cell["mean"], 4) + ("" if cell["sd"] is None else f" ± {number(cell['sd'], 4)}") \
        + f" ({cell['difference']:+.4f})"


def _budget_reasons(analysis):
    """Why a cell of the table is empty."""
    reasons = {}
    for row in analysis["costs"]:
        for key in _BUDGETS:
            if row[key]["mean"] is None:
                budget = "FLOPs" if key.endswith("flops") else "time"
                reasons.setdefault(f"{row['label']}, equal {budget}: {row[key]['reason']}.", None)
    return list(reasons)


def _figure(figure):
    return figure_html(figure) if figure else ""


def _folded(title, html):
    return f"<details><summary>{escape(title)}</summary>{html}</details>"


def _paragraphs(texts):
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _list(texts):
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def _bullets(texts):
    return "\n".join(f"- {text}" for text in texts)
