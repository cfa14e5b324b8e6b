"""`results.json` as typed data, and the final table of all methods."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from dass_jax.errors import UserError
from dass_jax.genotype import Genotype, from_json
from dass_jax.report.fields import as_number, field, name, number, section, short


class Layer(NamedTuple):
    """Prunable weights of one layer, and how many of them are kept."""

    path: str
    weights: float
    kept: float


class Outcome(NamedTuple):
    """What one method reached: accuracies in per cent, weights and multiply-accumulates (MACs) as counts."""

    method: str
    genotype: Genotype
    accuracy: dict[str, float]  # dense, sparse, test_images
    parameters: dict[str, float]  # total, prunable, kept, kept_with_bn_bias, paper
    macs: dict[str, float]  # dense, nonzero; for one image
    nid: float  # sparse accuracy in per cent / thousands of kept weights
    compression: float
    seconds: dict[str, float]  # by stage
    layers: tuple[Layer, ...]


class Column(NamedTuple):
    """A column of the final table."""

    title: str
    unit: str
    text: Callable[[Outcome], str]


def outcomes(results: dict[str, Any], origin: str = "results") -> tuple[Outcome, ...]:
    """The main method, then its controls in the order of the file.

    Raises:
      UserError: naming `origin`, the method and the field that is missing or of the wrong kind.
    """
    main = _outcome(results, name(section(results, origin), "method", origin), origin)
    controls = section(results.get("controls") or {}, f"{origin}: controls")
    return (main, *(_outcome(data, method, f"{origin}: {method}") for method, data in controls.items()))


def table(results: dict[str, Any]) -> str:
    """The final table as plain text, without a newline at its end; `results` is what `results.json` holds.

    Raises:
      UserError: if a field is missing or of the wrong kind.
    """
    return text_table(outcomes(results))


def text_table(methods: tuple[Outcome, ...]) -> str:
    """Two header lines (title and unit), a rule and one line per method; names to the left, numbers to the right."""
    rows = [[column.title for column in COLUMNS], [column.unit for column in COLUMNS]]
    rows += [[column.text(method) for column in COLUMNS] for method in methods]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(rows[0]), line(rows[1]), rule, *map(line, rows[2:])])


def decimal(value: float, digits: int = 0) -> str:
    """`value` with thousands separators and `digits` decimals; NaN is a hyphen."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def total_seconds(outcome: Outcome) -> float:
    """Sum over the stages that have a time; NaN when none has."""
    known = [seconds for seconds in outcome.seconds.values() if not math.isnan(seconds)]
    return sum(known) if known else math.nan


COLUMNS = (
    Column("method", "", lambda outcome: outcome.method),
    Column("accuracy", "dense [%]", lambda outcome: decimal(outcome.accuracy["dense"], 2)),
    Column("accuracy", "sparse [%]", lambda outcome: decimal(outcome.accuracy["sparse"], 2)),
    Column("weights", "kept", lambda outcome: decimal(outcome.parameters["kept"])),
    Column("MACs", "dense [M]", lambda outcome: decimal(outcome.macs["dense"] / 1e6, 3)),
    Column("MACs", "non-zero [M]", lambda outcome: decimal(outcome.macs["nonzero"] / 1e6, 3)),
    Column("NID", "[%/1000]", lambda outcome: decimal(outcome.nid, 3)),
    Column("time", "[s]", lambda outcome: decimal(total_seconds(outcome), 1)),
)

WEIGHT_COLUMNS = (
    Column("method", "", lambda outcome: outcome.method),
    Column("all parameters", "", lambda outcome: decimal(outcome.parameters["total"])),
    Column("prunable", "", lambda outcome: decimal(outcome.parameters["prunable"])),
    Column("kept", "", lambda outcome: decimal(outcome.parameters["kept"])),
    Column("kept + BN + biases", "", lambda outcome: decimal(outcome.parameters["kept_with_bn_bias"])),
    Column("the paper's count", "", lambda outcome: decimal(outcome.parameters["paper"])),
    Column("compression", "[×]", lambda outcome: decimal(outcome.compression, 1)),
)


def _outcome(data: Any, method: str, origin: str) -> Outcome:
    data = section(data, origin)
    return Outcome(
        method=method,
        genotype=from_json(field(data, "genotype", origin), f"{origin}: genotype"),
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
