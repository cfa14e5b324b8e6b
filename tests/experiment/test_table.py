"""What the rows of results.csv say of architectures by a table of trained ones."""

import json
import pathlib
from typing import Any

import numpy as np

from dass_jax import architectures
from dass_jax.architectures import nasbench201
from dass_jax.experiment import plan, table

CELLS = [("none",) * 3 + (operation, "none", "none") for operation in ("skip_connect", "nor_conv_1x1", "nor_conv_3x3")]
NEW = ("nor_conv_3x3",) * 6


def write(file: pathlib.Path, cells: list[Any], accuracies: list[float]) -> None:
    ops = [[nasbench201.OPERATIONS.index(operation) for operation in cell] for cell in cells]
    number = np.arange(len(cells))
    order, values = np.where(number < len(CELLS), number, 100), np.array(accuracies)
    np.savez(file, ops=np.array(ops), cells=np.ones_like(number), order=order, test_erk_1_s0=values)


def planned(folder: pathlib.Path) -> plan.Plan:
    (folder / "run.toml").write_text(f'controls = []\nspace = {{ name = "nasbench201", table = "{folder}/table.npz" }}')
    (folder / "plan.toml").write_text('base = "run.toml"\n[axes]\nseed = [0, 1, 2]\nmethod = ["random"]')
    return plan.load(folder / "plan.toml")


def row(cell: Any, **own: Any) -> dict[str, Any]:
    return {"status": "finished", "architecture": json.dumps(architectures.to_json(nasbench201.Cell(*cell))), **own}


def test_rows_follow_a_table_that_grows_after_the_run(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "table.npz", CELLS, [50.0, 60.0, 70.0])
    wanted = planned(tmp_path)
    stale = {"table_test_erk_1": 1.0, "percentile_test_erk_1": 1.0}
    rows = [row(CELLS[1], **stale), row(NEW), {"status": "waiting"}]
    first = table.by_tables(wanted, rows)
    assert first[0]["table_test_erk_1"] == 60 and first[0]["percentile_test_erk_1"] == 50
    assert first[1] == rows[1] and first[2] == rows[2], "nothing is known of them"
    write(tmp_path / "table.npz", [*CELLS, NEW], [50.0, 60.0, 70.0, 80.0])
    then = table.by_tables(wanted, rows)
    assert then[1]["table_test_erk_1"] == 80 and then[1]["percentile_test_erk_1"] == 100
    assert then[0] == first[0], "a cell that is not of the sample changes nothing for the others"


def test_without_its_table_a_row_keeps_what_the_run_has_noted(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "table.npz", CELLS, [50.0, 60.0, 70.0])
    wanted = planned(tmp_path)
    (tmp_path / "table.npz").unlink()
    noted = [row(CELLS[1], table_test_erk_1=1.0)] * 3
    assert table.by_tables(wanted, noted) == noted
