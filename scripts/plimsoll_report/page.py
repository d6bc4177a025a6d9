"""The page: one HTML file with its style and images inside, readable offline and on a narrow screen."""

import re
from html import escape

from .metrics import ALL
from .panels import published_table
from .summary import COLUMNS, COSTS, count, number, qk_norm

_STYLE = """
:root{--ink:#1d232b;--soft:#5b6470;--line:#e3e6ea;--paper:#fff;--wash:#f6f7f9;--link:#0b5cad}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;color:var(--ink);background:var(--paper);line-height:1.55;
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",Arial,sans-serif}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
.frame{display:grid;grid-template-columns:215px minmax(0,1fr);gap:44px;max-width:1340px;margin:0 auto;padding:0 32px}
nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto;padding:44px 0 24px;font-size:13.5px}
nav b{display:block;font-size:11.5px;letter-spacing:.08em;text-transform:uppercase;color:var(--soft);margin-bottom:10px}
nav ol{list-style:none;margin:0;padding:0;border-left:2px solid var(--line)}
nav li a{display:block;padding:3.5px 0 3.5px 14px;color:#3c4550;line-height:1.35}
main{padding:38px 0 80px;min-width:0}
h1{font-size:33px;line-height:1.15;margin:0 0 6px;letter-spacing:-.015em}
h2{font-size:22px;margin:54px 0 12px;letter-spacing:-.01em;padding-top:6px;border-top:1px solid var(--line)}
h2 a{color:inherit}
.sub{color:var(--soft);margin:0 0 20px;font-size:14.5px}
p,ul{max-width:76ch}
.lead{font-size:17.5px;margin:18px 0}
.scroll{overflow-x:auto;margin:14px 0 8px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:7px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{white-space:normal;vertical-align:bottom;font-size:12px;line-height:1.25;color:var(--soft);font-weight:600;
 border-bottom:2px solid #c9ced5}
th:first-child,td:first-child{text-align:left}
td.name{font-weight:600}
tbody tr:hover{background:var(--wash)}
.dot{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:8px;vertical-align:-1px}
.sd{display:block;color:var(--soft);font-size:11.5px;line-height:1.2}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:16px;margin:16px 0}
.card{border:1px solid var(--line);border-left:5px solid;border-radius:6px;padding:14px 18px 12px;min-width:0}
.card h3{margin:0;font-size:16.5px}.card h3 span{font-weight:400;color:var(--soft)}
.card p{margin:7px 0 10px;font-size:14.5px}
.card table{font-size:13px}.card th,.card td{padding:4px 6px;white-space:normal}
.card td:nth-child(2),.card td:nth-child(3){white-space:nowrap}
.pill{display:inline-block;border-radius:10px;padding:0 9px;font-size:12px;font-weight:600;line-height:19px}
.pass{background:#dff1e6;color:#0b5f37}.short{background:#fbe3d6;color:#93380a}.none{background:#eceef1;color:#555}
figure{margin:18px 0 6px}
figure img{display:block;width:100%;height:auto;border:1px solid var(--line);border-radius:6px;padding:12px;
 background:#fff}
figcaption,.note{font-size:13.5px;color:var(--soft);max-width:none;margin-top:9px}
.terms{columns:2 330px;column-gap:34px;list-style:none;padding:0;margin:9px 0 0;max-width:none;font-size:12.5px;
 line-height:1.45}
.terms li{break-inside:avoid;margin-bottom:5px}.terms b{color:#3c4550;font-weight:600}
cite{font-style:normal;opacity:.8;white-space:nowrap}
.notes{background:#fff8e6;border:1px solid #f0dfae;border-radius:6px;padding:10px 18px;font-size:14px}
.notes ul{margin:6px 0;padding-left:18px;max-width:none}
details{margin:10px 0;font-size:14px}summary{cursor:pointer;color:var(--link)}
pre{background:var(--wash);border:1px solid var(--line);border-radius:6px;padding:12px;overflow:auto;font-size:12.5px;
 line-height:1.45}
code{font-size:.92em}
footer{color:var(--soft);font-size:13px;margin-top:50px;border-top:1px solid var(--line);padding-top:12px}
@media(max-width:960px){.frame{display:block;padding:0 18px}nav{position:static;max-height:none;padding:22px 0 0}
 nav ol{border:0;columns:2}nav li a{padding-left:0}main{padding-top:18px}h1{font-size:27px}
 figure img{padding:4px}}
@media print{nav{display:none}.frame{display:block}figure,.card{break-inside:avoid}}
"""


