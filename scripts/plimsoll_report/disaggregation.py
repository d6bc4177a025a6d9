"""Core attention by all ranks (CAD): who computes what, loads, bytes, what each rank did when, and all of it over the
steps. From cad.jsonl and metrics.jsonl of a run; one figure each per variant, of its first run."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from .figures import WIDTH, Figure, steps_axis
from .runs import WAYS

MIB = 2**20
# Phases of dist/cad/timeline.h: colour and words.
PHASES = {
    "dispatch": ("#E69F00", "sends queries and keys"), "own": ("#0072B2", "own tasks"),
    "served": ("#56B4E9", "tasks of others"), "return": ("#F0E442", "sends results"),
    "wait_for_tasks": ("#D55E00", "waits for tasks"), "wait_for_results": ("#882255", "waits for results"),
    "add_up": ("#009E73", "adds up key gradients"),
}


def figures_of(groups):
    """name -> Figure, in the order of the page."""
    drawn = {}
    for place, group in enumerate(groups):
        run = next((run for run in group.runs if run.cad), None)
        if not run:
            continue
        of = f" ({group.label})" if len(groups) > 1 else ""
        sample = shown_sample(run.cad)
        drawn[f"cad_plan_{place}"] = plan(f"cad_plan_{place}", of, sample)
        drawn[f"cad_timeline_{place}"] = timeline(f"cad_timeline_{place}", of, sample)
        drawn[f"cad_steps_{place}"] = over_steps(f"cad_steps_{place}", of, run)
    return {name: figure for name, figure in drawn.items() if figure}


def shown_sample(samples):
    """The one whose owners' loads are the least equal; not the first step, which allocates, where there are others."""
    later = [sample for sample in samples if sample["step"] > 1] or samples
    return max(later, key=lambda sample: imbalance(sample["forward"]["loads_before"]))


def imbalance(loads):
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0


def rank_colors(ranks):
    if ranks <= 10:
        return [plt.get_cmap("tab10")(rank) for rank in range(ranks)]
    return [plt.get_cmap("turbo")((rank + 0.5) / ranks) for rank in range(ranks)]


def tokens(sample, way):
    """(home, first row, rows, server) of every task: the tokens of a rank, one document behind the other."""
    part, start, at = sample[way], [], [0] * sample["ranks"]
    for _, home, begin, end, _ in part["segments"]:
        start.append(at[home] - begin)
        at[home] += end - begin
    return [(part["segments"][segment][1], start[segment] + begin, end - begin, server)
            for segment, server, begin, end, _ in part["tasks"]]


def work(sample, way):
    """(server, pairs before this task, pairs, home) of every task; a rank's own first."""
    part, at, bars = sample[way], [0] * sample["ranks"], []
    homes = [home for _, home, _, _, _ in part["segments"]]
    for segment, server, _, _, pairs in sorted(part["tasks"], key=lambda t: (homes[t[0]] != t[1], t[0], t[2])):
        bars.append((server, at[server], pairs, homes[segment]))
        at[server] += pairs
    return bars


