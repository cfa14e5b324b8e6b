"""`python -m dass_jax.sparsebench.compare ONE OTHER`: two tables on the cells that both have, ratio by ratio."""

import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from dass_jax.errors import Parser, UserError, process
from dass_jax.report.experiment import statistics
from dass_jax.report.experiment.rows import Table, probability, to_markdown
from dass_jax.sparsebench.figures import said
from dass_jax.sparsebench.findings import opened
from dass_jax.sparsebench.table import Row

Cells = Mapping[bytes, Row]
"""The operations of a cell → its row."""


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0. Raises UserError."""
    one, other = ({space.numbers(row.cell).tobytes(): row for row in rows} for space, rows in map(opened, parse(argv)))
    print(to_markdown(compared(one, other)))
    return 0


def parse(argv: Sequence[str]) -> tuple[pathlib.Path, pathlib.Path]:
    """Both folders. Raises UserError."""
    parser = Parser(
        prog="python -m dass_jax.sparsebench.compare",
        description="Two tables of sparse networks on the cells that both have. docs/sparsebench.md.",
        allow_abbrev=False,
    )
    parser.add_argument("one", type=pathlib.Path, help="a folder of dass_jax.sparsebench")
    parser.add_argument("other", type=pathlib.Path, help="another one")
    given = parser.parse_args(argv)
    return given.one, given.other


def compared(one: Cells, other: Cells) -> Table:
    """A line for each pair of networks that keep the same share of their weights. Raises UserError."""
    both = [cell for cell in one if cell in other]
    if len(both) < 2:
        raise UserError(f"the tables have {len(both)} cells in common; allowed: 2 or more")
    header = [("one", ""), ("other", ""), ("one", "[%]"), ("other", "[%]"), ("difference", "[points]"), ("p", "")]
    lines = []
    for first, second in pairs(one[both[0]], other[both[0]]):
        means, others = (
            {place: float(np.mean(table[cell].figures[f"test_{stage}"])) for place, cell in enumerate(both)}
            for table, stage in ((one, first), (other, second))
        )
        found = statistics.compare(means, others)
        sizes = [f"{np.mean(list(each.values())):.1f}" for each in (means, others)]
        difference = f"{found.difference.mean:+.1f} ± {found.difference.half:.1f}"
        lines.append([said(first), said(second), *sizes, difference, probability(found.p_t)])
    caption = (
        f"{len(both)} cells, means over the seeds; one less other by cells, 95 % interval, p by the paired t-test."
    )
    return Table("The same cells in two tables", caption, header, lines)


def pairs(one: Row, other: Row) -> list[tuple[str, str]]:
    """The networks of one row and of the other that keep the same share."""
    stages = ([name.removeprefix("test_") for name in row.figures if name.startswith("test_")] for row in (one, other))
    first, second = stages
    return [(a, b) for a in first for b in second if a.rpartition("_")[2] == b.rpartition("_")[2]]


if __name__ == "__main__":
    process(lambda: main(sys.argv[1:]))
