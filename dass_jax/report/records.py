"""A run folder as typed, checked data. This is the only module of the report that reads files."""

import json
import numbers
import pathlib
import tomllib
from typing import Any, NamedTuple

import numpy as np

from dass_jax.errors import UserError
from dass_jax.report import declared, graphs, shown
from dass_jax.report.declared import Declared, Key
from dass_jax.report.fields import as_number, count, name, number, section, seed, short
from dass_jax.report.graphs import Architecture
from dass_jax.report.results import Outcome, outcomes
from dass_jax.report.shown import Shown

_KNOWN = {"method", "seed", "chain", "phase", "epoch", "epochs", "seconds", "matrices"}
_KNOWN |= {"skipped_steps", "stopped", "shared"}
"""Keys of a line that are no metrics."""


class Epoch(NamedTuple):
    """One line of `metrics.jsonl`."""

    method: str
    key: Key  # (chain, phase)
    epoch: int  # from 1
    epochs: int  # of the whole phase
    seconds: float
    values: dict[str, float]  # metric -> value; only what was measured
    matrices: dict[str, np.ndarray]  # name -> float[rows, columns]
    seed: int | None  # None: the run has only one
    stopped: bool = False  # the phase ended here, before its last epoch


class Run(NamedTuple):
    """What a run folder holds so far; `outcomes` is empty and `architectures` may be so while it is unfinished."""

    title: str
    config_text: str
    config: dict[str, Any]
    environment: dict[str, Any]
    declared: Declared
    architectures: dict[int | None, Architecture]  # the main method's, by seed; None: the run has only one
    epochs: tuple[Epoch, ...]
    outcomes: tuple[Outcome, ...]
    seeds: tuple[Any, ...]  # one, of whatever kind the files say, or several whole numbers
    keep: Any
    shown: tuple[Shown, ...] = ()
    data: str = ""  # what was read; empty: not known
    accepted: tuple[str, ...] = ()  # how the data changed while the run went on


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
    phases = read_phases(folder)
    data = _json(folder / "data.json") or {}
    accepted = data.get("accepted")
    return Run(
        title=folder.resolve().name,
        config_text=config_text,
        config=config,
        environment=environment,
        declared=phases,
        architectures=_architectures(folder),
        epochs=read_metrics(folder / "metrics.jsonl", phases),
        outcomes=() if results is None else outcomes(results, str(folder / "results.json")),
        seeds=_seeds(found, environment, config),
        keep=found.get("keep", _find(config, "keep")),
        shown=shown.read(folder),
        data=str(data.get("said", environment.get("data", ""))),
        accepted=tuple(map(str, accepted)) if isinstance(accepted, list) else (),
    )


def fingerprint(folder: pathlib.Path) -> dict[str, Any]:
    """What a run folder's data.json says of which data these are; empty if it is not known.

    Raises:
      UserError: if it is damaged.
    """
    data = _json(folder / "data.json") or {}
    return section(data.get("fingerprint") or {}, str(folder / "data.json"))


def data_said(folder: pathlib.Path) -> str:
    """What a run folder's data.json says in one line; empty if it is not known. Raises UserError if it is damaged."""
    return str((_json(folder / "data.json") or {}).get("said", ""))


def read_phases(folder: pathlib.Path) -> Declared:
    """What a run folder's phases.json declares; nothing if there is none.

    Raises:
      UserError: if it is damaged.
    """
    data = _json(folder / "phases.json")
    return {} if data is None else declared.read(data, str(folder / "phases.json"))


def read_metrics(path: pathlib.Path, phases: Declared) -> tuple[Epoch, ...]:
    """The epochs of a `metrics.jsonl`, in the order of the file.

    A last line that cannot be decoded is what a killed run leaves, and is ignored. An epoch that is there twice was
    done again after a restart: the later line counts.

    Raises:
      UserError: naming the file and the line.
    """
    lines = _bytes(path).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    found: dict[tuple[str, int | None, Key, int], Epoch] = {}
    for place, line in enumerate(lines, start=1):
        origin = f"{path}, line {place}"
        try:
            data = json.loads(line)
        except ValueError as error:
            if place == len(lines):
                break
            raise UserError(f"{origin} is damaged: {error}; allowed: one JSON object a line") from error
        epoch = _epoch(section(data, origin), phases, origin)
        found[epoch.method, epoch.seed, epoch.key, epoch.epoch] = epoch
    _check_shapes(tuple(found.values()), phases, path)
    return tuple(found.values())


