"""What is known of an architecture without training it: a table of published results that a user brings.

`[space] table` names an .npz file with "ops", uint8 [N, places]: for each architecture the operation of each place, as
a column of the space's matrix; and with columns float [N] of accuracies in per cent, whose names contain "val" or
"test". Columns that differ in a last "_s0", "_s1", … only are seeds, and are averaged. NaN is a missing value.

With "cells", int [N], it is the table of a sample: each row stands for so many architectures that are the same network,
and there may be architectures of which it knows nothing (`python -m dass_jax.sparsebench` makes such tables). With
"order", int [N], the sample is 0, 1, … up to the first number that is missing. What comes after was trained because a
search had found it: it has a value, and nothing is compared with it.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dass_jax.errors import UserError
from dass_jax.phases import Curve

PREFIX, PERCENTILE = "table_", "percentile_"
"""Of the names of metrics and columns: a column's value, and `Entry.percentile`."""
FIELD = "space.table"
CELLS = "cells"
ORDER = "order"


class Entry(NamedTuple):
    """What a column says of one architecture."""

    value: float
    """Per cent."""
    rank: int
    """1 = none is better."""
    of: int
    """Architectures that the column knows, of a sample those in it."""
    regret: float
    """Points below the best of these; 0 for what is better."""
    percentile: float
    """Per cent of them that are worse; those that are as good, itself too, count half."""


class Lookup(NamedTuple):
    """A table as a search and its results use it."""

    metrics: Callable[[Any], dict[str, float]]
    """Architecture → accuracy by each column, for the line of an epoch."""
    entries: Callable[[Any], dict[str, Entry]]
    """Architecture → what each column says of it; without those that know nothing."""
    unknown: Callable[[Any], str]
    """Architecture → why there is nothing known of it, in a line; empty where there is."""
    curves: tuple[Curve, ...]


def read(
    path: str,
    places: int,
    operations: int,
    row_of: Callable[[Any], np.ndarray],
    alike: Callable[[Any], Any] = lambda architecture: architecture,
) -> Lookup:
    """The table in a file.

    Args:
      places, operations: of the space: what "ops" must hold.
      row_of: architecture → its operations, [places].
      alike: architecture → the one that stands for all that are the same network, whose row a sample has.

    Raises:
      UserError: if the file cannot be read or does not hold such a table.
    """
    arrays = _opened(path)
    ops, columns = _checked(arrays, path, places, operations)
    index = {tuple(row): number for number, row in enumerate(ops.tolist())}
    weights = np.where(_sampled(arrays.get(ORDER, np.arange(len(ops)))), arrays.get(CELLS, 1), 0)

    def number_of(architecture: Any) -> int | None:
        row = tuple(int(operation) for operation in row_of(architecture))
        found = index.get(row, index.get(tuple(int(place) for place in row_of(alike(architecture)))))
        if found is None and CELLS not in arrays:
            raise UserError(f"{FIELD} = {path!r} does not have the architecture {list(row)}; allowed: a table of all")
        return found

    def entries(architecture: Any) -> dict[str, Entry]:
        number = number_of(architecture)
        known = {} if number is None else {name: v for name, v in columns.items() if np.isfinite(v[number])}
        return {name: _entry(values, weights, values[number]) for name, values in known.items()}

    def unknown(architecture: Any) -> str:
        if number_of(architecture) is not None:
            return ""
        row = "".join(str(int(operation)) for operation in row_of(architecture))
        what = f"a sample of {int((weights > 0).sum())} networks, does not have the architecture {row}"
        return f"{FIELD} = {path!r}, {what} (python -m dass_jax.sparsebench --also adds it)"

    def metrics(architecture: Any) -> dict[str, float]:
        return {PREFIX + name: entry.value for name, entry in entries(architecture).items()}

    styles = ("solid", "dashed", "dotted")
    curves = tuple(
        Curve(PREFIX + name, "accuracy by the table", name, "%", styles[i % 3]) for i, name in enumerate(columns)
    )
    return Lookup(metrics, entries, unknown, curves)


def _entry(values: np.ndarray, weights: np.ndarray, value: Any) -> Entry:
    known = np.isfinite(values) & (weights > 0)
    values, weights = values[known], weights[known]
    worse = weights[values < value].sum() + weights[values == value].sum() / 2
    rank, regret = 1 + int((values > value).sum()), max(0.0, float(values.max() - value))
    share = 100 * worse / weights.sum()
    return Entry(round(float(value), 4), rank, len(values), round(regret, 4), round(float(share), 2))


def _sampled(order: np.ndarray) -> np.ndarray:
    """bool [N]: whose number follows from 0 without a gap."""
    return order < (np.sort(order) == np.arange(len(order))).cumprod().sum()


def _opened(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(pathlib.Path(path).expanduser(), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # a damaged file can make zipfile and NumPy raise anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{FIELD} = {path!r} cannot be read ({reason}); allowed: an .npz file with 'ops'") from error


def _checked(
    arrays: Mapping[str, np.ndarray], path: str, places: int, operations: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(ops, columns of accuracies by name). Raises UserError."""
    ops = arrays.get("ops")
    if ops is None or ops.ndim != 2 or ops.shape[1] != places or ops.dtype.kind not in "iu" or ops.size == 0:
        has = "no 'ops'" if ops is None else f"'ops' of {ops.dtype} {list(ops.shape)}"
        raise UserError(f"{FIELD} = {path!r} has {has}; allowed: whole numbers [N, {places}]")
    if ops.min() < 0 or ops.max() >= operations:
        raise UserError(f"{FIELD} = {path!r}: 'ops' holds {ops.max()}; allowed: 0 to {operations - 1}")
    if CELLS in arrays and (arrays[CELLS].shape != ops.shape[:1] or arrays[CELLS].dtype.kind not in "iu"):
        raise UserError(f"{FIELD} = {path!r}: {CELLS!r} is {arrays[CELLS].dtype}; allowed: whole numbers [N]")
    seeds: dict[str, list[np.ndarray]] = {}
    for name, values in arrays.items():
        if values.dtype.kind == "f" and values.shape == ops.shape[:1] and re.search("val|test", name):
            seeds.setdefault(re.sub(r"_s\d+$", "", name), []).append(values.astype(np.float64))
    if not seeds:
        raise UserError(f"{FIELD} = {path!r} has no accuracies; allowed: float columns [N] named *val* or *test*")
    return ops, {name: _mean(found) for name, found in seeds.items()}


def _mean(seeds: list[np.ndarray]) -> np.ndarray:
    """The mean over the seeds that are there; NaN where none is."""
    stacked = np.stack(seeds)
    there = np.isfinite(stacked)
    sums = np.where(there, stacked, 0).sum(0)
    return np.where(there.any(0), sums / np.maximum(there.sum(0), 1), np.nan)