class Page:
    def __init__(self, title, footer="Written by plimsoll's scripts/report.py. The numbers are in summary.json, the figures "
                                     "are PNG files in this directory."):
        self.title, self.footer = title, footer
        self.sections = []  # (anchor, heading, html)

    def add(self, heading, html):
        anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
        self.sections.append((anchor, heading, html))

    def add_figure(self, figure, before="", after=""):
        if figure:
            self.add(figure.title, before + figure_html(figure) + after)

    def render(self, subtitle, opening):
        links = "".join(f'<li><a href="#{a}">{escape(h)}</a></li>' for a, h, _ in self.sections)
        body = "".join(f'<section id="{a}"><h2><a href="#{a}">{escape(h)}</a></h2>{html}</section>'
                       for a, h, html in self.sections)
        return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
                f'<meta name="viewport" content="width=device-width,initial-scale=1">'
                f'<title>{escape(self.title)}</title><style>{_STYLE}</style></head><body><div class="frame">'
                f'<nav aria-label="Contents"><b>Contents</b><ol>{links}</ol></nav><main>'
                f'<h1>{escape(self.title)}</h1><p class="sub">{subtitle}</p>{opening}{body}'
                f'<footer>{escape(self.footer)}</footer></main></div></body></html>\n')


def figure_html(figure):
    return (f'<figure><img src="{figure.data_uri}" alt="{escape(figure.title)}">'
            f'<figcaption>{escape(figure.caption)}{definitions(figure.metrics)}</figcaption></figure>')


def definitions(keys):
    """Definition and source of every metric of a figure, in two columns."""
    items = "".join(f"<li><b>{escape(ALL[key].title)}</b>: {escape(ALL[key].definition)}. "
                    f"<cite>{escape(ALL[key].source)}</cite></li>" for key in keys)
    return f'<ul class="terms">{items}</ul>' if items else ""


def messages_html(messages):
    if not messages:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in messages)
    return f'<div class="notes"><b>What was missing or is unfinished</b><ul>{items}</ul></div>'


def _dot(group):
    return f'<span class="dot" style="background:{group.color}"></span>'


def _table(head, lines):
    return (f'<div class="scroll"><table><thead><tr>{"".join(head)}</tr></thead><tbody>'
            + "".join(f'<tr>{"".join(cells)}</tr>' for cells in lines) + "</tbody></table></div>")


def _spread_cell(row, key, digits, show=None):
    mean, sd = row["mean"][key], row["sd"][key]
    text = show(mean) if show else number(mean, digits)
    if sd is not None and mean is not None and (show is None or sd):
        text += f'<span class="sd">± {show(sd) if show else number(sd, digits)}</span>'
    return f"<td>{text}</td>"


def headline_tables(rows, groups):
    """One row per group, twice: what it learned and where it attends; what it is and costs."""
    shown = [c for c in COLUMNS if any(row["mean"][c[0]] is not None for row in rows)]
    costs = [c for c in COSTS if any(row["mean"][c[0]] is not None for row in rows)]
    floors = any(row["oracle"] for row in rows)
    seeds = any(len(row["seeds"]) > 1 for row in rows)
    head, lines = ["<th>Variant</th>"], [[_name_cell(row, group)] for row, group in zip(rows, groups)]
    for key, title, digits, hint in shown:
        head.append(f'<th title="{escape(hint)}">{escape(title)}</th>')
        for row, cells in zip(rows, lines):
            cells.append(_spread_cell(row, key, digits))
        if key == "bigram_risk" and floors:
            head.append('<th title="exact, for the run\'s own context length">Bigram floor</th>')
            for row, cells in zip(rows, lines):
                cells.append(f"<td>{number((row['oracle'] or {}).get('bigram_risk'), 4)}</td>")
    note = ("Final values; sink metrics are means over layers and heads at the last probe. Masses: the first real "
            "token (in a placeholder run the one after the placeholder). Value drain and residual peak: of the "
            "placeholder where there is one, else of token 0; the peak after the block where it is largest. \u2013: does not apply "
            "or was not recorded." + (" Several seeds: mean ± standard deviation (n \u2212 1)." if seeds else ""))
    first = _table(head, lines) + f'<p class="note">{note}</p>'

    head = ["<th>Variant</th>", "<th>Seeds</th>", "<th>Step</th>", "<th>Layers × heads</th>",
            '<th title="RMSNorm on queries and keys; it changes the strength of a sink">QK-norm</th>']
    head += [f'<th title="{escape(hint)}">{escape(title)}</th>' for _, title, hint in costs]
    lines = []
    for row, group in zip(rows, groups):
        named = ", ".join(str(seed) for seed in row["seeds"] if seed is not None) or "\u2013"
        shape = f"{_text(row['layers'], 9)} × {_text(row['heads'], 9)}"
        lines.append([_name_cell(row, group), f"<td>{named}</td>", f"<td>{row['steps']}</td>", f"<td>{shape}</td>",
                      f"<td>{qk_norm(row)}</td>"] + [_spread_cell(row, key, 0, count) for key, _, _ in costs])
    return first + _table(head, lines)