def methods(run: Run) -> tuple[str, ...]:
    """Every method of the run, the main one first: of the results, then as declared, then of the epochs."""
    done, ran = ([each.method for each in part] for part in (run.outcomes, run.epochs))
    return tuple(dict.fromkeys([*done, *run.declared, *ran]))


def keys(run: Run) -> tuple[Key, ...]:
    """Every phase that has begun, as declared and then as the epochs came."""
    known = [each.key for phases in run.declared.values() for each in phases]
    begun = dict.fromkeys(each.key for each in run.epochs)
    return tuple(dict.fromkeys([*(key for key in known if key in begun), *begun]))


def of_phase(epochs: tuple[Epoch, ...], method: str, key: Key) -> list[Epoch]:
    """The epochs of one method and phase, of all seeds, in the order of time."""
    found = (each for each in epochs if (each.method, each.key) == (method, key))
    return sorted(found, key=lambda each: each.epoch)


def _epoch(data: dict[str, Any], phases: Declared, origin: str) -> Epoch:
    method, key = name(data, "method", origin), (name(data, "chain", origin), name(data, "phase", origin))
    epoch, epochs = count(data, "epoch", origin), count(data, "epochs", origin)
    if epoch > epochs:
        raise UserError(f"{origin}: epoch = {epoch}; allowed: 1 to {epochs} (epochs)")
    metrics = {curve.metric for curve in declared.phase(phases, method, key).curves}
    values = {
        metric: as_number(value, f"{origin}: {metric}")
        for metric, value in data.items()
        if metric not in _KNOWN and value is not None and (metric in metrics or _is_number(value))
    }
    matrices = section(data.get("matrices") or {}, f"{origin}: matrices")
    return Epoch(
        method,
        key,
        epoch,
        epochs,
        number(data, "seconds", origin),
        values,
        {each: _matrix(rows, f"{origin}: matrices: {each}") for each, rows in matrices.items()},
        seed(data, origin) if "seed" in data else None,
        data.get("stopped") is True,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _architectures(folder: pathlib.Path) -> dict[int | None, Architecture]:
    """What architecture.json or, for several seeds, architecture_<seed>.json hold."""
    files = {int(path.stem.partition("_")[2]): path for path in folder.glob("architecture_*.json") if _numbered(path)}
    places: dict[int | None, pathlib.Path] = {None: folder / "architecture.json", **dict(sorted(files.items()))}
    data = {whose: _json(path) for whose, path in places.items()}
    found = {whose: graphs.read(each, str(places[whose])) for whose, each in data.items() if each is not None}
    return {whose: each for whose, each in found.items() if each is not None}


def _numbered(path: pathlib.Path) -> bool:
    return path.stem.partition("_")[2].isdecimal()


def _seeds(results: dict[str, Any], environment: dict[str, Any], config: dict[str, Any]) -> tuple[Any, ...]:
    """All seeds of the run: of its results or, as long as there are none, of its configuration."""
    if isinstance(listed := results.get("seeds"), list):
        return tuple(listed)
    first = results.get("seed", environment.get("seed", _find(config, "seed")))
    count = config.get("seeds", 1)
    return tuple(range(first, first + count)) if type(first) is type(count) is int else (first,)


def _matrix(rows: Any, place: str) -> np.ndarray:
    """float[rows, columns]."""
    lengths = {len(row) if isinstance(row, list) else 0 for row in rows} if isinstance(rows, list) else set()
    if len(lengths) != 1 or 0 in lengths:
        raise UserError(f"{place} = {short(rows)}; allowed: rows of equally many numbers")
    return np.array([[as_number(value, place) for value in row] for row in rows], dtype=np.float32)


def _check_shapes(epochs: tuple[Epoch, ...], phases: Declared, path: pathlib.Path) -> None:
    """A matrix has the shape that is declared or, if none is, that of the phase's first."""
    known: dict[tuple[str, Key, str], tuple[tuple[int, ...], str]] = {}
    for each in epochs:
        matrices = declared.phase(phases, each.method, each.key).matrices if each.matrices else {}
        for matrix, found in each.matrices.items():
            if matrix in matrices:
                expected = (len(matrices[matrix].rows), len(matrices[matrix].columns)), "as phases.json declares"
            else:
                expected = found.shape, "as in the epochs before"
            shape, why = known.setdefault((each.method, each.key, matrix), expected)
            if found.shape != shape:
                raise UserError(
                    f"{path}: {each.method} {each.key[1]} epoch {each.epoch}: matrices: {matrix} has shape "
                    f"{found.shape}; allowed: {shape}, {why}"
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
