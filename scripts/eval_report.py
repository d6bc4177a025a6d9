#!/usr/bin/env python3
"""What `plimsoll eval RUN --json FILE` found of one or several models, as one HTML page with its plots inside, or as
Markdown tables. Needs nothing but Python."""

import argparse
import json
import math
import sys
from html import escape
from pathlib import Path

COLORS = ("#0b5cad", "#b3365b", "#4c9f70", "#c9a227", "#7a4fa3", "#b5651d", "#4f9fb0", "#777777")
MARKED = 16  # points of a curve that are drawn one by one
STYLE = """
body{margin:24px auto;max-width:1180px;padding:0 20px;color:#1d232b;font:15px/1.5 system-ui,"DejaVu Sans",Arial,sans-serif}
h1{font-size:28px;margin:0 0 4px}h2{font-size:20px;margin:40px 0 8px;border-top:1px solid #e3e6ea;padding-top:8px}
.note{color:#5b6470;font-size:13.5px;max-width:90ch}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:10px 0}
th,td{padding:4px 9px;text-align:right;border-bottom:1px solid #e3e6ea}th{color:#5b6470;font-size:12px}
td{white-space:nowrap}th:first-child,td:first-child{text-align:left}svg{margin:6px 10px 6px 0;vertical-align:top}
"""
SUITES = {"ppl": "Perplexity", "sinks": "Attention sinks", "streaming": "Streaming", "extrapolation": "Longer contexts",
          "needle": "Needle in a haystack", "multiple_choice": "Multiple choice", "interventions": "Interventions",
          "analysis": "Where heads look"}
GROUPED = ("interventions", "analysis")  # suites whose curves are in groups, a plot for each
GROUP_X = {"layer": "layer", "gamma": "factor of the first token's weight", "position": "position"}
UNITS = {"ppl": ("position", "nats"), "streaming": ("tokens of the stream", "nats"), "extrapolation": ("position", "nats"),
         "needle": ("depth", "share of right tokens")}


def names_of(documents):
    """A name for each model: its variant, with the run where two share one."""
    variants = [document["variant"] for document in documents]
    return [v if variants.count(v) == 1 else f"{v} ({document['run']})" for v, document in zip(variants, documents)]


def cell(value):
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)


