"""What the literature claims beside what plimsoll measured: one document, as a page, as Markdown, as a table for a README."""

from collections import Counter
from html import escape

from . import claims, findings_figures
from .expectations import CONTROL_MASS, CONTROL_RATE
from .page import Page, figure_html
from .verdicts import CONTRADICTED, MIN_SEEDS, NOT_HERE, NOT_MEASURED, NOT_TESTABLE, REPRODUCED, VERDICTS

BEGIN, END = "<!-- findings -->", "<!-- end of findings -->"
_PILLS = {REPRODUCED: "pass", CONTRADICTED: "short", NOT_HERE: "none", NOT_TESTABLE: "none", NOT_MEASURED: "none"}
_MEANING = {
    REPRODUCED: "every part of the criterion holds, in every seed or beyond the noise of the paired seeds",
    NOT_HERE: "some part does not hold, and none points the other way: a larger or longer run may still show it",
    CONTRADICTED: "a part points the other way here, in every seed or beyond the noise (after Holm's correction over the "
                  "parts); an effect that a small run lacks, or has less of than the control, does not",
    NOT_TESTABLE: f"the softmax control sinks in fewer than {MIN_SEEDS} seeds (mass above {CONTROL_MASS:g} or sink rate above "
                  f"{CONTROL_RATE:g} %), so that the absence of a sink elsewhere says nothing; seeds in which it does not sink "
                  "are left out of every verdict",
    NOT_MEASURED: "cells are missing or did not finish",
}


def judge(summary):
    """The verdicts of a summary: [{"claim", "verdict", "words", ...}]."""
    return [claim.judge(summary) for claim in claims.claims_of(summary["sweep"], summary["scale"])]


def document(summaries):
    """Summaries -> everything the page shows, in the order of the claims; the quick scale first."""
    published, sections = claims.published(), []
    order = {(scale, name): place for place, (scale, name) in
             enumerate((scale, name) for scale in (claims.QUICK, claims.FULL) for name in claims.sweeps())}
    for summary in sorted(summaries, key=lambda s: order[s["scale"], s["sweep"]]):
        rows = []
        for claim, judged in zip(claims.claims_of(summary["sweep"], summary["scale"]), judge(summary)):
            rows.append({**judged, "criterion": claim.criterion(), "published": published[claim.key]})
        sections.append({"summary": summary, "rows": rows, "scale": scale_words(summary)})
    return sections


def scale_words(summary):
    """'1 layer, C 128, T 128, 2,048 tokens x 800 steps, seeds 1 2 3, fp32'"""
    made = summary["made"]
    words = []
    if made.get("layers"):
        words.append(f"{made['layers']} layer" + ("s" if made["layers"] > 1 else ""))
    words += [f"{name} {made[key]}" for key, name in (("channels", "C"), ("context", "T")) if made.get(key)]
    if made.get("batch_tokens") and made.get("steps"):
        words.append(f"{made['batch_tokens']:,} tokens x {made['steps']:,} steps")
    seeds = sorted({cell["seed"] for cell in summary["cells"] if cell["seed"] is not None})
    words.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
    return ", ".join(words + ([made["precision"]] if made.get("precision") else []))


def _counts(sections):
    seen = Counter(row["verdict"] for section in sections for row in section["rows"])
    return ", ".join(f"{seen[verdict]} {verdict}" for verdict in VERDICTS if seen[verdict])


def readme_table(sections):
    """A line per claim that was measured."""
    lines = ["| published | by | measured | verdict |", "|---|---|---|---|"]
    for section in sections:
        for row in section["rows"]:
            if row["verdict"] != NOT_MEASURED:
                paper = row["published"].paper
                lines.append(f"| {_cell(row['published'].sentence)} | [{paper}](https://arxiv.org/abs/{paper}) | "
                             f"{_cell(row['short'])} | {row['verdict']}{_scale_mark(section)} |")
    if len(lines) == 2:
        return "Nothing has been measured yet.\n"
    missing = sum(row["verdict"] == NOT_MEASURED for section in sections for row in section["rows"])
    text = f"{_counts(sections)}. " + "; ".join(_scale_lines(sections)) + ".\n\n"
    if missing:
        text = text.replace(f", {missing} {NOT_MEASURED}. ", f"; {missing} not measured yet, and not below. ")
    return text + "\n".join(lines) + "\n"


