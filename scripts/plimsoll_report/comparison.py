"""Two runs side by side: what differs in how they were made, whether they are equal to the bit, where they end."""

from html import escape

import pandas as pd

from .metrics import ALL
from .summary import count, number, summarize_run

# Places and names of a run: they differ between any two.
_PLACES = ("run.dir", "run.name")
_MADE = (("commit", "Commit"), ("build", "Build"), ("cpu", "CPU"), ("device", "Device"), ("threads", "Threads"),
         ("ranks", "Ranks"), ("precision", "Precision"), ("seed", "Seed"), ("data", "Data"), ("data_hash", "Data hash"))
_COSTS = (("params", "Parameters", 0), ("flops_per_token", "FLOPs per token", 0), ("steps", "Steps", 0),
          ("seconds", "Seconds", 1), ("ms_per_step", "Milliseconds per step", 2), ("tokens_per_second", "Tokens/s", 0))
_LOSSES = {"loss": "Loss", "train_loss": "Training loss, last steps", "bigram_risk": "Bigram risk",
           "copy_risk": "Back-copy risk", "residual_peak_block": "Residual peak, after block"}


def compare(first, second):
    """Two Runs -> everything the page says about them, as one dictionary."""
    summaries = [summarize_run(run) for run in (first, second)]
    return {
        "runs": [str(first.path), str(second.path)], "names": _names(first, second),
        "config": _config_differences(first.config, second.config),
        "made": [{"key": key, "a": first.info.get(key), "b": second.info.get(key)} for key, _ in _MADE
                 if first.info.get(key) != second.info.get(key)],
        "data": _data_words(first.info.get("data_hash"), second.info.get("data_hash")),
        "losses": _series(first, second, "metrics", "loss"), "norms": _series(first, second, "metrics", "norm"),
        "evaluations": _series(first, second, "evals", "loss"), "final": _finals(summaries),
    }


def _names(first, second):
    names = [first.path.name, second.path.name]
    return names if names[0] != names[1] else [f"{run.path.parent.name}/{run.path.name}" for run in (first, second)]


def _config_differences(a, b):
    """[{key, a, b}]; None where a configuration does not have the key."""
    keys = [key for key in {**a, **b} if key not in _PLACES]
    return [{"key": key, "a": a.get(key), "b": b.get(key)} for key in keys if a.get(key) != b.get(key)]


def _data_words(a, b):
    if a is None or b is None:
        return "At least one of the two records no data hash: whether they saw the same data is not known."
    if a == b:
        return f"Both saw the same data (hash {a})."
    return f"They saw different data (hashes {a} and {b}): their losses are no pair."


def _series(first, second, table, column):
    """How two curves agree at the steps both have."""
    a, b = (getattr(run, table).set_index("step")[column] for run in (first, second))
    both = pd.concat([a, b], axis=1, join="inner", keys=("a", "b"))
    differ = both[~((both["a"] == both["b"]) | (both["a"].isna() & both["b"].isna()))]
    found = {"shared": len(both), "differing": len(differ), "only_a": len(a) - len(both), "only_b": len(b) - len(both),
             "first_step": None, "a": None, "b": None, "largest": None, "largest_step": None}
    if len(differ):
        found.update(first_step=int(differ.index[0]), a=float(differ["a"].iloc[0]), b=float(differ["b"].iloc[0]))
        gap = (differ["a"] - differ["b"]).abs().dropna()
        if len(gap):
            found.update(largest=float(gap.max()), largest_step=int(gap.idxmax()))
    return found


def _finals(summaries):
    rows = []
    for key in summaries[0]["final"]:
        a, b = (summary["final"].get(key) for summary in summaries)
        if a is not None or b is not None:
            rows.append({"key": key, "a": a, "b": b, "difference": None if a is None or b is None else b - a})
    for key, _, _ in _COSTS:
        a, b = (summary.get(key) for summary in summaries)
        if a is not None or b is not None:
            rows.append({"key": key, "a": a, "b": b, "difference": None if a is None or b is None else b - a})
    return rows


def series_words(name, found):
    if not found["shared"]:
        return f"{name}: no step in common."
    text = f"{name}: {found['shared']} shared steps, "
    if not found["differing"]:
        text += "all equal to the last bit."
    else:
        text += (f"{found['differing']} of them differ, the first at step {found['first_step']} "
                 f"({found['a']!r} and {found['b']!r})")
        text += f"; at most {found['largest']:.3g}, at step {found['largest_step']}." \
            if found["largest"] is not None else "."
    alone = [f"{found[f'only_{side}']} steps only {side.upper()} has" for side in "ab" if found[f"only_{side}"]]
    return text + (f" Not compared: {', '.join(alone)}." if alone else "")


def words(comparison):
    """The sentences of the section."""
    config = comparison["config"]
    return [f"A is {comparison['names'][0]}, B is {comparison['names'][1]}.", comparison["data"],
            series_words("Training losses", comparison["losses"]), series_words("Gradient norms", comparison["norms"]),
            series_words("Validation losses", comparison["evaluations"]),
            "The configurations are equal but for names and directories." if not config else
            f"{len(config)} settings differ." if len(config) > 1 else f"One setting differs: {config[0]['key']}."]


def _tables(comparison):
    titles = dict(_MADE)
    if comparison["config"]:
        yield "Settings that differ", [(row["key"], row["a"], row["b"], None) for row in comparison["config"]]
    if comparison["made"]:
        yield "Made differently", [(titles[row["key"]], row["a"], row["b"], None) for row in comparison["made"]]
    costs = {key: (title, digits) for key, title, digits in _COSTS}
    rows = []
    for row in comparison["final"]:
        metric = ALL.get(row["key"])
        title, digits = costs.get(row["key"], (metric.title if metric else _LOSSES.get(row["key"], row["key"]), 4))
        show = (lambda x, d=digits: count(x) if d == 0 else number(x, d)) if row["key"] in costs else \
            (lambda x: number(x, 4))
        sign = "" if row["difference"] is None else "+" if row["difference"] >= 0 else "\u2212"
        rows.append((title, show(row["a"]), show(row["b"]),
                     "\u2013" if row["difference"] is None else sign + show(abs(row["difference"]))))
    yield "Where they end", rows


def html(comparison):
    text = "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in words(comparison)) + "</ul>"
    for title, rows in _tables(comparison):
        last = any(row[3] is not None for row in rows)
        head = "<th></th><th>A</th><th>B</th>" + ("<th>B \u2212 A</th>" if last else "")
        body = "".join("<tr>" + "".join(f"<td>{escape(_text(cell))}</td>" for cell in row[:4 if last else 3]) + "</tr>"
                       for row in rows)
        text += (f'<h3>{title}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
                 "</table></div>")
    return text


def markdown(comparison):
    text = "\n## A and B\n\n" + "\n".join(f"- {line}" for line in words(comparison)) + "\n"
    for title, rows in _tables(comparison):
        last = any(row[3] is not None for row in rows)
        text += f"\n### {title}\n\n|  | A | B |" + (" B \u2212 A |" if last else "") + "\n|---|---:|---:|"
        text += ("---:|" if last else "") + "\n"
        for row in rows:
            cells = [_text(cell).replace("|", "\\|") for cell in row[:4 if last else 3]]
            text += "| " + " | ".join(cells) + " |\n"
    return text


def _text(value):
    if value is None:
        return "\u2013"
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