def tables_of(documents):
    """-> suite -> (columns, rows): the suites' own tables, with the model in front; refusals as notes."""
    tables = {}
    for name, document in zip(names_of(documents), documents):
        for suite, result in document["suites"].items():
            columns, rows, notes = tables.setdefault(suite, ([], [], []))
            if "refused" in result:
                notes.append(f"{name}: n/a: {result['refused']}")
                continue
            for column in result["table"]["columns"]:
                if column not in columns:
                    columns.append(column)
            for row in result["table"]["rows"]:
                rows.append((name, dict(zip(result["table"]["columns"], row))))
            notes += [f"{name}: {note}" for note in result.get("notes", [])]
    for suite, (columns, rows, notes) in tables.items():  # what holds for all of them is said once
        texts = [note.split(": ", 1)[1] for note in notes]
        if len(texts) == len(documents) > 1 and len(set(texts)) == 1:
            tables[suite] = (columns, rows, texts[:1])
    order = list(SUITES)
    return dict(sorted(tables.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def markdown(documents):
    out = []
    for suite, (columns, rows, notes) in tables_of(documents).items():
        out += [f"## {SUITES.get(suite, suite)}", "", "| model | " + " | ".join(columns) + " |",
                "|---|" + "--:|" * len(columns)]
        out += ["| " + " | ".join([name] + [cell(row.get(column)) for column in columns]) + " |" for name, row in rows]
        out += [""] + [f"- {note}" for note in notes] + [""]
    return "\n".join(out)


def plot(title, curves, x_name, y_name, logarithmic):
    """curves: [(name, x, y)]. Values far above the others are cut off at the top, and the title says so."""
    curves = [(name, [(a, b) for a, b in zip(x, y) if b is not None and (a > 0 or not logarithmic)]) for name, x, y in curves]
    curves = [(name, points) for name, points in curves if points]
    values = sorted(b for _, points in curves for _, b in points)
    if not values:
        return ""
    width, height, left, right, top, bottom = 460, 270, 44, 130, 26, 34
    low, high = values[0], values[-1]
    middle = values[len(values) // 2]
    limit = middle + 4 * max(middle - low, 0.25)
    cut = high > limit
    high = min(high, limit)
    if high - low < 1e-9:
        high = low + 1
    digits = 2 if high - low >= 0.1 else 4
    first = min(a for _, points in curves for a, _ in points)
    last = max(a for _, points in curves for a, _ in points)
    scale = (lambda a: math.log2(a)) if logarithmic else (lambda a: a)
    span = (scale(last) - scale(first)) or 1

    def x(a):
        return left + (scale(a) - scale(first)) / span * (width - left - right)

    def y(b):
        return height - bottom - (min(b, high) - low) / (high - low) * (height - top - bottom)

    out = [f'<svg width="{width}" height="{height}" font-size="11" font-family="sans-serif">'
           f'<text x="0" y="12" font-weight="bold">{escape(title)}</text>'
           f'<text x="{left}" y="{height - 4}" fill="#5b6470">{escape(x_name)}</text>'
           f'<text x="{width - right + 6}" y="{top - 4}" fill="#5b6470">{escape(y_name)}'
           f'{", cut off above" if cut else ""}</text>']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e3e6ea"/>'
                   f'<text x="{left - 4}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.{digits}f}</text>')
    for a in (first, last):
        out.append(f'<text x="{x(a):.1f}" y="{height - bottom + 14}" text-anchor="middle">{a:g}</text>')
    for i, (name, points) in enumerate(curves):
        color = COLORS[i % len(COLORS)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        if len(points) <= MARKED:
            out += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.6" fill="{color}"/>' for a, b in points]
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"'
                   f'{" stroke-dasharray=" + chr(34) + "5 3" + chr(34) if i >= len(COLORS) else ""}/>'
                   f'<text x="{width - right + 6}" y="{top + 12 + 14 * i}" fill="{color}">{escape(name)}</text>')
    return "".join(out) + "</svg>"


def heat_map(title, values):
    """values[layer][head], null where there is none: white is 0, blue above, red below, full at the largest size."""
    numbers = [v for row in values for v in row if v is not None]
    if not numbers:
        return ""
    most = max(abs(v) for v in numbers) or 1
    side = max(10, min(34, 420 // max(len(row) for row in values)))
    left, top = 62, 26
    width = max(left + side * max(len(row) for row in values) + 8, 8 * len(title))
    out = [f'<svg width="{width}" height="{top + side * len(values) + 18}" font-size="10" font-family="sans-serif">'
           f'<text x="0" y="12" font-size="11" font-weight="bold">{escape(title)}</text>']
    for layer, row in enumerate(values):
        y = top + side * layer
        out.append(f'<text x="{left - 6}" y="{y + side / 2 + 4:.0f}" text-anchor="end">layer {layer}</text>')
        for head, value in enumerate(row):
            share = 0 if value is None else min(1, abs(value) / most)
            strong = (11, 92, 173) if value is None or value >= 0 else (179, 54, 91)
            color = "#eeeeee" if value is None else "#" + "".join(f"{round(255 + (c - 255) * share):02x}" for c in strong)
            x = left + side * head
            out.append(f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" fill="{color}">'
                       f'<title>layer {layer}, head {head}: {cell(value)}</title></rect>')
            if side >= 30 and value is not None:
                out.append(f'<text x="{x + side / 2 - 0.5}" y="{y + side / 2 + 3.5}" text-anchor="middle" font-size="9" '
                           f'fill="{"#fff" if share > 0.6 else "#1d232b"}">{value:.2g}</text>')
    out.append(f'<text x="{left}" y="{top + side * len(values) + 13}" fill="#5b6470">heads; darkest: {most:.3g}</text>')
    return "".join(out) + "</svg>"


def grouped_plots(name, result):
    """A plot for each group of curves, and a map of heads for each of the suite's maps."""
    groups = {}
    for curve in result.get("curves", []):
        groups.setdefault(curve["group"], []).append((curve["name"], curve["x"], curve["y"]))
    out = "".join(plot(f"{name}: {group}", curves, GROUP_X[group.rsplit(" by ", 1)[-1].split(" ")[0]], "", False)
                  for group, curves in groups.items())
    return out + "".join(heat_map(f"{name}: {entry['name']}", entry["values"]) for entry in result.get("maps", []))


def plots_of(suite, documents):
    """The suite's curves: of ppl all models in one plot, of the others one plot per model (and length, or group)."""
    found = [(name, document["suites"][suite].get("curves", [])) for name, document in zip(names_of(documents), documents)
             if suite in document["suites"]]
    if suite in GROUPED:
        return "".join(grouped_plots(name, document["suites"][suite])
                       for name, document in zip(names_of(documents), documents) if suite in document["suites"])
    x_name, y_name = UNITS.get(suite, ("", ""))
    as_lists = [(name, [(c["name"], c["x"], c["y"]) for c in curves]) for name, curves in found]
    if suite == "ppl":
        merged = [(name, x, y) for name, curves in as_lists for _, x, y in curves]
        return plot("Loss by position", merged, x_name, y_name, True)
    if suite != "extrapolation":
        return "".join(plot(name, curves, x_name, y_name, False) for name, curves in as_lists)
    out = ""
    for name, curves in as_lists:
        factors = list(dict.fromkeys(title.split(" ", 1)[0] for title, _, _ in curves))
        for factor in factors:
            here = [(title.split(" ", 1)[1], x, y) for title, x, y in curves if title.split(" ", 1)[0] == factor]
            out += plot(f"{name}, {factor}", here, x_name, y_name, True)
    return out


def page(documents):
    tables = tables_of(documents)
    out = [f"<!doctype html><meta charset=utf-8><title>Evaluation</title><style>{STYLE}</style><h1>Evaluation</h1>",
           "<table><tr><th>model<th>run<th>step<th>tokens<th>parameters<th>context<th>precision<th>evaluated on</tr>"]
    for name, document in zip(names_of(documents), documents):
        row = [name, document["checkpoint"], document["step"], document["tokens"], document["params"], document["context"],
               document["precision"], document["data"] or "the run's validation split"]
        out.append("<tr>" + "".join(f"<td>{escape(cell(value))}" for value in row) + "</tr>")
    out.append("</table>")
    for suite, (columns, rows, notes) in tables.items():
        out.append(f"<h2>{escape(SUITES.get(suite, suite))}</h2>")
        if rows:
            out.append("<table><tr><th>model" + "".join(f"<th>{escape(column)}" for column in columns) + "</tr>")
            for name, row in rows:
                cells = [name] + [cell(row.get(column)) for column in columns]
                out.append("<tr>" + "".join(f"<td>{escape(text)}" for text in cells) + "</tr>")
            out.append("</table>")
        out += [f"<p class=note>{escape(note)}</p>" for note in notes]
        out.append(plots_of(suite, documents))
    return "\n".join(out) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, nargs="+", help="files that plimsoll eval --json wrote")
    parser.add_argument("--out", type=Path, help="HTML file; default: beside the first JSON")
    parser.add_argument("--markdown", action="store_true", help="print tables instead")
    arguments = parser.parse_args(argv)
    documents = []
    for path in arguments.json:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(document, dict) or not document.get("suites"):
                raise ValueError("no suites of plimsoll eval in it")
            documents.append(document)
        except (OSError, ValueError) as error:
            print(f"eval_report: {path}: {error}", file=sys.stderr)
            return 1
    try:
        text = markdown(documents) if arguments.markdown else page(documents)
    except (KeyError, TypeError, AttributeError) as error:
        print(f"eval_report: not what plimsoll eval writes: {error!r}", file=sys.stderr)
        return 1
    if arguments.markdown:
        print(text)
        return 0
    out = arguments.out or arguments.json[0].with_suffix(".html")
    out.write_text(text, encoding="utf-8")
    print(f"eval_report: {len(documents)} models -> {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
