"""What torch_peer.py prints and puts into README.md and kernels/README.md, made of what it keeps in its file."""

import statistics

import peer_rows
from peer_rows import AIMS, ROUNDS, SHAPES

BEGIN, END = "<!-- cpu speed -->", "<!-- end of cpu speed -->"
_SECTION = "\n### "  # a machine's heading


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def megabytes(count):
    return f"{count / 1e6:,.0f}"


def processor(settings):
    return f"{settings['processor']} ({', '.join(settings['bf16']) or 'no bf16 units'})"


def header(settings, date):
    """What a reader needs to know of a measurement."""
    torch = f", PyTorch {settings['torch']}" if settings.get("torch") else ""
    return (f"{processor(settings)}, {settings['threads']} threads on {settings['cores']} cores, transparent "
            f"huge pages {settings['transparent_huge_pages']}{torch}, {date}.")


def shape_report(shape, precision, result):
    """Every row of a shape and what they amount to, Markdown; ratios above 1 mean that plimsoll is faster."""
    entries = peer_rows.summarize(shape, result)
    lines = [header(result["settings"], result["date"]), "",
             f"| {shape}{' without AMX' if precision == 'fp32' else ''} | rounds | ms/step | fastest to slowest | tokens/s | "
             "peak MB | plimsoll is faster by |", "|---|---:|---:|---:|---:|---:|---:|"]
    for entry in entries:
        if "error" in entry:
            lines.append(f"| {entry['row']} | failed: {entry['error']} | | | | | |")
            continue
        ratio = f"{entry['ratio']:.2f}x ({entry['ratio_low']:.2f} to {entry['ratio_high']:.2f})" if "ratio" in entry else ""
        lines.append(f"| {entry['row']} | {entry['rounds'] or 'screening'} | {entry['ms']:.1f} | {entry['low']:.1f} to "
                     f"{entry['high']:.1f} | {entry['tokens_per_second']:,.0f} | {megabytes(entry['bytes'])} | {ratio} |")
    return "\n".join(lines + ["", verdict(shape, precision, result)])


def verdict(shape, precision, result):
    claim = peer_rows.claim(shape, precision, result)
    if claim is None:
        return f"{shape}: no ratio without a round of both"
    wanted = f"wanted {claim['wanted']}x: {_reached(claim)}" if claim["wanted"] else "no aim"
    return (f"{shape}{', fp32 without AMX' if precision == 'fp32' else ''}: {claim['ratio']:.2f}x PyTorch's best row "
            f"({claim['best']}; {claim['low']:.2f}x to {claim['high']:.2f}x over {claim['rounds']} rounds); {wanted}. "
            f"Peak memory {claim['memory']:.2f} of that row's, {claim['memory_leanest']:.2f} of the leanest's "
            f"({claim['leanest']}).")


def _reached(claim):
    if claim["reached"] is None:
        return f"not judged, {claim['rounds']} rounds of {ROUNDS}"
    return "reached" if claim["reached"] else "not reached"


