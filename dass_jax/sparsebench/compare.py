"""`python -m dass_jax.sparsebench.compare ONE OTHER`: two tables on the cells that both have, ratio by ratio."""

import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence

from dass_jax.errors import Parser, UserError, process
from dass_jax.report.experiment import statistics
from dass_jax.report.experiment.rows import Table, probability, to_markdown
from dass_jax.sparsebench import analysis
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
    means, others = (
        {stage: values.mean(1) for stage, values in analysis.accuracies([table[cell] for cell in both]).items()}
        for table in (one, other)
    )
    lines = []
    for first, second in itertools.product(means, others):
        if first.rpartition("_")[2] != second.rpartition("_")[2]:
            continue
        values = means[first], others[second]
        found = statistics.compare(*(dict(enumerate(each.tolist())) for each in values))
        difference = f"{found.difference.mean:+.1f} ± {found.difference.half:.1f}"
        averages = [f"{each.mean():.1f}" for each in values]
        lines.append([said(first), said(second), *averages, difference, probability(found.p_t)])
    caption = (
        f"{len(both)} cells, means over the seeds; one less other by cells, 95 % interval, p by the paired t-test."
    )
    return Table("The same cells in two tables", caption, header, lines)


if __name__ == "__main__":
    process(lambda: main(sys.argv[1:]))
