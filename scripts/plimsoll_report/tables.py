"""Tables as HTML and as Markdown."""

from html import escape

# States of a cell of a sweep, as coloured words.
PILLS = {"done": "pass", "failed": "short", "unreadable": "short", "interrupted": "none", "missing": "short"}
_LEFT = ' style="text-align:left;white-space:normal"'


class Table:
    """One table as HTML and as Markdown."""

    def __init__(self, *head, text=1):
        self.head, self.text, self.rows = head, text, []  # text: columns on the left that hold words

    def add(self, *cells):
        self.rows.append([str(cell) for cell in cells])

    def html(self):
        head = "".join(f'<th{_LEFT if place < self.text else ""}>{escape(title)}</th>'
                       for place, title in enumerate(self.head))
        body = "".join("<tr>" + "".join(_cell(cell, place < self.text) for place, cell in enumerate(row)) + "</tr>"
                       for row in self.rows)
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

    def markdown(self):
        lines = ["| " + " | ".join(self.head) + " |",
                 "|" + "---|" * self.text + "---:|" * (len(self.head) - self.text)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
                  for row in self.rows]
        return "\n".join(lines) + "\n"


def _cell(text, words):
    if text in PILLS:
        return f'<td><span class="pill {PILLS[text]}">{text}</span></td>'
    return f"<td{_LEFT if words else ''}>{escape(text)}</td>"
