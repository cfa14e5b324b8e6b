"""What is known of an architecture without training it: a table of published results that a user brings.

`[space] table` names an .npz file with "ops", uint8 [N, places]: for each architecture the operation of each place, as
a column of the space's matrix; and with columns float [N] of accuracies in per cent, whose names contain "val" or
"test". Columns that differ in a last "_s0", "_s1", … only are seeds, and are averaged. NaN is a missing value.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dass_jax.errors import UserError
from dass_jax.phases import Curve

PREFIX = "table_"
FIELD = "space.table"


class Entry(NamedTuple):
    """What a column says of one architecture."""

    value: float
    """Per cent."""
    rank: int
    """1 = the best of all."""
    of: int
    """Architectures that the column knows."""
    regret: float
    """Points below the best."""


class Lookup(NamedTuple):
    """A table as a search and its results use it."""

    metrics: Callable[[Any], dict[str, float]]
    """Architecture → accuracy by each column, for the line of an epoch."""
    entries: Callable[[Any], dict[str, Entry]]
    """Architecture → what each column says of it; without those that know nothing."""
    curves: tuple[Curve, ...]


def read(path: str, places: int, operations: int, row_of: Callable[[Any], np.ndarray]) -> Lookup:
    """The table in a file.

    Args:
      places, operations: of the space: what "ops" must hold.
      row_of: architecture → its operations, [places].

    Raises:
      UserError: if the file cannot be read or does not hold such a table.
    """
    ops, columns = _checked(_opened(path), path, places, operations)
    index = {tuple(row): number for number, row in enumerate(ops.tolist())}

    def number_of(architecture: Any) -> int:
        row = tuple(int(operation) for operation in row_of(architecture))
        if row not in index:
            raise UserError(f"{FIELD} = {path!r} does not have the architecture {list(row)}; allowed: a table of all")
        return index[row]

    def entries(architecture: Any) -> dict[str, Entry]:
        found, number = {}, number_of(architecture)
        for name, values in columns.items():
            value, best = values[number], np.nanmax(values)
            if np.isfinite(value):
                rank, known = 1 + int((values > value).sum()), int(np.isfinite(values).sum())
                found[name] = Entry(round(float(value), 4), rank, known, round(float(best - value), 4))
        return found

    def metrics(architecture: Any) -> dict[str, float]:
        return {PREFIX + name: entry.value for name, entry in entries(architecture).items()}

    styles = ("solid", "dashed", "dotted")
    curves = tuple(
        Curve(PREFIX + name, "accuracy by the table", name, "%", styles[i % 3]) for i, name in enumerate(columns)
    )
    return Lookup(metrics, entries, curves)


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
