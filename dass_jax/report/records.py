"""A run folder as typed, checked data. This is the only module of the report that reads files."""

import json
import pathlib
import tomllib
from typing import Any, NamedTuple

import numpy as np

from dass_jax.architectures.darts import OPERATIONS, PRIMITIVES, Genotype, edges, from_json
from dass_jax.errors import UserError, nearest
from dass_jax.report.fields import as_number, count, name, number, section, seed
from dass_jax.report.results import Outcome, outcomes

SEARCH = ("step1", "step2")
TRAINING = ("pretrain", "scores", "finetune")
_LEVELS = ("lower_loss", "lower_accuracy", "upper_loss", "upper_accuracy", "upper_cosine")
_CELLS = ("skips_normal", "skips_reduce", "entropy_normal", "entropy_reduce")
_QUANTITIES = {
    **dict.fromkeys(SEARCH, (*_LEVELS, *_CELLS)),
    **dict.fromkeys(TRAINING, ("loss", "accuracy", "test_loss", "test_accuracy")),
}
_EDGES_TO_NODES = {len(edges(nodes)): nodes for nodes in range(1, 21)}


class Epoch(NamedTuple):
    """One line of `metrics.jsonl`."""

    method: str
    stage: str
    epoch: int  # from 1
    epochs: int  # of the whole stage
    seconds: float
    values: dict[str, float]  # quantity -> loss, accuracy in per cent, …; only what was measured
    weights: dict[str, np.ndarray]  # cell -> float[edges, operations], after the softmax; empty in training stages
    seed: int | None  # None: the run has only one
    stopped: bool = False  # the stage ended here, before its last epoch


class Run(NamedTuple):
    """What a run folder holds so far; `outcomes` is empty and `genotypes` may be so while it is unfinished."""

    title: str
    config_text: str
    config: dict[str, Any]
    environment: dict[str, Any]
    genotypes: dict[int | None, Genotype]  # the main method's, by seed; None: the run has only one
    epochs: tuple[Epoch, ...]
    outcomes: tuple[Outcome, ...]
    seeds: tuple[Any, ...]  # one, of whatever kind the files say, or several whole numbers
    keep: Any


