"""`python -m dass_jax.sparsebench.findings FOLDER`: what its table says, as findings.md and figures beside it."""

import pathlib
import sys
from collections.abc import Mapping, Sequence

from dass_jax import architectures
from dass_jax.errors import Parser, UserError, number_of, process
from dass_jax.report import style
from dass_jax.report.experiment.rows import Table, to_markdown
from dass_jax.report.page import write_whole
from dass_jax.sparsebench import analysis, figures, sizes, spaces, table
from dass_jax.sparsebench.analysis import Sample, Spread
from dass_jax.sparsebench.fields import noted
from dass_jax.sparsebench.figures import said
from dass_jax.sparsebench.spaces import Space
from dass_jax.sparsebench.table import DENSE, Row

LEAST = 10
"""Cells of two seeds at least: fewer say nothing."""
BEST = 5
_POINTS = "[points]"


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0. Raises UserError."""
    path = parse(argv)
    space, rows = opened(path)
    rows = sampled(rows)
    if len(rows) < LEAST or len(rows[0].figures[f"test_{DENSE}"]) < 2:
        raise UserError(
            f"{path} has a table of {number_of(len(rows), 'cell')} in its sample; allowed: {LEAST} cells or more, of "
            "two seeds or more"
        )
    sample = analysis.sample(rows, layers(space, rows))
    text = "\n".join(to_markdown(each) for each in tables(sample))
    write_whole(path / "findings.md", text.encode())
    with style.settings():
        for name, figure in figures.drawn(sample):
            write_whole(path / f"{name}.svg", style.svg(figure))
    print(text)
    return 0


def parse(argv: Sequence[str]) -> pathlib.Path:
    """The folder. Raises UserError."""
    parser = Parser(
        prog="python -m dass_jax.sparsebench.findings",
        description="What a table of sparse networks says: findings.md and figures. docs/sparsebench.md.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=pathlib.Path, help="with the table, where the findings are written too")
    found: pathlib.Path = parser.parse_args(argv).folder
    return found


def opened(path: pathlib.Path) -> tuple[Space, list[Row]]:
    """A folder's space and table. Raises UserError."""
    c = noted(path / "fields.json")
    if c is None:
        raise UserError(f"{path} has no fields.json that can be read; allowed: a folder of dass_jax.sparsebench")
    space = spaces.space_of(c)
    return space, table.read(path, space)


def sampled(rows: Sequence[Row]) -> list[Row]:
    """The rows of the sample, without cells that were trained because a search found them."""
    return [row for place, row in enumerate(sorted(rows, key=lambda row: row.order)) if row.order == place]


def layers(space: Space, rows: Sequence[Row]) -> list[int]:
    """How many prunable layers each row's network has, whatever its images and classes are."""
    whole = sizes.skeleton(space, classes=2, image_shape=(8, 8, 1))
    return [sizes.layers(whole, row.cell) for row in rows]


def tables(s: Sample) -> list[Table]:
    """All tables of a sample."""
    spreads = {stage: analysis.spread(values) for stage, values in s.accuracies.items()}
    return [spread(s, spreads), premise(s, spreads), best(s)]


def spread(s: Sample, spreads: Mapping[str, Spread]) -> Table:
    """How much is the cell's."""
    header = [("network", ""), ("accuracy", "mean [%]"), ("std of seeds", _POINTS), ("std of cells", _POINTS)]
    header += [("cells / mean of seeds", ""), ("the cell's share", "[%]"), ("reliability", "")]
    lines = [
        [said(stage), *(f"{value:.1f}" for value in each[:4]), f"{100 * each.share:.0f}", f"{each.reliability:.2f}"]
        for stage, each in spreads.items()
    ]
    caption = (
        f"{number_of(len(s.cells), 'cell')} of the sample. Std of cells: what is left once the part of the seeds is "
        "taken off; then in terms of the std of a cell's mean over its seeds. The cell's share: of the variance of "
        "single trainings. Reliability: of the variance of the means over the seeds."
    )
    return Table("How much of an accuracy is the cell's", caption, header, lines)


def premise(s: Sample, spreads: Mapping[str, Spread]) -> Table:
    """Whether cells that are good dense are good sparse."""
    dense, weights = s.means[DENSE], s.predictors["weights"]
    header = [("network", ""), ("rank correlation", "with dense"), ("95 % interval", ""), ("most possible", "")]
    header += [("beyond weights", ""), ("95 % interval", ""), ("best tenth dense", "in the sparse one [%]")]
    header += [("95 % interval", "[%]")]
    lines = []
    for stage in [stage for stage in s.means if stage != DENSE]:
        values = s.means[stage]
        rho, kept = analysis.rank_correlation(dense, values), analysis.kept_best(dense, values)
        beyond = analysis.rank_correlation_beyond(weights, dense, values)
        most = (spreads[DENSE].reliability * spreads[stage].reliability) ** 0.5
        shares = [f"{100 * value:.0f}" for value in kept]
        line = [f"{rho.value:.2f}", f"{rho.low:.2f} to {rho.high:.2f}", f"{most:.2f}"]
        line += [f"{beyond.value:.2f}", f"{beyond.low:.2f} to {beyond.high:.2f}"]
        lines.append([said(stage), *line, shares[0], f"{shares[1]} to {shares[2]}"])
    caption = (
        "Spearman's, of the means over the seeds; intervals by the bootstrap over cells. Most possible: what the noise "
        "of the seeds would leave of a perfect one, √(reliability · reliability). Beyond weights: the partial "
        "correlation, once what the number of weights foretells is taken off both. By chance a tenth of the best tenth."
    )
    return Table("Are cells that are good dense good sparse?", caption, header, lines)


def best(s: Sample) -> Table:
    """The best cells of each stage, and what the other stages say of them."""
    header = [("best by", ""), ("cell", ""), *((said(stage), "[%]") for stage in s.means)]
    lines = [
        [said(stage), architectures.to_text(s.cells[place]), *(f"{each[place]:.1f}" for each in s.means.values())]
        for stage, values in s.means.items()
        for place in (-values).argsort(kind="stable")[:BEST]
    ]
    return Table("The best cells", "Means over the seeds; the best of many flatters itself.", header, lines)


if __name__ == "__main__":
    process(lambda: main(sys.argv[1:]))
