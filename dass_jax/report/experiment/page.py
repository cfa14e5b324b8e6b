"""The report of an experiment: report.html, and each table and figure as a file of its own."""

import math
import pathlib
from collections.abc import Mapping
from typing import TypeVar

from dass_jax.errors import UserError, nearest
from dass_jax.report import markup, style
from dass_jax.report.experiment import published
from dass_jax.report.experiment.data import Experiment, Row, co2_source, data_said, read
from dass_jax.report.experiment.figures import FIGURES, Drawing
from dass_jax.report.experiment.rows import Table, to_csv, to_markdown
from dass_jax.report.experiment.tables import TABLES
from dass_jax.report.page import write_whole
from dass_jax.report.tables import decimal

T = TypeVar("T")


def build(folder: pathlib.Path) -> pathlib.Path:
    """Writes EXPERIMENT/report.html, tables/*.csv, tables/*.md and figures/*.svg; returns the page's path.

    Raises:
      UserError: if `folder` is no experiment's, is damaged or cannot be written to.
    """
    experiment = read(folder)
    tables = {name: _known(TABLES, name, "tables")(experiment) for name in experiment.tables}
    tables = {name: table for name, table in tables.items() if table.rows}
    with style.settings():
        drawings = [drawing for name in experiment.figures for drawing in _known(FIGURES, name, "figures")(experiment)]
        for name, table in tables.items():
            write_whole(folder / "tables" / f"{name}.csv", to_csv(table).encode())
            write_whole(folder / "tables" / f"{name}.md", to_markdown(table).encode())
        for drawing in drawings:
            write_whole(folder / "figures" / f"{drawing.name}.svg", style.svg(drawing.figure))
        html = render(experiment, tables, drawings)
    return write_whole(folder / "report.html", html.encode("utf-8", errors="replace"))


def _known(found: Mapping[str, T], name: str, field: str) -> T:
    if name not in found:
        raise UserError(f"report.{field}: {name!r} is unknown{nearest(name, found)}; allowed: {', '.join(found)}")
    return found[name]


def render(experiment: Experiment, tables: dict[str, Table], drawings: list[Drawing]) -> str:
    """The whole page as HTML."""
    parts = [markup.heading(experiment.title, 1), *_state(experiment)]
    for name, table in tables.items():
        parts += [markup.heading(table.title), markup.rows_table(table.header, table.rows)]
        parts.append(markup.paragraph(f"{table.caption} Also as tables/{name}.csv and tables/{name}.md."))
    if experiment.published in published.SOURCES:
        parts.append(markup.paragraph(published.SOURCES[experiment.published]))
    parts.append(markup.heading("Figures") if drawings else "")
    for caption in dict.fromkeys(drawing.caption for drawing in drawings):
        own = [drawing for drawing in drawings if drawing.caption == caption]
        images = [markup.image(drawing.figure, drawing.name.replace("_", " ")) for drawing in own]
        names = ", ".join(f"figures/{drawing.name}.svg" for drawing in own)
        parts.append(markup.panels(images, f"{caption} ({names})"))
    return markup.page(experiment.title, "\n".join(parts))


def _state(experiment: Experiment) -> list[str]:
    """How much of the experiment there is, what failed, what it cost."""
    rows = experiment.rows
    done = [row for row in rows if row.status == "finished"]
    spent = sum(row.numbers["seconds"] - row.numbers["seconds_shared"] for row in done)
    alone = sum(row.numbers["seconds"] for row in done)
    pairs = [
        ("runs", f"{len(rows)}, of which {len(done)} are finished"),
        ("seeds", ", ".join(str(seed) for seed in sorted({row.seed for row in rows}))),
        ("time", f"{decimal(spent / 3600, 2)} h spent on them; each alone {decimal(alone / 3600, 2)} h"),
    ]
    pairs += [("data", said) for said in data_said(experiment)]
    if co2_source(experiment):
        power = experiment.watts * experiment.grams_per_kwh / 3.6e6
        grams = power * spent if power else _grams_spent(done)
        pairs.append(("CO₂", f"{decimal(grams, 1)} g of the time spent ({co2_source(experiment)})"))
    parts = [markup.pairs_table(pairs)]
    if len(done) < len(rows):
        parts.append(markup.paragraph("This experiment is unfinished: what is missing is shown as a hyphen.", "note"))
    failed = [(row.run, row.error) for row in rows if row.error]
    if failed:
        parts += [markup.heading("Failed", 3), markup.pairs_table(failed)]
    return parts


def _grams_spent(done: list[Row]) -> float:
    """Of the time that runs have not taken over from others; a run without a figure counts as none."""
    shares = [
        row.numbers["co2_g"] * (1 - row.numbers["seconds_shared"] / row.numbers["seconds"])
        for row in done
        if row.numbers["seconds"] > 0
    ]
    return sum(share for share in shares if not math.isnan(share))
