"""The table: table.npz, a row for each cell, in the form of `[space] table`; and table.csv, one for each cell and seed.

`ops` uint8 [N, edges], the operation of each edge (`Space.numbers`); `cells` int32 [N], how many of the space's cells
are this network; `order` int64 [N], its place in the sample. Then for each seed s, as columns [N] whose names end in
_s<s>:

    test_dense, test_<distribution>_<per cent>      accuracy on all test images, per cent
    kept_dense, kept_<distribution>_<per cent>      weights
    macs_dense, macs_<distribution>_<per cent>      multiply-accumulates for one image, pruned weights left out

and `seconds` [N], what the cell cost.
"""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dass_jax.errors import UserError
from dass_jax.runtime import folder
from dass_jax.sparsebench.spaces import Space

DENSE = "dense"
PER_SEED = ("test", "kept", "macs")


class Row(NamedTuple):
    """One cell."""

    cell: Any
    cells: int
    order: int
    seconds: float
    figures: dict[str, list[float]]
    """`test_dense`, … → one for each seed."""


def stage(distribution: str, keep: float) -> str:
    """`erk_1` for 1 %."""
    return f"{distribution}_{100 * keep:g}"


def write(path: pathlib.Path, rows: Sequence[Row], space: Space) -> None:
    """Both files of the folder, each whole or not at all; first the one that is read again."""
    text = io.BytesIO()
    np.savez_compressed(text, **arrays(rows, space))
    folder.write_bytes(path / "table.npz", text.getvalue())
    folder.write_text(path / "table.csv", _csv(rows, space))


def arrays(rows: Sequence[Row], space: Space) -> dict[str, Any]:
    """The columns of table.npz."""
    found: dict[str, Any] = {
        "ops": np.array([space.numbers(row.cell).ravel() for row in rows], np.uint8),
        "cells": np.array([row.cells for row in rows], np.int32),
        "order": np.array([row.order for row in rows], np.int64),
        "seconds": np.array([row.seconds for row in rows], np.float32),
    }
    for name, values in rows[0].figures.items():
        for seed in range(len(values)):
            dtype = np.float32 if name.startswith("test") else np.int64
            found[f"{name}_s{seed}"] = np.array([row.figures[name][seed] for row in rows], dtype)
    return found


def read(path: pathlib.Path, space: Space) -> list[Row]:
    """The rows of a folder's table; none if there is no table. Raises UserError if it cannot be read."""
    file = path / "table.npz"
    if not file.exists():
        return []
    try:
        with np.load(file, allow_pickle=False) as found:
            columns = {name: found[name] for name in found.files}
        names = list(dict.fromkeys(name.rpartition("_s")[0] for name in columns if name.startswith(PER_SEED)))
        seeds = sum(name.startswith(f"{names[0]}_s") for name in columns)
        return [
            Row(
                space.cell(ops),
                int(columns["cells"][n]),
                int(columns["order"][n]),
                float(columns["seconds"][n]),
                {name: [columns[f"{name}_s{seed}"][n].item() for seed in range(seeds)] for name in names},
            )
            for n, ops in enumerate(columns["ops"])
        ]
    except Exception as error:  # a damaged file can make zipfile and NumPy raise anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"--out = {str(path)!r}: table.npz cannot be read ({reason}); allowed: a table of ours"
        ) from error


def _csv(rows: Sequence[Row], space: Space) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["order", "cell", "cells", "seed", *rows[0].figures])
    for row in rows:
        first = [row.order, space.text(row.cell), row.cells]
        for seed in range(len(row.figures[f"test_{DENSE}"])):
            writer.writerow([*first, seed, *(values[seed] for values in row.figures.values())])
    return text.getvalue()