def steps_table(steps):
    """One line per shape and precision: plimsoll beside PyTorch's best row."""
    lines = ["| step | plimsoll | PyTorch's best row | times as fast | wanted | peak memory | of the best row's | of the "
             "leanest's |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for precision in AIMS:
        for shape in SHAPES:
            result = steps.get(precision, {}).get(shape)
            claim = peer_rows.claim(shape, precision, result) if result else None
            if not claim:
                continue
            entries = {entry["row"]: entry for entry in peer_rows.summarize(shape, result)}
            own, best = entries["plimsoll"], entries[claim["best"]]
            wanted = f"{claim['wanted']}: {_reached(claim)}" if claim["wanted"] else ""
            lines.append(
                f"| `{shape}`{', fp32 without AMX' if precision == 'fp32' else ''} | {_speed(own)} | {_speed(best)}, "
                f"{best['row']} | {claim['ratio']:.2f} ({claim['low']:.2f} to {claim['high']:.2f}) | {wanted} | "
                f"{megabytes(own['bytes'])} MB | {claim['memory']:.2f} | {claim['memory_leanest']:.2f}, {claim['leanest']} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _speed(entry):
    return f"{entry['ms']:.1f} ms, {entry['tokens_per_second']:,.0f} tokens/s"


def scaling_table(scaling):
    """Times as fast as on one thread: quotients of medians, in brackets the least and greatest within a round."""
    counts = sorted({int(count) for rounds in scaling["shapes"].values() for one in rounds for count in one})
    lines = ["| step | " + " | ".join(f"{count} thread{'s' * (count > 1)}" for count in counts) + " |",
             "|---|" + "---:|" * len(counts)]
    for shape, rounds in scaling["shapes"].items():
        cells = []
        whole = [one for one in rounds if all("ms" in run for run in one.values())]
        for count in counts if whole else ():
            times = [one[str(count)]["ms"] for one in whole]
            alone = [one[str(counts[0])]["ms"] for one in whole]
            quotients = [a / b for a, b in zip(alone, times)]
            more = "" if count == counts[0] else (f", {statistics.median(alone) / statistics.median(times):.2f}x "
                                                  f"({min(quotients):.2f} to {max(quotients):.2f})")
            cells.append(f"{statistics.median(times):.1f} ms{more}")
        lines.append(f"| `{shape}` | " + " | ".join(cells or ["failed"] * len(counts)) + " |")
    return "\n".join(lines)


def attention_table(attention):
    """Medians of rounds. Per token: the call's time over T. Per key seen: over T (T + 1) / 2, times 1,000."""
    rounds = attention["rounds"]
    lengths = sorted({int(T) for one in rounds for T in one})
    names = list(dict.fromkeys(name for one in rounds for run in one.values() for name in run if name != "error"))
    lines = ["| T | " + " | ".join(f"{name} forward, µs/token | backward | forward, ns per 1,000 keys seen | backward"
                                   for name in names) + " |", "|---:|" + "---:|" * (4 * len(names))]
    for T in lengths:
        cells = []
        for name in names:
            runs = [one[str(T)][name] for one in rounds if name in one[str(T)]]
            sides = [statistics.median(run[side] for run in runs) for side in ("forward", "backward")] if runs else []
            cells += [f"{1e3 * ms / T:.2f}" for ms in sides] or ["failed", ""]
            cells += [f"{1e9 * ms / (T * (T + 1) / 2):,.0f}" for ms in sides] or ["", ""]
        lines.append(f"| {T:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def steps_text(data):
    """Steps beside PyTorch's on one machine, for README.md; nothing if none were measured."""
    table = steps_table(data.get("steps", {}))
    if not table:
        return ""
    results = [result for shapes in data["steps"].values() for result in shapes.values() if result["rounds"]]
    heads = list(dict.fromkeys(header(result["settings"], result["date"]) for result in results))
    rows = max(len(result["screening"]) for result in results)
    rounds = sorted({len(result["rounds"]) for result in results})
    return ("\n".join(heads) + f" Medians of {span(rounds)} rounds in turns, a run the median of "
            f"{span(sorted({result['settings']['timed_steps'] for result in results}))} steps; in brackets the least "
            "and the greatest quotient within a round; PyTorch's best of up to "
            f"{rows} rows, screened by a run of each.\n\n{table}\n")


def details_text(data):
    """Steps by the number of threads, and attention by length, on one machine, for kernels/README.md; likewise."""
    parts = []
    if data.get("scaling"):
        one = data["scaling"]
        parts += [f"By the number of threads, medians of {len(next(iter(one['shapes'].values())))} rounds: "
                  f"{header(one['settings'] | {'torch': None}, one['date'])}", scaling_table(one)]
    if data.get("attention"):
        one = data["attention"]
        parts += [f"Core attention of one causal sequence with 12 heads of 64, medians of {len(one['rounds'])} rounds, each the "
                  f"best of 7 calls: {header(one['settings'] | {'torch': None}, one['date'])}", attention_table(one)]
    return "\n\n".join(parts) + "\n" if parts else ""


def span(counts):
    """'5', or '3 to 5', of ascending counts."""
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def put_into(text, settings, table, markers=(BEGIN, END)):
    """Replaces the machine's section between the markers, or adds it. Throws ValueError without markers."""
    first, last = markers
    if first not in text or last not in text:
        raise ValueError(f"no '{first}' and '{last}' to put the tables between")
    begin, end = text.index(first) + len(first), text.index(last)
    sections = {part.split("\n", 1)[0]: part.strip("\n") for part in text[begin:end].split(_SECTION)[1:]}
    sections[processor(settings)] = f"{processor(settings)}\n\n{table}".strip("\n")
    return text[:begin] + "".join(f"{_SECTION}{one}\n" for one in sections.values()) + text[end:]


PAGES = {"README.md": steps_text, "kernels/README.md": details_text}
