"""Tables as rows of text: the same in the page, as CSV and as Markdown."""

import csv
import io
import math
from typing import NamedTuple

MISSING = "-"


class Table(NamedTuple):
    """Rows of text under (title, unit) headers."""

    title: str
    caption: str
    header: list[tuple[str, str]]
    rows: list[list[str]]


def to_csv(table: Table) -> str:
    """The table as CSV, each unit behind its title."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([" ".join(filter(None, pair)) for pair in table.header])
    writer.writerows([[cell.replace(",", "") if _is_number(cell) else cell for cell in row] for row in table.rows])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """The table as Markdown under its title, with its caption."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = [" ".join(filter(None, pair)) for pair in table.header]
    rule = "|" + "|".join([":---", *["---:"] * (len(head) - 1)]) + "|"
    return "\n".join([f"## {table.title}", "", line(head), rule, *map(line, table.rows), "", table.caption, ""])


def pruned(keep: float) -> str:
    """The share of pruned weights in per cent."""
    return MISSING if math.isnan(keep) else f"{round(100 * (1 - keep), 6):g} %"


def probability(p: float) -> str:
    """A p value with three decimals, `< 0.001` below them."""
    return MISSING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).lstrip("+-").isdecimal()
