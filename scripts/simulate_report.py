#!/usr/bin/env python3
"""What `plimsoll simulate CONFIG --json FILE` found, as one HTML page with its plots inside, or as a Markdown table of
the speed-ups. Needs nothing but Python. Every number is simulated, and says so."""

import argparse
import json
import sys
from html import escape
from pathlib import Path

# What was published beside a row. DistCA's abstract, arXiv:2510.18121: up to 1.35 on 512 GPUs, up to 512 Ki tokens; the
# other figure is in third-party notes on the paper.
PUBLISHED_512 = "up to 1.35"
PUBLISHED = {("llama-8b", 1, 256): "about 1.20 at 512 Ki"}
COLORS = {"fixed packing": "#9aa3ad", "fixed + sequence CP": "#c9a227", "fixed + document CP": "#b5651d",
          "WLB-like": "#b3365b", "perfect packing": "#4c9f70", "CAD": "#0b5cad", "CAD, no ping-pong": "#6fa3d8",
          "CAD, free traffic": "#a9c8e8"}
STYLE = """
body{margin:24px auto;max-width:1180px;padding:0 20px;color:#1d232b;font:15px/1.5 system-ui,"DejaVu Sans",Arial,sans-serif}
h1{font-size:28px;margin:0 0 4px}h2{font-size:20px;margin:40px 0 8px;border-top:1px solid #e3e6ea;padding-top:8px}
.note{color:#5b6470;font-size:13.5px;max-width:90ch}.badge{background:#fbe3d6;color:#93380a;border-radius:10px;padding:1px 10px;
 font-size:13px;font-weight:600;vertical-align:4px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:10px 0}
th,td{padding:4px 9px;text-align:right;border-bottom:1px solid #e3e6ea}th{color:#5b6470;font-size:12px}
td{white-space:nowrap}th:first-child,td:first-child{text-align:left}svg{margin:6px 10px 6px 0;vertical-align:top}
details{margin:6px 0}summary{cursor:pointer;color:#0b5cad}
"""
GIB, GB = 2**30, 1e9


def policies(cell):
    return {policy["policy"]: policy for policy in cell["policies"]}


def value(cell, key):
    return json.loads(cell["config"][key])  # TOML's scalars are JSON's


def context(cell):
    return value(cell, "lengths.context") // 1024


def is_cut(cell):
    """Documents as long as the context do not fit into half a micro batch."""
    return cell["longest_document"] < value(cell, "lengths.context")


def row_key(cell):
    return (value(cell, "model.preset"), value(cell, "lengths.source"), value(cell, "parallel.stages"),
            value(cell, "parallel.micro_batches"), cell["gpus"])


def factors(cell):
    """-> (WLB-like over perfect packing, perfect packing over CAD); their product is CAD's gain over WLB-like."""
    p = policies(cell)
    packing = p["WLB-like"]["mean"] / p["perfect packing"]["mean"] if p["WLB-like"]["fits"] else None
    return packing, p["perfect packing"]["mean"] / p["CAD"]["mean"]


def ratio(number):
    return f"{number:.2f}" if number else "–"


def bracket(cell):
    gain = cell["speed_up"]
    return f"{ratio(gain['perfect_packing'])} – {ratio(gain['wlb_like'])}{'*' if is_cut(cell) else ''}"


def markdown(document):
    cells = document["cells"]
    contexts = sorted({context(cell) for cell in cells})
    rows = {}
    for cell in cells:
        rows.setdefault(row_key(cell), {})[context(cell)] = cell
    lines = ["| simulated | documents | GPUs | PP | M | " + " | ".join(f"{c} Ki" for c in contexts) + " | published |",
             "|---|---|--:|--:|--:|" + ":-:|" * len(contexts) + "---|"]
    for (model, source, stages, micro_batches, gpus), row in rows.items():
        gains = " | ".join(bracket(row[c]) if c in row else "" for c in contexts)
        lines.append(f"| {model} | {source} | {gpus} | {stages} | {micro_batches} | {gains} | "
                     f"{PUBLISHED.get((model, stages, gpus), PUBLISHED_512 if gpus == 512 else '')} |")
    return "\n".join(lines) + "\n"