def read(folder: pathlib.Path) -> Run:
    """Reads a run folder.

    Raises:
      UserError: if it is no run folder, or naming the file (and line or field) that is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"run folder {str(folder)!r} does not exist; allowed: a folder that dass_jax.train wrote")
    for needed in ("config.toml", "metrics.jsonl"):
        if not (folder / needed).is_file():
            raise UserError(f"{str(folder)!r} is not a run folder: it has no {needed}")
    config_text, config = _toml(folder / "config.toml")
    environment = _json(folder / "environment.json") or {}
    results = _json(folder / "results.json")
    found = results or {}
    return Run(
        title=folder.resolve().name,
        config_text=config_text,
        config=config,
        environment=section(environment, str(folder / "environment.json")),
        genotypes=_genotypes(folder),
        epochs=read_metrics(folder / "metrics.jsonl"),
        outcomes=() if results is None else outcomes(results, str(folder / "results.json")),
        seeds=_seeds(found, environment, config),
        keep=found.get("keep", _find(config, "keep")),
    )


def read_metrics(path: pathlib.Path) -> tuple[Epoch, ...]:
    """The epochs of a `metrics.jsonl`, in the order of the file.

    A last line that cannot be decoded is what a killed run leaves, and is ignored. An epoch that is there twice was
    done again after a restart: the later line counts.

    Raises:
      UserError: naming the file and the line.
    """
    lines = _bytes(path).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    found: dict[tuple[str, int | None, str, int], Epoch] = {}
    for place, line in enumerate(lines, start=1):
        origin = f"{path}, line {place}"
        try:
            data = json.loads(line)
        except ValueError as error:
            if place == len(lines):
                break
            raise UserError(f"{origin} is damaged: {error}; allowed: one JSON object a line") from error
        epoch = _epoch(section(data, origin), origin)
        found[epoch.method, epoch.seed, epoch.stage, epoch.epoch] = epoch
    _check_shapes(tuple(found.values()), path)
    return tuple(found.values())


def methods(run: Run) -> tuple[str, ...]:
    """Every method of the run: the main one (that of the results, or of the first epoch) first."""
    seen = [outcome.method for outcome in run.outcomes] + [epoch.method for epoch in run.epochs]
    return tuple(dict.fromkeys(seen))


def of_stage(epochs: tuple[Epoch, ...], method: str, stage: str) -> list[Epoch]:
    """The epochs of one method and stage, of all seeds, in the order of time."""
    found = (each for each in epochs if (each.method, each.stage) == (method, stage))
    return sorted(found, key=lambda each: each.epoch)


def _epoch(data: dict[str, Any], origin: str) -> Epoch:
    stage = name(data, "stage", origin)
    if stage not in _QUANTITIES:
        raise UserError(f"{origin}: stage {stage!r}{nearest(stage, _QUANTITIES)}; allowed: {', '.join(_QUANTITIES)}")
    epoch, epochs = count(data, "epoch", origin), count(data, "epochs", origin)
    if epoch > epochs:
        raise UserError(f"{origin}: epoch = {epoch}; allowed: 1 to {epochs} (epochs)")
    measured = (key for key in _QUANTITIES[stage] if data.get(key) is not None)
    values = {key: as_number(data[key], f"{origin}: {key}") for key in measured}
    weights = section(data.get("edge_weights") or {}, f"{origin}: edge_weights") if stage in SEARCH else {}
    cells = (cell for cell in Genotype._fields if cell in weights)
    return Epoch(
        name(data, "method", origin),
        stage,
        epoch,
        epochs,
        number(data, "seconds", origin),
        values,
        {cell: _weights(weights[cell], f"{origin}: edge_weights: {cell}") for cell in cells},
        seed(data, origin) if "seed" in data else None,
        data.get("stopped") is True,
    )


def _genotypes(folder: pathlib.Path) -> dict[int | None, Genotype]:
    """What genotype.json or, for several seeds, genotype_<seed>.json hold."""
    files = {int(path.stem.partition("_")[2]): path for path in folder.glob("genotype_*.json") if _numbered(path)}
    places: dict[int | None, pathlib.Path] = {None: folder / "genotype.json", **dict(sorted(files.items()))}
    found = {whose: _json(path) for whose, path in places.items()}
    return {whose: from_json(data, str(places[whose])) for whose, data in found.items() if data is not None}


def _numbered(path: pathlib.Path) -> bool:
    return path.stem.partition("_")[2].isdecimal()


def _seeds(results: dict[str, Any], environment: dict[str, Any], config: dict[str, Any]) -> tuple[Any, ...]:
    """All seeds of the run: of its results or, as long as there are none, of its configuration."""
    if isinstance(listed := results.get("seeds"), list):
        return tuple(listed)
    first = results.get("seed", environment.get("seed", _find(config, "seed")))
    count = config.get("seeds", 1)
    return tuple(range(first, first + count)) if type(first) is type(count) is int else (first,)


def _weights(rows: Any, place: str) -> np.ndarray:
    """float[edges, operations]; its shape must be that of a cell, so that rows and columns have a meaning."""
    allowed = f"2, 5, 9, 14, … rows (edges) of {len(OPERATIONS)} or {len(PRIMITIVES)} numbers (operations)"
    if not isinstance(rows, list) or len(rows) not in _EDGES_TO_NODES:
        raise UserError(f"{place} has {len(rows) if isinstance(rows, list) else 'no'} rows; allowed: {allowed}")
    widths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if widths not in ({len(OPERATIONS)}, {len(PRIMITIVES)}):
        raise UserError(f"{place} has rows of {', '.join(map(str, sorted(widths)))} numbers; allowed: {allowed}")
    return np.array([[as_number(value, place) for value in row] for row in rows], dtype=np.float32)


def _check_shapes(epochs: tuple[Epoch, ...], path: pathlib.Path) -> None:
    first: dict[tuple[str, str], tuple[int, ...]] = {}
    for each in epochs:
        for cell, weights in each.weights.items():
            expected = first.setdefault((each.method, cell), weights.shape)
            if weights.shape != expected:
                raise UserError(
                    f"{path}: {each.method} {each.stage} epoch {each.epoch}: edge_weights of the {cell} cell have "
                    f"shape {weights.shape}; allowed: {expected}, as in the epochs before"
                )


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _json(path: pathlib.Path) -> Any:
    """The decoded file, which must hold an object; None if there is no such file."""
    if not path.exists():
        return None
    try:
        data = json.loads(_bytes(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; allowed: JSON text") from error
    return section(data, str(path))


def _toml(path: pathlib.Path) -> tuple[str, dict[str, Any]]:
    try:
        text = _bytes(path).decode("utf-8")
        return text, tomllib.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; allowed: TOML text") from error


def _find(tree: dict[str, Any], key: str) -> Any:
    """The value of `key` in a table or, if it is not there, in the tables inside; None if it is in none."""
    if key in tree and not isinstance(tree[key], dict):
        return tree[key]
    inner = (_find(value, key) for value in tree.values() if isinstance(value, dict))
    return next((value for value in inner if value is not None), None)