def _name_cell(row, group):
    return f'<td class="name">{_dot(group)}{escape(row["label"])}</td>'


def verdict_cards(verdicts, groups):
    cards = []
    for verdict, group in zip(verdicts, groups):
        lines = ""
        for item in verdict["thresholds"]:
            state, word = {True: ("pass", "pass"), False: ("short", "short"), None: ("none", "n/a")}[item["pass"]]
            lines += (f'<tr><td>{escape(item["title"])}</td><td>{number(item["value"], item["digits"])}</td>'
                      f'<td>{escape(item["wanted"])}</td><td><span class="pill {state}">{word}</span></td></tr>')
        table = (f"<table><thead><tr><th>Threshold</th><th>Measured</th><th>Wanted</th><th></th></tr></thead>"
                 f"<tbody>{lines}</tbody></table>") if lines else ""
        cards.append(f'<div class="card" style="border-left-color:{group.color}"><h3>{escape(verdict["label"])} '
                     f'<span>\u2014 {escape(verdict["headline"])}</span></h3>'
                     f'<p>{escape(" ".join(verdict["sentences"]))}</p>{table}</div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def published_html(groups):
    headings, rows = published_table(groups)
    if not rows:
        return ""
    headings = [h for h, used in zip(headings, _used(rows)) if used]
    keep = _used(rows)
    head = "<th>Run</th><th>Step</th>" + "".join(f"<th>{escape(h)}<br>measured / published</th>" for h in headings)
    body = ""
    for label, step, cells in rows:
        body += f"<tr><td>{escape(label)}</td><td>{step}</td>" + "".join(
            f"<td>{_significant(ours)} / {_significant(theirs)}</td>"
            for (ours, theirs), used in zip(cells, keep) if used) + "</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _used(rows):
    return [any(cells[place][0] is not None for _, _, cells in rows) for place in range(len(rows[0][2]))]


def _significant(value):
    return "\u2013" if value is None else f"{value:.3g}"


def provenance(groups):
    keys = (("name", "Run"), ("seed", "Seed"), ("status", "Status"), ("precision", "Precision"), ("threads", "Threads"),
            ("layers", "Layers"), ("heads", "Heads"), ("commit", "Commit"), ("data_hash", "Data"), ("cpu", "CPU"))
    head = "<th>Variant</th>" + "".join(f"<th>{title}</th>" for _, title in keys)
    body, configs = "", ""
    for group in groups:
        for run in group.runs:
            cells = "".join(f"<td>{escape(_text(run.info.get(key), 24 if key == 'cpu' else 16))}</td>"
                            for key, _ in keys)
            body += f'<tr><td class="name">{_dot(group)}{escape(group.label)}</td>{cells}</tr>'
            build = ", ".join(f"{key} {value}" for key, value in (run.info.get("build") or {}).items())
            configs += (f"<details><summary>{escape(run.name)}: command, build and resolved configuration</summary>"
                        f"<pre>{escape(run.info.get('command') or 'command not recorded')}\n"
                        f"{escape(build or 'build not recorded')}\n\n"
                        f"{escape(run.config_text or 'no config.toml')}</pre></details>")
    return (f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{configs}')


def _text(value, limit):
    if value is None:
        return "\u2013"
    text = str(value)
    return text if len(text) <= limit else text[:limit - 1] + "\u2026"
