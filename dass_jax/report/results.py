"""`results.json` as typed data."""

import math
from typing import Any, NamedTuple

from dass_jax.errors import UserError
from dass_jax.report import graphs
from dass_jax.report.fields import as_number, field, listed, name, number, pairs, section, seed, short, text
from dass_jax.report.graphs import Architecture


class Layer(NamedTuple):
    """Prunable weights of one layer, and how many of them are kept."""

    path: str
    weights: float
    kept: float


class Task(NamedTuple):
    """What a run's networks are evaluated by."""

    name: str
    metric: str
    """The main one of an evaluation."""
    unit: str
    higher_is_better: bool
    examples: float


class Known(NamedTuple):
    """What a table of published results says of an architecture: per cent, its rank, points below the best, and the per
    cent of architectures that are worse."""

    value: float
    rank: float
    of: float
    regret: float
    percentile: float


class Ranking(NamedTuple):
    """Scores of architectures in a search, and what their networks reach, trained as the found one."""

    scores: tuple[float, ...]  # more is better
    reached: tuple[float, ...]  # the task's metric
    rank_correlation: float  # NaN: all scores or all results are equal
    correlation: float


class Outcome(NamedTuple):
    """What one method reached; weights and multiply-accumulates (MACs) are counts."""

    method: str
    title: str  # may be empty
    architecture: Architecture | None  # None: a network for which nothing was searched
    chosen: dict[str, tuple[tuple[int, int], ...]]  # matrix -> (row, column) of what became part of the architecture
    task: Task
    evaluations: dict[str, dict[str, float]]  # name -> metric -> value, in the order of time
    parameters: dict[str, float]  # total, prunable, kept, kept_with_bn_bias, paper
    macs: dict[str, float]  # dense, nonzero; for one example
    nid: float  # main metric of the last evaluation / thousands of kept weights
    compression: float
    seconds: dict[str, float]  # by phase
    layers: tuple[Layer, ...]
    table: dict[str, Known]  # column -> what it says of the architecture; empty: the run has no table
    ranking: Ranking | None = None
    seed: int | None = None  # None: the run has only one


def outcomes(results: dict[str, Any], origin: str = "results") -> tuple[Outcome, ...]:
    """The main method, then its controls in the order of the file; of several seeds each has its own outcome.

    Raises:
      UserError: naming `origin`, the method and the field that is missing or of the wrong kind.
    """
    main = _of_method(results, name(section(results, origin), "method", origin), origin)
    controls = section(results.get("controls") or {}, f"{origin}: controls")
    others = (_of_method(data, method, f"{origin}: {method}") for method, data in controls.items())
    return (*main, *(each for found in others for each in found))


def first_seeds(found: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    """Of each method the first seed's outcome."""
    return tuple(
        {each.method: each for each in reversed(found)}[name] for name in dict.fromkeys(e.method for e in found)
    )


def titled(outcome: Outcome) -> str:
    """The method and, of several, the seed."""
    return outcome.method if outcome.seed is None else f"{outcome.method}, seed {outcome.seed}"


def total_seconds(outcome: Outcome) -> float:
    """Sum over the phases that have a time; NaN when none has."""
    known = [seconds for seconds in outcome.seconds.values() if not math.isnan(seconds)]
    return sum(known) if known else math.nan


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
    chosen = section(data.get("chosen") or {}, f"{origin}: chosen")
    evaluations = section(field(data, "evaluations", origin), f"{origin}: evaluations")
    return Outcome(
        method=method,
        title=text(data, "title", origin),
        architecture=graphs.read(data, origin),
        chosen={matrix: pairs(found, f"{origin}: chosen: {matrix}") for matrix, found in chosen.items()},
        task=_task(section(field(data, "task", origin), f"{origin}: task"), f"{origin}: task"),
        evaluations={key: _measured(evaluations, key, f"{origin}: evaluations") for key in evaluations},
        parameters=_numbers(data, "parameters", ("total", "prunable", "kept", "kept_with_bn_bias", "paper"), origin),
        macs=_numbers(data, "macs", ("dense", "nonzero"), origin),
        nid=number(data, "nid", origin),
        compression=number(data, "compression", origin),
        seconds=_measured(data, "seconds", origin),
        layers=_layers(field(data, "layers", origin), f"{origin}: layers"),
        table=_table(section(data.get("table") or {}, f"{origin}: table"), f"{origin}: table"),
        ranking=_ranking(data, f"{origin}: ranking") if data.get("ranking") else None,
    )


def _ranking(data: dict[str, Any], origin: str) -> Ranking:
    inner = section(data["ranking"], origin)
    scores, reached = (
        tuple(as_number(each, f"{origin}: {name}") for each in listed(field(inner, name, origin), f"{origin}: {name}"))
        for name in ("scores", "reached")
    )
    if len(scores) != len(reached):
        raise UserError(f"{origin}: {len(scores)} scores and {len(reached)} reached; allowed: as many of both")
    return Ranking(scores, reached, *(number(inner, name, origin) for name in ("rank_correlation", "correlation")))


def _table(data: dict[str, Any], origin: str) -> dict[str, Known]:
    known = {column: section(data[column], f"{origin}: {column}") for column in data}
    # Older runs have no percentiles.
    known = {column: {"percentile": math.nan, **own} for column, own in known.items()}
    return {
        column: Known(*(number(own, each, f"{origin}: {column}") for each in Known._fields))
        for column, own in known.items()
    }


def _task(data: dict[str, Any], origin: str) -> Task:
    higher = field(data, "higher_is_better", origin)
    if not isinstance(higher, bool):
        raise UserError(f"{origin}: higher_is_better = {short(higher)}; allowed: true or false")
    task, metric = name(data, "name", origin), name(data, "metric", origin)
    return Task(task, metric, text(data, "unit", origin), higher, number(data, "examples", origin))


def _numbers(data: dict[str, Any], key: str, keys: tuple[str, ...], origin: str) -> dict[str, float]:
    inner = section(field(data, key, origin), f"{origin}: {key}")
    return {each: number(inner, each, f"{origin}: {key}") for each in keys}


def _measured(data: dict[str, Any], key: str, origin: str) -> dict[str, float]:
    """Numbers by any names, which are the run's own."""
    inner = section(field(data, key, origin), f"{origin}: {key}")
    return {each: as_number(value, f"{origin}: {key}: {each}") for each, value in inner.items()}


def _layers(data: Any, origin: str) -> tuple[Layer, ...]:
    if not isinstance(data, list):
        raise UserError(f"{origin} = {short(data)}; allowed: a list of layers")
    return tuple(_layer(section(layer, f"{origin}[{index}]"), f"{origin}[{index}]") for index, layer in enumerate(data))


def _layer(data: dict[str, Any], origin: str) -> Layer:
    return Layer(name(data, "path", origin), number(data, "weights", origin), number(data, "kept", origin))
