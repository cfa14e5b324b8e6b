"""Pieces of HTML. Every function escapes the text it is given; only arguments called `html` are taken as they are."""

import base64
import html as escaping
from collections.abc import Collection, Iterable

from matplotlib.figure import Figure

from dass_jax.report.style import svg

_CSS = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: #fff; color: #222;
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; font-size: 1.3rem; }
h3 { font-size: 1.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
table.text td { text-align: left; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #888; } th small { font-weight: normal; white-space: nowrap; }
tbody tr.main { font-weight: bold; white-space: nowrap; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; color: #444; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: .5rem; }
.panels img { width: 100%; height: auto; }
.wide img { display: block; max-width: none; height: auto; }
.note { padding: .6rem .9rem; border-left: 4px solid #d55e00; background: #fff4ec; }
details { margin: .8rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; padding: .7rem; background: #f5f6f8; font-size: .8rem; overflow-wrap: normal; }
"""


def text(value: object) -> str:
    """`value` as HTML text, also safe inside a quoted attribute."""
    return escaping.escape(str(value), quote=True)


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def heading(value: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{text(value)}</h{level}>"


def pre(value: str) -> str:
    """Text as it stands."""
    return f"<pre>{text(value)}</pre>"


def details(summary: str, html: str) -> str:
    """A part that is closed at first."""
    return f"<details><summary>{text(summary)}</summary>\n{html}\n</details>"


def rows_table(header: Iterable[tuple[str, str]], rows: Iterable[Iterable[object]], main: Collection[int] = ()) -> str:
    """A table with (title, unit) headers; the rows of the numbers in `main` are set off."""
    head = "".join(
        f'<th scope="col">{text(title)}' + (f"<br><small>{text(unit)}</small>" if unit else "") + "</th>"
        for title, unit in header
    )
    body = "\n".join(
        f'<tr class="{"main" if index in main else "other"}">'
        + "".join(f"<td>{text(cell)}</td>" for cell in row)
        + "</tr>"
        for index, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def pairs_table(pairs: Iterable[tuple[object, object]]) -> str:
    """A table of names and values."""
    body = "\n".join(f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>' for key, value in pairs)
    return f'<div class="scroll"><table class="text"><tbody>\n{body}\n</tbody></table></div>'


def image(figure: Figure, alt: str) -> str:
    """The figure inside the page itself. As an image of its own its ids cannot clash with another figure's."""
    data = base64.b64encode(svg(figure)).decode("ascii")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img src="{source}" alt="{text(alt)}" width="{width}" height="{height}">'


def wide(html: str, caption: str) -> str:
    """A figure that keeps its size and is scrolled sideways on a narrow screen."""
    return f'<figure><div class="scroll wide">{html}</div>\n<figcaption>{text(caption)}</figcaption></figure>'


def panels(html: Iterable[str], caption: str) -> str:
    """A figure of several images or tables, beside one another where there is room."""
    inner = "\n".join(html)
    return f'<figure><div class="panels">\n{inner}\n</div>\n<figcaption>{text(caption)}</figcaption></figure>'


def page(title: str, html: str) -> str:
    """A whole HTML5 document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{html}\n</body>\n</html>\n"
    )