def _scale_mark(section):
    return "" if section["summary"]["scale"] == claims.QUICK else " (full)"


def _scale_lines(sections):
    by_scale = {}
    for section in sections:
        if section["summary"]["made"].get("runs"):
            by_scale.setdefault(section["scale"], []).append(section["summary"]["sweep"])
    return [f"{', '.join(names)}: {scale}" for scale, names in by_scale.items()]


def _cell(text):
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def put_into(text, table):
    """Replaces what stands between the markers. Throws ValueError without them."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"no '{BEGIN}' and '{END}' to put the table between")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:begin]}\n{table}{text[end:]}"


def markdown(sections):
    parts = ["# What the literature claims, what plimsoll measured", f"{_counts(sections)}.",
             "\n".join(f"- *{verdict}*: {_MEANING[verdict]}." for verdict in VERDICTS)]
    for section in sections:
        parts.append(f"## {section['summary']['sweep']} ({section['summary']['scale']})")
        parts.append(f"{section['scale']}. {_state_words(section['summary'])}")
        for row in section["rows"]:
            source = row["published"]
            parts.append(f"### {_cell(source.sentence)}\n\n**{row['verdict']}**. Published: {_cell(source.figures)} "
                         f"({_cell(source.source)}).\n\nMeasured: {_cell(row['words'])}.\n\n"
                         f"Criterion: {_cell(row['criterion'])}" + (f" Control: {_cell(row['control'])}." if row["control"]
                                                                   else ""))
    return "\n\n".join(parts) + "\n"


def _state_words(summary):
    states = Counter(cell["state"] for cell in summary["cells"])
    return f"{len(summary['cells'])} cells: " + ", ".join(f"{count} {state}" for state, count in states.most_common()) + "."


def figures_of(sections):
    """-> {(scale, sweep): [Figure]}"""
    values = claims.published()["variants-order"].values
    found = {}
    for section in sections:
        summary = section["summary"]
        drawn = findings_figures.dots(summary, values if summary["sweep"] == "variants" else None), \
            findings_figures.curves(summary)
        found[summary["scale"], summary["sweep"]] = [figure for figure in drawn if figure]
    return found


def html(sections, figures):
    page = Page("What the literature claims, what plimsoll measured",
                "Written by plimsoll's scripts/findings.py. The numbers are in configs/findings/results/.")
    meanings = "".join(f'<li><span class="pill {_PILLS[v]}">{v}</span> {escape(_MEANING[v])}.</li>' for v in VERDICTS)
    page.add("Verdicts", f"<ul>{meanings}</ul>" + _overview(sections))
    for section in sections:
        summary, rows = section["summary"], section["rows"]
        cards = "".join(_card(row) for row in rows)
        page.add(f"{rows[0]['published'].finding if rows else summary['sweep']}: {summary['sweep']} ({summary['scale']})",
                 f"<p>{escape(section['scale'])}. {escape(_state_words(summary))}</p>{cards}"
                 + "".join(figure_html(figure) for figure in figures.get((summary["scale"], summary["sweep"]), ())))
    return page.render(escape(_counts(sections)), "")


def _overview(sections):
    body = "".join(f"<tr><td style='white-space:normal'>{escape(row['published'].sentence)}</td>"
                   f"<td>{escape(row['published'].paper)}</td><td>{escape(section['summary']['scale'])}</td>"
                   f'<td><span class="pill {_PILLS[row["verdict"]]}">{row["verdict"]}</span></td></tr>'
                   for section in sections for row in section["rows"])
    return ('<div class="scroll"><table><thead><tr><th>Published</th><th>arXiv</th><th>Scale</th><th>Verdict</th></tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def _card(row):
    source = row["published"]
    lines = [("Published", f"{source.figures} ({source.source})"), ("Measured", f"{row['words']}."),
             ("Criterion", row["criterion"])] + ([("Control", f"{row['control']}.")] if row["control"] else [])
    body = "".join(f"<p><b>{name}.</b> {escape(text)}</p>" for name, text in lines)
    return (f'<div class="card" style="border-left-color:#999;margin:12px 0"><h3>{escape(source.sentence)} '
            f'<span class="pill {_PILLS[row["verdict"]]}">{row["verdict"]}</span></h3>{body}</div>')
