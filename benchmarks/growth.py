"""How the seconds of a search step grow with cells, channels, batch and nodes, one of them at a time.

    python benchmarks/growth.py [--repetitions N] [--output FILE.json] [--plot FILE.png]

Ours alone, float32, on 16×16 images; the sizes that are not varied are those of `BASE`. The program prints, for each
quantity, the exponent p of the best fit seconds ∝ quantity^p: 1 is linear.
"""

import pathlib
import statistics
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from benchmarks import measure, search_step
from benchmarks.search_step import Size
from dass_jax import errors
from dass_jax.architectures.darts import edges
from dass_jax.spaces.darts import SupernetConfig

BASE = Size((16, 16, 3), 32, SupernetConfig(cells=4, channels=8))
POINTS: dict[str, tuple[int, ...]] = {
    "cells": (2, 4, 8),
    "channels": (4, 8, 16, 32),
    "batch": (16, 32, 64, 128),
    "nodes": (2, 3, 4),
}


def size_of(quantity: str, value: int) -> Size:
    """`BASE` with one quantity changed."""
    if quantity == "batch":
        return BASE._replace(batch=value)
    return BASE._replace(config=BASE.config._replace(**{quantity: value}))


def amounts(quantity: str, records: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """(the sweep's amounts, median seconds); of the nodes the cell's edges, to which its work is proportional."""
    own = [record for record in records if record["quantity"] == quantity]
    xs = [float(len(edges(r["value"])) if quantity == "nodes" else r["value"]) for r in own]
    return xs, [statistics.median(r["seconds"]) for r in own]


def exponent(xs: list[float], seconds: list[float]) -> float:
    """p of the least squares fit of log seconds to p · log x."""
    return float(np.polyfit(np.log(xs), np.log(seconds), 1)[0])


def measured(repetitions: int) -> list[dict[str, Any]]:
    """One record for each point; a size that several sweeps share is measured once."""
    known: dict[Size, list[float]] = {}
    records = []
    for quantity, values in POINTS.items():
        for value in values:
            size = size_of(quantity, value)
            if size not in known:
                search_step.say(f"{quantity} = {value}")
                step = search_step.ours(size, {})
                known[size] = measure.alternately({"ours": step}, repetitions)["ours"]
            records.append({"quantity": quantity, "value": value, "seconds": known[size]})
    return records


def fits(records: list[dict[str, Any]]) -> dict[str, float]:
    """The exponent of every quantity; that of the nodes is by the cell's edges."""
    names = {"nodes": "edges"}
    return {names.get(quantity, quantity): exponent(*amounts(quantity, records)) for quantity in POINTS}


def plot(records: list[dict[str, Any]], path: str) -> None:
    """Seconds against each quantity, both on logarithmic scales, beside a line of slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(1, len(POINTS), figsize=(3 * len(POINTS), 3.2), sharey=True, layout="constrained")
    for panel, quantity in zip(panels, POINTS, strict=True):
        label = "edges of a cell" if quantity == "nodes" else quantity
        xs, seconds = map(np.array, amounts(quantity, records))
        panel.loglog(xs, seconds, "o-", label="measured")
        middle = len(xs) // 2
        panel.loglog(xs, seconds[middle] * xs / xs[middle], ":", color="0.5", label="linear")
        panel.set_xticks(xs, [f"{x:g}" for x in xs])
        panel.minorticks_off()
        panel.set_xlabel(label)
    # The panels share this axis. A decade or less between the ends would leave it with one labelled tick.
    panels[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    panels[0].set_ylabel("seconds a step")
    panels[0].legend(frameon=False)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = errors.Parser(prog="growth.py", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", help="a JSON file with machine, versions and every repetition")
    parser.add_argument("--plot", help="a picture (.png, .svg, .pdf)")
    options = parser.parse_args()
    if options.repetitions < 1:
        raise errors.UserError(f"--repetitions = {options.repetitions}; allowed: at least 1")
    records = measured(options.repetitions)
    found = fits(records)
    if options.output:
        measure.write_json(options.output, {"machine": measure.machine(), "points": records, "exponents": found})
    if options.plot:
        plot(records, options.plot)
    rows = [{**r, "seconds": statistics.median(r["seconds"])} for r in records]
    print(measure.table(rows))
    print("exponents: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
