"""Run directories, or a sweep's directory, in; report directory out."""

import json
import math
from html import escape
from pathlib import Path

from . import (comparison, disaggregation, expectations, figures, page, panels, stability, summary, sweep, sweep_figures,
               sweep_page)
from .groups import group_runs, variant_colors
from .runs import UnusableRun, read_run
from .sweep_cells import DONE, read_sweep


def build(paths, out, title=None):
    """Writes report.html, *.png, summary.json and summary.md to `out` -> (messages, usable runs, unusable runs)."""
    out = Path(out)
    runs, messages, unusable = [], [], 0
    seen = set()
    for path in map(Path, paths):
        here = path.resolve()
        if here == out.resolve() or here in seen or here.is_file():
            continue  # the shell's runs/* also matches the report's own directory and loose files
        seen.add(here)
        try:
            run = read_run(path)
        except UnusableRun as error:
            messages.append(str(error))
            unusable += 1
            continue
        runs.append(run)
        messages += run.messages
    return _build(runs, messages, unusable, out, title)


def build_sweep(path, out, title=None):
    """As build(), of the cells of a sweep; what is not done counts as unusable. Throws UnusableRun if there is none."""
    directory = read_sweep(path)
    finished = [cell.run for cell in directory.cells if cell.state == DONE]
    lacking = [f"{cell.name} ({cell.state})" for cell in directory.cells if cell.state != DONE]
    messages = list(directory.messages)
    if lacking:
        messages.append(f"{len(lacking)} of {len(directory.cells)} cells are not done: {', '.join(lacking)}")
    if not finished:  # then at least what there is
        finished = [cell.run for cell in directory.cells if cell.run]
    return _build(finished, messages, len(lacking), Path(out), title or f"Sweep: {directory.path.resolve().name}",
                  sweep.analyze(directory))


def _build(runs, messages, unusable, out, title, analysis=None):
    if not runs:
        return messages, 0, unusable
    groups = group_runs(runs)
    by_run = {id(run): summary.summarize_run(run) for run in runs}
    rows = [summary.summarize_group(group, [by_run[id(run)] for run in group.runs]) for group in groups]
    verdicts = [_verdict(row, group) for row, group in zip(rows, groups)]
    messages += _mismatches(groups)
    steadiness = {id(run): stability.of_run(run) for run in runs}
    for run in runs:
        by_run[id(run)]["stability"] = steadiness[id(run)]
    steady = stability.table(groups, steadiness)

    out.mkdir(parents=True, exist_ok=True)
    document = {"runs": [by_run[id(run)] for group in groups for run in group.runs], "variants": rows,
                "verdicts": verdicts, "control": expectations.control_statement(rows), "messages": messages}
    compared = comparison.compare(*runs) if len(runs) == 2 and not analysis else None
    if analysis:
        document["sweep"] = analysis
    if compared:
        document["comparison"] = compared
    _write(out / "summary.json", json.dumps(_finite(document), indent=1) + "\n")
    _write(out / "summary.md", summary.markdown(rows) + (sweep_page.markdown(analysis) if analysis else "")
           + (comparison.markdown(compared) if compared else ""))
    drawn = _figures(groups, rows)
    drawn.update(sweep_figures.figures_of(analysis, variant_colors(groups)) if analysis else {})
    for pattern in ("cad_*.png", "sweep_*.png"):
        for file in out.glob(pattern):
            file.unlink()  # of an earlier report in this directory
    for name, figure in drawn.items():
        file = out / f"{name}.png"
        if figure:
            file.write_bytes(figure.png)
        else:
            file.unlink(missing_ok=True)  # of an earlier report in this directory
    _write(out / "report.html", _page(title, groups, rows, verdicts, drawn, messages, analysis, compared, steady))
    return messages, len(runs), unusable


def _write(path, text):
    path.write_text(text, encoding="utf-8")


def _finite(value):
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _verdict(row, group):
    judged = expectations.thresholds(row, group)
    headline, sentences = expectations.verdict(row, group, judged)
    return {"label": row["label"], "variant": row["variant"], "headline": headline, "sentences": sentences,
            "thresholds": judged}


