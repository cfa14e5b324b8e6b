"""`results.json` as typed data, and the final table of all methods."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dass_jax.architectures.darts import Genotype, from_json
from dass_jax.errors import UserError
from dass_jax.report.fields import as_number, field, name, number, section, seed, short


class Layer(NamedTuple):
    """Prunable weights of one layer, and how many of them are kept."""

    path: str
    weights: float
    kept: float


class Outcome(NamedTuple):
    """What one method reached: accuracies in per cent, weights and multiply-accumulates (MACs) as counts."""

    method: str
    genotype: Genotype | None  # None: a network that is not made of cells
    accuracy: dict[str, float]  # dense, sparse, test_images
    parameters: dict[str, float]  # total, prunable, kept, kept_with_bn_bias, paper
    macs: dict[str, float]  # dense, nonzero; for one image
    nid: float  # sparse accuracy in per cent / thousands of kept weights
    compression: float
    seconds: dict[str, float]  # by stage
    layers: tuple[Layer, ...]
    seed: int | None = None  # None: the run has only one


class Column(NamedTuple):
    """A column of numbers of a table, with so many decimals."""

    title: str
    unit: str
    value: Callable[[Outcome], float]
    digits: int = 0


class Table(NamedTuple):
    """Rows of text under (title, unit) headers; `main` are the rows to look at first."""

    header: list[tuple[str, str]]
    rows: list[list[str]]
    main: tuple[int, ...]


def outcomes(results: dict[str, Any], origin: str = "results") -> tuple[Outcome, ...]:
    """The main method, then its controls in the order of the file; of several seeds each has its own outcome.

    Raises:
      UserError: naming `origin`, the method and the field that is missing or of the wrong kind.
    """
    main = _of_method(results, name(section(results, origin), "method", origin), origin)
    controls = section(results.get("controls") or {}, f"{origin}: controls")
    others = (_of_method(data, method, f"{origin}: {method}") for method, data in controls.items())
    return (*main, *(each for found in others for each in found))


def table(results: dict[str, Any]) -> str:
    """The final table as plain text, without a newline at its end; `results` is what `results.json` holds.

    Raises:
      UserError: if a field is missing or of the wrong kind.
    """
    return text_table(outcomes(results))


def table_of(columns: tuple[Column, ...], found: tuple[Outcome, ...]) -> Table:
    """A row for each method; where there are several seeds, one for each of them and one for mean ± deviation."""
    several = any(each.seed is not None for each in found)
    header = [
        ("method", ""),
        *([("seed", "")] if several else []),
        *((column.title, column.unit) for column in columns),
    ]
    rows: list[list[str]] = []
    main = [] if several else [0]
    for method in dict.fromkeys(each.method for each in found):
        own = [each for each in found if each.method == method]
        for each in own:
            values = [decimal(column.value(each), column.digits) for column in columns]
            rows.append([method, *([str(each.seed)] if several else []), *values])
        if several:
            main.append(len(rows))
            rows.append([method, "mean ± std", *(_spread(column, own) for column in columns)])
    return Table(header, rows, tuple(main))


def _spread(column: Column, found: list[Outcome]) -> str:
    """Mean ± standard deviation of the sample, so with n − 1."""
    values = [column.value(each) for each in found]
    mean, deviation = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else math.nan
    return f"{decimal(float(mean), column.digits)} ± {decimal(float(deviation), column.digits)}"


def text_table(methods: tuple[Outcome, ...]) -> str:
    """Two header lines (title and unit), a rule and the rows; names to the left, numbers to the right."""
    found = table_of(COLUMNS, methods)
    rows = [[title for title, _ in found.header], [unit for _, unit in found.header], *found.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(rows[0]), line(rows[1]), rule, *map(line, rows[2:])])


def first_seeds(found: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    """Of each method the first seed's outcome."""
    return tuple(
        {each.method: each for each in reversed(found)}[name] for name in dict.fromkeys(e.method for e in found)
    )


def titled(outcome: Outcome) -> str:
    """The method and, of several, the seed."""
    return outcome.method if outcome.seed is None else f"{outcome.method}, seed {outcome.seed}"