def bars(title, unit, rows, limit=None):
    """rows: (name, value, mark or None). Bars from 0, a tick at the mark, a line at the limit."""
    width, left, height = 370, 132, 15
    most = max([number for _, number, mark in rows for number in (number, mark or 0)] + [limit or 0]) or 1
    scale = (width - left - 62) / most
    out = [f'<svg width="{width}" height="{height * len(rows) + 26}" font-size="11" font-family="sans-serif">'
           f'<text x="0" y="12" font-weight="bold">{escape(title)} ({escape(unit)}, simulated)</text>']
    for i, (name, number, mark) in enumerate(rows):
        y = 20 + i * height
        out.append(f'<text x="{left - 6}" y="{y + 10}" text-anchor="end" fill="#444">{escape(name)}</text>'
                   f'<rect x="{left}" y="{y + 1}" width="{max(number * scale, 0.5):.1f}" height="{height - 4}" '
                   f'fill="{COLORS.get(name, "#777")}"/>'
                   f'<text x="{left + max(number, mark or 0) * scale + 4:.1f}" y="{y + 10}">{number:.3g}</text>')
        if mark is not None:
            x = left + mark * scale
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + height - 2}" stroke="#000"/>')
    if limit:
        x = left + limit * scale
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{20 + height * len(rows)}" stroke="#b3365b" '
                   f'stroke-dasharray="3 2"/>')
    return "".join(out) + "</svg>"


def cell_plots(cell):
    p = cell["policies"]
    balance = [(policy["policy"], policy["imbalance"], policy["imbalance_before"]) for policy in p]
    return (bars("Time of a step", "s; bar p50, tick p95", [(q["policy"], q["p50"], q["p95"]) for q in p])
            + bars("Core attention, slowest rank over mean", "tick: by homes", balance)
            + bars("Sent per rank and step", "GiB; bar mean, tick largest",
                   [(q["policy"], q["sent_bytes_mean"] / GIB, q["sent_bytes_most"] / GIB) for q in p])
            + bars("Memory of the fullest GPU", "GB; dashed: what it has",
                   [(q["policy"], q["memory_bytes"] / GB, None) for q in p], value(cell, "cluster.memory_gb"))
            + bars("Idle", "% of all ranks' time", [(q["policy"], 100 * q["idle"], None) for q in p])
            + bars("Waiting for messages", "s per step", [(q["policy"], q["exposed_seconds"], None) for q in p]))


def gain_plot(title, by_gpus):
    """by_gpus: GPUs -> [(label, low, high)]: a band from perfect packing to WLB-like over the labels."""
    width, height, left, bottom = 370, 220, 34, 34
    points = [point for series in by_gpus.values() for point in series]
    labels = list(dict.fromkeys(label for label, _, _ in points))
    low, high = min(p[1] for p in points), max([p[2] for p in points] + [1.4])
    low = min(low, 0.9)

    def x(label):
        return left + 20 + labels.index(label) * (width - left - 70) / max(1, len(labels) - 1)

    def y(number):
        return height - bottom - (number - low) / (high - low) * (height - bottom - 26)

    out = [f'<svg width="{width}" height="{height}" font-size="11" font-family="sans-serif">'
           f'<text x="0" y="12" font-weight="bold">{escape(title)} (simulated)</text>']
    for number, dash in ((1.0, "none"), (1.35, "4 3")):
        out.append(f'<line x1="{left}" x2="{width - 40}" y1="{y(number):.1f}" y2="{y(number):.1f}" stroke="#999" '
                   f'stroke-dasharray="{dash}"/><text x="2" y="{y(number) + 4:.1f}">{number}</text>')
    for label in labels:
        out.append(f'<text x="{x(label):.1f}" y="{height - bottom + 16}" text-anchor="middle">{escape(label)}</text>')
    for i, (gpus, series) in enumerate(by_gpus.items()):
        color = ("#9ecae1", "#6baed6", "#3182bd", "#08519c")[i % 4]
        for edge, dash in ((2, "none"), (1, "3 3")):
            path = " ".join(f"{x(point[0]):.1f},{y(point[edge]):.1f}" for point in series)
            out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2" '
                       f'stroke-dasharray="{dash}"/>')
        out.append(f'<text x="{x(series[-1][0]) + 5:.1f}" y="{y(series[-1][2]) + 4:.1f}" fill="{color}">{gpus}</text>')
    return "".join(out) + "</svg>"