def plan(name, of, sample):
    ranks, colors = sample["ranks"], rank_colors(sample["ranks"])
    figure, rows = plt.subplots(2, 3, squeeze=False, figsize=(WIDTH, 2 * max(1.7, 0.75 + 0.24 * ranks)),
                                gridspec_kw={"width_ratios": (1.25, 1.25, 0.8)})
    for way, (left, middle, right) in zip(WAYS, rows):
        part = sample[way]
        for home, first, count, server in tokens(sample, way):
            left.barh(home, count, left=first, height=0.8, color=colors[server], edgecolor="white", linewidth=0.25)
        most = max(part["loads_before"] + part["loads"])
        left.set_title(f"{way.capitalize()}: tokens by owner,\ncoloured by the rank that computes")
        left.set_xlabel("token of the rank")
        middle.barh(range(ranks), part["loads_before"], height=0.86, color="#d5d9de")
        for server, start, pairs, home in work(sample, way):
            middle.barh(server, pairs, left=start, height=0.5, color=colors[home], edgecolor="white",
                        linewidth=0.5 if pairs > 0.005 * most else 0)  # edges would hide short documents
        middle.axvline(sum(part["loads"]) / ranks, color="#333", linewidth=1, linestyle=(0, (3, 2)))
        middle.set_title(f"Load: {imbalance(part['loads_before']):.2f} × the mean as owned,\n"
                         f"{imbalance(part['loads']):.2f} × as planned; coloured by owner")
        middle.set_xlabel("query-key pairs of a head")
        places = np.arange(ranks)
        right.barh(places - 0.2, [b / MIB for b in part["sent"]], height=0.36, color="#0072B2", label="sends")
        right.barh(places + 0.2, [b / MIB for b in part["received"]], height=0.36, color="#E69F00", label="receives")
        if part.get("byte_cap"):
            right.axvline(part["byte_cap"] / MIB, color="#b00020", linewidth=1, linestyle=(0, (3, 2)), label="cap")
        right.set_title("Bytes of a layer")
        right.set_xlabel("MiB")
        for axes in (left, middle, right):
            _rank_axis(axes, ranks)
        left.set_ylabel("rank")
    handles, labels = rows[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", ncols=3, bbox_to_anchor=(0.99, 0.0))
    if ranks <= 16:
        figure.legend([Patch(color=color) for color in colors], [f"rank {rank}" for rank in range(ranks)],
                      loc="lower left", ncols=min(ranks, 8), bbox_to_anchor=(0.02, 0.0), handlelength=1.1)
    figure.tight_layout(rect=(0, 0.07 if ranks <= 8 else 0.09, 1, 1), h_pad=1.4)
    return Figure(name, f"Core attention: who computes what{of}", _plan_caption(sample)).save(figure)


def _plan_caption(sample):
    said = []
    for way in WAYS:
        part = sample[way]
        moved = sum(count for home, _, count, server in tokens(sample, way) if home != server)
        total = sum(end - begin for _, _, begin, end, _ in part["segments"])
        keys = part.get("most_keys")
        said.append(f"{way}: {len(part['tasks'])} tasks of {len(part['segments'])} documents' parts, {moved} of "
                    f"{total} rows computed by another rank than their owner, {sum(part['sent']) / MIB:.2f} MiB"
                    + (f", keys of one task up to {max(keys)} rows" if keys else "")
                    + ("" if part["moves"] else " (the plan moves nothing)"))
    return (f"Step {sample['step']}, the round whose loads as owned are furthest apart. A piece of a bar is a task: an "
            "interval of one document's queries. Left: every rank's tokens, one document behind the other. Middle, "
            "grey: what ranks would compute of their own; dashed: the mean. " + "; ".join(said) + ".")


def _rank_axis(axes, ranks):
    axes.set_ylim(ranks - 0.4, -0.6)
    axes.set_yticks(range(0, ranks, max(1, ranks // 16)))
    axes.grid(False, axis="y")


def timeline(name, of, sample):
    """A lane is a thin row of its rank."""
    parts = [(way, sample[way]["timeline"]) for way in WAYS if sample[way].get("timeline")]
    if not parts:
        return None
    ranks = sample["ranks"]
    lanes = 1 + max(row[1] for _, rows in parts for row in rows)
    height = 0.84 / lanes
    figure, panels = plt.subplots(len(parts), 1, squeeze=False,
                                  figsize=(WIDTH, len(parts) * max(1.5, 0.75 + 0.27 * ranks)))
    said = []
    for (axes,), (way, rows) in zip(panels, parts):
        for rank, lane, _, phase, begin, end in rows:
            color = PHASES.get(phase, ("#999999", phase))[0]
            axes.barh(rank - 0.42 + (lane + 0.5) * height, end - begin, left=begin, height=height * 0.94, color=color)
        which = f"; the plan is of the {'lower' if sample[way]['lane'] else 'upper'} lane" if lanes > 1 else ""
        axes.set_title(f"{way.capitalize()}, one layer{which}")
        axes.set_xlabel("ms")
        axes.set_ylabel("rank")
        _rank_axis(axes, ranks)
        said.append(f"{way} {100 * waiting(rows):.0f} %")
    used = [phase for phase in PHASES if any(row[3] == phase for _, rows in parts for row in rows)]
    figure.legend([Patch(color=PHASES[phase][0]) for phase in used], [PHASES[phase][1] for phase in used],
                  loc="lower center", ncols=min(4, len(used)), handlelength=1.1)
    figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 1))
    return Figure(name, f"Core attention: what ranks do when{of}",
                  f"Step {sample['step']}, the same round in the first of its layers, on one clock since the ranks met "
                  "before the step (ranks on several machines: as far as their clocks agree); with a GPU, when work "
                  "was submitted. Waiting includes copying what came to its place. Blank: everything else a rank "
                  "computes, with two lanes (cad.ping_pong) the other micro batch's projections and MLP. Waiting, "
                  "of the time between a rank's first and last interval: "
                  f"{', '.join(said)}.").save(figure)


def waiting(rows):
    """Share of the ranks' time in the window in which they wait for others."""
    spans = {}
    for rank, _, _, _, begin, end in rows:
        first, last = spans.get(rank, (begin, end))
        spans[rank] = min(first, begin), max(last, end)
    total = sum(last - first for first, last in spans.values())
    waited = sum(end - begin for _, _, _, phase, begin, end in rows if phase.startswith("wait"))
    return waited / total if total > 0 else 0.0


def over_steps(name, of, run):
    steps = run.metrics.dropna(subset=["cad.before"])
    if not len(steps):
        return None
    figure, (balance, traffic, times) = plt.subplots(1, 3, figsize=(WIDTH, 2.7))
    balance.plot(steps["step"], steps["cad.before"], color="#9aa3ad", label="as owned")
    balance.plot(steps["step"], steps["cad.after"], color="#0072B2", label="as planned")
    balance.set_title("Largest load over the mean")
    traffic.plot(steps["step"], steps["cad.planned_bytes"] / MIB, color="#009E73", label="planned, all ranks")
    traffic.plot(steps["step"], steps["cad.most_bytes"] / MIB, color="#0072B2", label="planned, busiest rank")
    traffic.set_title("MiB per step")
    times.plot(steps["step"], steps["cad.plan_ms"], color="#9aa3ad", label="planning")
    if steps["cad.sent_bytes"].any():
        traffic.plot(steps["step"], steps["cad.sent_bytes"] / MIB, color="#E69F00", label="sent by rank 0")
        times.plot(steps["step"], steps["cad.exposed_ms"], color="#D55E00", label="waiting for core attention")
    times.set_title("ms per step, rank 0")
    for axes in (balance, traffic, times):
        steps_axis(axes, int(steps["step"].max()))
        axes.set_ylim(bottom=1 if axes is balance else 0)
        axes.legend(fontsize=7.5)
    figure.tight_layout()
    means = steps[["cad.before", "cad.after"]].mean()
    return Figure(name, f"Core attention: balance and traffic{of}",
                  "Sums over the rounds and layers of a step; the mean over steps of the largest load over the mean is "
                  f"{means['cad.before']:.2f} as owned and {means['cad.after']:.2f} as planned. Bytes as planned count "
                  "both directions of a layer's messages of all ranks, busiest: the larger of what one rank "
                  "sends and receives. Waiting is what computing did not hide; where ranks share "
                  "cores it is also their turn.").save(figure)