def decimal(value: float, digits: int = 0) -> str:
    """`value` with thousands separators and `digits` decimals; NaN is a hyphen."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def total_seconds(outcome: Outcome) -> float:
    """Sum over the stages that have a time; NaN when none has."""
    known = [seconds for seconds in outcome.seconds.values() if not math.isnan(seconds)]
    return sum(known) if known else math.nan


COLUMNS = (
    Column("accuracy", "dense [%]", lambda outcome: outcome.accuracy["dense"], 2),
    Column("accuracy", "sparse [%]", lambda outcome: outcome.accuracy["sparse"], 2),
    Column("weights", "kept", lambda outcome: outcome.parameters["kept"]),
    Column("MACs", "dense [M]", lambda outcome: outcome.macs["dense"] / 1e6, 3),
    Column("MACs", "non-zero [M]", lambda outcome: outcome.macs["nonzero"] / 1e6, 3),
    Column("NID", "[%/1000]", lambda outcome: outcome.nid, 3),
    Column("time", "[s]", total_seconds, 1),
)

WEIGHT_COLUMNS = (
    Column("all parameters", "", lambda outcome: outcome.parameters["total"]),
    Column("prunable", "", lambda outcome: outcome.parameters["prunable"]),
    Column("kept", "", lambda outcome: outcome.parameters["kept"]),
    Column("kept + BN + biases", "", lambda outcome: outcome.parameters["kept_with_bn_bias"]),
    Column("the paper's count", "", lambda outcome: outcome.parameters["paper"]),
    Column("compression", "[×]", lambda outcome: outcome.compression, 1),
)


def _of_method(data: Any, method: str, origin: str) -> list[Outcome]:
    """One outcome, or one for each of its `runs`."""
    data = section(data, origin)
    if "runs" not in data:
        return [_outcome(data, method, origin)]
    runs = data["runs"]
    if not isinstance(runs, list) or not runs:
        raise UserError(f"{origin}: runs = {short(runs)}; allowed: a list of results, one for each seed")
    places = [f"{origin}: runs[{index}]" for index in range(len(runs))]
    return [
        _outcome(run, method, place)._replace(seed=seed(run, place)) for run, place in zip(runs, places, strict=True)
    ]


def _outcome(data: Any, method: str, origin: str) -> Outcome:
    data = section(data, origin)
    cells = field(data, "genotype", origin)
    return Outcome(
        method=method,
        genotype=None if cells is None else from_json(cells, f"{origin}: genotype"),
        accuracy=_numbers(data, "accuracy", ("dense", "sparse", "test_images"), origin),
        parameters=_numbers(data, "parameters", ("total", "prunable", "kept", "kept_with_bn_bias", "paper"), origin),
        macs=_numbers(data, "macs", ("dense", "nonzero"), origin),
        nid=number(data, "nid", origin),
        compression=number(data, "compression", origin),
        seconds=_seconds(data, origin),
        layers=_layers(field(data, "layers", origin), f"{origin}: layers"),
    )


def _numbers(data: dict[str, Any], key: str, keys: tuple[str, ...], origin: str) -> dict[str, float]:
    inner = section(field(data, key, origin), f"{origin}: {key}")
    return {each: number(inner, each, f"{origin}: {key}") for each in keys}


def _seconds(data: dict[str, Any], origin: str) -> dict[str, float]:
    """Any stages: a random architecture has no search, so no time for it."""
    inner = section(field(data, "seconds", origin), f"{origin}: seconds")
    return {stage: as_number(value, f"{origin}: seconds: {stage}") for stage, value in inner.items()}


def _layers(data: Any, origin: str) -> tuple[Layer, ...]:
    if not isinstance(data, list):
        raise UserError(f"{origin} = {short(data)}; allowed: a list of layers")
    return tuple(_layer(section(layer, f"{origin}[{index}]"), f"{origin}[{index}]") for index, layer in enumerate(data))


def _layer(data: dict[str, Any], origin: str) -> Layer:
    return Layer(name(data, "path", origin), number(data, "weights", origin), number(data, "kept", origin))