def _mismatches(groups):
    """Runs side by side should have seen the same data for the same number of steps."""
    found = []
    runs = [run for group in groups for run in group.runs]
    by_seed = {}
    for run in runs:  # a generator's data, and their order, belong to the seed
        if run.info.get("data_hash") is not None:
            by_seed.setdefault(run.info.get("seed"), set()).add(run.info["data_hash"])
    found += [f"the runs of seed {seed} come from different data: {', '.join(sorted(values))[:200]}"
              for seed, values in by_seed.items() if len(values) > 1]
    for key, text in (("commit", "different commits"), ("precision", "different precisions")):
        values = {run.info.get(key) for run in runs if run.info.get(key) is not None}
        if len(values) > 1:
            found.append(f"the runs come from {text}: " + ", ".join(sorted(map(str, values)))[:200])
    steps = {run.last_step for run in runs}
    if len(steps) > 1:
        found.append("the runs end at different steps: " + ", ".join(map(str, sorted(steps))))
    return found


def _figures(groups, rows):
    return {
        "loss": figures.losses(groups), "risk": figures.risks(groups), "sink": figures.sink_curves(groups),
        "heads": panels.heat_maps(groups), "attention_maps": panels.attention_maps(groups),
        "drain": figures.drain_curves(groups),
        "mechanism": figures.mechanism_curves(groups), "residual": figures.residual_profiles(groups),
        "massive": figures.massive_profiles(groups), "residual_steps": figures.residual_curves(groups),
        "gate": figures.gate_curves(groups), "published": panels.published_curves(groups),
        "cost": panels.costs(rows, groups), **disaggregation.figures_of(groups),
    }


def _page(title, groups, rows, verdicts, drawn, messages, analysis, compared, steady):
    labels = [group.label for group in groups]
    names = ", ".join(labels) if len(labels) <= 5 else f"{len(labels)} variants"
    html = page.Page(title or f"Attention sinks: {names}")
    control = expectations.control_statement(rows)
    for heading, section in sweep_page.sections(analysis, drawn) if analysis else ():
        html.add(heading, section)
    if compared:
        html.add("A and B", comparison.html(compared))
    html.add("Final numbers", page.headline_tables(rows, groups))
    html.add("Verdicts", (f"<p>{escape(control)}</p>" if control else "") + page.verdict_cards(verdicts, groups))
    for key in ("published", "sink", "attention_maps", "heads", "drain", "loss", "risk", "mechanism", "residual",
                "massive", "residual_steps", "gate", "cost"):
        after = page.published_html(groups) if key == "published" else ""
        html.add_figure(drawn[key], after=after)
    for key, figure in drawn.items():
        if key.startswith("cad_"):
            html.add_figure(figure)
    if steady:
        html.add("Training stability", steady.html() + f'<p class="note">{escape(stability.NOTE)}</p>')
    html.add("Where the numbers come from", page.provenance(groups))
    return html.render(_subtitle(groups), _opening(rows) + page.messages_html(messages))


def _subtitle(groups):
    runs = [run for group in groups for run in group.runs]
    facts = [f"{len(runs)} run" + ("s" if len(runs) > 1 else "")]
    for key, pattern in (("cpu", "{}"), ("threads", "{} threads"), ("precision", "{}"), ("commit", "commit {:.12}")):
        values = {run.info.get(key) for run in runs if run.info.get(key) is not None}
        if len(values) == 1:
            facts.append(pattern.format(values.pop()))
    return escape(" · ".join(facts))


def _opening(rows):
    """One sentence a reader takes away: where each variant puts its weight."""
    parts = []
    for row in rows:
        mean = row["mean"]
        holder, first = mean["placeholder_mass_effective"], mean["first_mass_effective"]
        if first is None:
            continue
        text = f"<b>{escape(row['label'])}</b> {100 * first:.1f}%"
        parts.append(text + (f" (and {100 * holder:.1f}% to its placeholder)" if holder is not None else ""))
    if not parts:
        return ""
    return f'<p class="lead">Effective attention to the first real token at the end: {"; ".join(parts)}.</p>'