def gain_groups(cells):
    """What gain_plot draws, by title: one plot per model, source of documents and number of stages."""
    groups = {}
    for cell in cells:
        model, source, stages, micro_batches, gpus = row_key(cell)
        gain = cell["speed_up"]
        if gain["wlb_like"]:
            series = groups.setdefault(f"{model}, {source}, PP {stages}", {}).setdefault(gpus, [])
            series.append((f"{context(cell)} Ki, M {micro_batches}", gain["perfect_packing"], gain["wlb_like"]))
    return groups


def page(document):
    cells = document["cells"]
    out = [f"<!doctype html><meta charset=utf-8><title>{escape(document['name'])}</title><style>{STYLE}</style>",
           f"<h1>{escape(document['name'])} <span class=badge>simulated</span></h1>",
           "<p class=note>No number on this page was measured on a cluster: all come from <code>plimsoll simulate</code>, "
           "which runs the trainer's planner and schedules over a model of GPUs and links.</p>",
           "<h2>Speed-up of CAD</h2><p class=note>Solid: over the best WLB-like layout; dashed: over perfect packing "
           "(nothing to gather, no rank behind another; cannot be built); numbers: GPUs; dashed grey: the published "
           "1.35.</p>"]
    out += [gain_plot(title, by_gpus) for title, by_gpus in gain_groups(cells).items()]
    out.append("<p class=note>Its factors: what packing and gathering cost WLB-like over perfect packing, and what CAD "
               "gains or loses beyond that (bubbles filled, less its copies and uneven kernels). * documents of the "
               "full context do not fit into half a micro batch, and are cut.</p>"
               "<table><tr><th>model<th>documents<th>GPUs<th>PP<th>M<th>context, Ki<th>over perfect packing"
               "<th>over WLB-like<th>over the best<th>packing x<th>bubbles x<th>WLB-like layout<th>s per step, CAD p50"
               "<th>p95</tr>")
    for cell in cells:
        model, source, stages, micro_batches, gpus = row_key(cell)
        gain, p, (packing, filled) = cell["speed_up"], policies(cell), factors(cell)
        columns = [model, source, gpus, stages, micro_batches, f"{context(cell)}{'*' if is_cut(cell) else ''}",
                   ratio(gain["perfect_packing"]), ratio(gain["wlb_like"]), ratio(gain["best"]), ratio(packing),
                   ratio(filled), p["WLB-like"]["layout"], f"{p['CAD']['p50']:.3g}", f"{p['CAD']['p95']:.3g}"]
        out.append("<tr>" + "".join(f"<td>{escape(str(text))}" for text in columns) + "</tr>")
    out.append("</table>")
    out.append("<h2>Every cell</h2>")
    for cell in cells:
        title = ", ".join(cell["settings"]) or document["name"]
        opened = " open" if len(cells) == 1 else ""
        out.append(f"<details{opened}><summary>{escape(title)}</summary>{cell_plots(cell)}</details>")
    return "\n".join(out) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, help="file that plimsoll simulate --json wrote")
    parser.add_argument("--out", type=Path, help="HTML file; default: beside the JSON")
    parser.add_argument("--markdown", action="store_true", help="print a table of the speed-ups instead")
    arguments = parser.parse_args(argv)
    try:
        document = json.loads(arguments.json.read_text(encoding="utf-8"))
        if not document.get("simulated") or not document.get("cells"):
            raise ValueError("no cells of plimsoll simulate in it")
        text = markdown(document) if arguments.markdown else page(document)
    except (OSError, ValueError, KeyError) as error:
        print(f"simulate_report: {arguments.json}: {error!r}", file=sys.stderr)
        return 1
    if arguments.markdown:
        print(text, end="")
        return 0
    out = arguments.out or arguments.json.with_suffix(".html")
    out.write_text(text, encoding="utf-8")
    print(f"simulate_report: {len(document['cells'])} cells -> {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
