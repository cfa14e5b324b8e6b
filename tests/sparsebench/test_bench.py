"""The loop over cells and its table, with programs that train nothing; and counts against those of the cell's own
network."""

import csv
import json
import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import count
from dass_jax.architectures.darts import PUBLISHED
from dass_jax.architectures.nasbench201 import OPERATIONS, Cell, from_text, key, of_key
from dass_jax.architectures.nasbench201_alike import alike, kinds
from dass_jax.errors import Stopped, UserError
from dass_jax.networks.any_cell import numbers
from dass_jax.networks.nasbench201 import Fields as Network
from dass_jax.nn.skeletons import Sizes
from dass_jax.spaces import SPACES
from dass_jax.sparsebench import __main__ as command
from dass_jax.sparsebench import bench, sample, sizes, table, training
from dass_jax.sparsebench.fields import Fields, Sparsity

SHAPE = (8, 8, 3)
WHOLE = sizes.skeleton(Sizes(10, 1, 8), SHAPE)


@pytest.mark.parametrize("distribution", ["layer", "erk"])
def test_counts_are_those_of_the_cells_own_network(distribution: Any) -> None:
    rng, images = np.random.default_rng(0), count.Images(8, 3, 10)
    for _ in range(4):
        cell = Cell(*(OPERATIONS[place] for place in rng.integers(5, size=6)))
        for keep in (1.0, 0.03):
            kept = sizes.kept(WHOLE, cell, keep, distribution)
            masks = jax.tree.map(first_of, kept.layers, kept.counts)
            wanted = count.network_count("nasbench201", cell, Network(1, 8), images, keep, distribution)
            assert sizes.size(WHOLE, masks) == (wanted.kept, wanted.macs_nonzero)
            assert sizes.size(WHOLE, kept.layers) == (wanted.prunable, wanted.macs)


def first_of(layers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A mask with so many ones in each layer."""
    rows = layers.reshape(len(counts), -1)
    assert (counts <= rows.sum(1)).all()
    return (np.arange(rows.shape[1]) < counts[:, None]).reshape(layers.shape)


def test_under_global_counts_the_total_is_that_of_the_others() -> None:
    cell = of_key("341032")
    erk = jax.tree.leaves(sizes.kept(WHOLE, cell, 0.05, "erk").counts)
    assert sizes.kept(WHOLE, cell, 0.05, "global").counts.totals == {True: sum(int(counts.sum()) for counts in erk)}


def test_a_sample_is_of_different_networks_and_grows_at_its_end() -> None:
    found = sample.order(3)
    assert len(found) == len(kinds()) - 1 and sum(number for _, number in found) == 5**6 - len(kinds()["000000"])
    assert all(alike(cell) == cell for cell, _ in found[:50]) and len({cell for cell, _ in found}) == len(found)
    assert found == sample.order(3) and found[:50] != sample.order(4)[:50]


C = Fields(seeds=2, sample=5, sparsity=Sparsity(keep=(0.1, 0.01), distributions=("layer", "erk")))


def untrained() -> bench.Bench:
    """Masks have their counts, and accuracies follow from the cell and from what is kept."""

    def dense(cell: Any, keys: Any, rates: Any, data: Any) -> Any:
        return {"right": int(cell.sum()) + np.arange(len(keys))}

    def sparse(cell: Any, v: Any, kept: Any, keys: Any, rates: Any, data: Any) -> Any:
        masks = jax.tree.map(lambda *x: np.stack([first_of(*x)] * len(keys)), kept.layers, kept.counts)
        return {"right": v["right"] + sum(int(x.sum()) for x in jax.tree.leaves(kept.counts)) % 7, "masks": masks}

    programs = training.Programs(dense, sparse, lambda cell, v, data: v["right"])
    keys = jnp.stack([jax.random.key(seed) for seed in range(2)])
    data: Any = SimpleNamespace(test_labels=np.zeros(50))
    return bench.Bench(C, programs, WHOLE, data, keys)


def test_a_table_resumes_where_it_stopped_and_ends_as_in_one_go(tmp_path: pathlib.Path) -> None:
    b, said = untrained(), list[str]()
    one, parts = tmp_path / "one", tmp_path / "parts"
    for path in (one, parts):
        path.mkdir()
    bench.extend(b, one, range(5), said.append)
    assert len(said) == 5 and "cell 5/5" in said[-1] and "0 min left" in said[-1]

    def check() -> None:
        calls.append(1)
        if len(calls) == 13:  # in the midst of the third cell
            raise Stopped(2)

    calls: list[int] = []
    with pytest.raises(Stopped):
        bench.extend(b, parts, range(5), said.append, bench.Stop(check=check))
    assert len(table.read(parts)) == 2
    assert len(bench.extend(b, parts, range(4), said.append)) == 4
    assert len(bench.extend(b, parts, range(5), said.append, bench.Stop(1e-9))) == 4  # there is no time left
    bench.extend(b, parts, range(5), said.append)
    timeless = [[row._replace(seconds=0.0) for row in table.read(path)] for path in (one, parts)]
    assert timeless[0] == timeless[1] and [row.order for row in timeless[0]] == [0, 1, 2, 3, 4]
    assert (one / "table.csv").read_text() == (parts / "table.csv").read_text()


def test_the_csv_has_a_row_for_each_cell_and_seed(tmp_path: pathlib.Path) -> None:
    rows = bench.extend(untrained(), tmp_path, range(2), str)
    with (tmp_path / "table.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["order"], row["seed"]) for row in found] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert from_text(found[2]["cell"]) == rows[1].cell
    number = int(numbers(rows[1].cell).sum())
    assert float(found[3]["test_dense"]) == 2 * (number + 1)
    assert found[0]["kept_layer_1"] == found[0]["kept_erk_1"] and found[0]["macs_layer_1"] != found[0]["macs_erk_1"]


def test_a_table_is_a_yardstick_for_any_cell_of_its_kinds(tmp_path: pathlib.Path) -> None:
    rows = bench.extend(untrained(), tmp_path, range(30), str)
    space = SPACES["nasbench201"]
    known = space.lookup(space.schema(table=str(tmp_path / "table.npz")))
    row = next(row for row in rows if row.cells > 1)
    other = next(of_key(name) for name in kinds()[key(row.cell)] if of_key(name) != row.cell)
    for cell in (row.cell, other):
        entry = known.entries(cell)["test_erk_1"]
        means = np.array([np.mean(each.figures["test_erk_1"]) for each in rows])
        own, weights = np.mean(row.figures["test_erk_1"]), np.array([each.cells for each in rows])
        assert entry.value == pytest.approx(own) and entry.rank == 1 + (means > own).sum() and entry.of == 30
        share = 100 * (weights[means < own].sum() + weights[means == own].sum() / 2) / weights.sum()
        assert entry.percentile == pytest.approx(share, abs=0.01)
        assert (
            known.unknown(cell) == ""
            and known.metrics(cell)["table_test_dense"] == known.entries(cell)["test_dense"].value
        )
    outside, _ = sample.order(5)[30]
    assert known.entries(outside) == {} and known.metrics(outside) == {}
    assert f"a sample of 30 networks, does not have the architecture {key(outside)} (" in known.unknown(outside)


def test_cells_outside_of_the_sample_are_trained_on_demand_and_nothing_is_compared_with_them(
    tmp_path: pathlib.Path,
) -> None:
    b, space = untrained(), SPACES["nasbench201"]
    before = bench.extend(b, tmp_path, range(20), str)
    file = space.schema(table=str(tmp_path / "table.npz"))
    sampled = space.lookup(file).entries(before[3].cell)
    others = [cell for cell, _ in sample.order(C.sample)[22:]]
    best, worst = (extreme(others, key=lambda cell: int(numbers(cell).sum())) for extreme in (max, min))
    places = sample.places(C.sample, [best, worst, best], 0)
    rows = bench.extend(b, tmp_path, places, str)
    assert len(places) == 2 and [row.order for row in rows] == [*range(20), *sorted(places)]
    known = space.lookup(file)
    assert known.entries(before[3].cell) == sampled
    above, below = (known.entries(cell)["test_dense"] for cell in (best, worst))
    assert (above.rank, above.of, above.regret, above.percentile) == (1, 20, 0.0, 100.0)
    assert (below.rank, below.of, below.percentile) == (21, 20, 0.0) and below.regret > 0
    # A sample that grows as far takes them in.
    bench.extend(b, tmp_path, sample.places(C.sample, [best], 22), str)
    assert space.lookup(file).entries(best)["test_dense"].of == 22


def test_what_cannot_be_trained_on_demand_is_said_in_a_line() -> None:
    for architecture, part in ((of_key("000000"), "none~0"), (PUBLISHED["dass_99"], "dass_99")):
        with pytest.raises(UserError, match="allowed: cells of nasbench201 that an image") as error:
            sample.places(0, [architecture], 3)
        assert part in str(error.value)


CONFIG = '[data]\nsource = "digits"\nlimit = 0\n'


def refused(argv: list[str], *parts: str) -> None:
    with pytest.raises(UserError) as error:
        command.main(argv)
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value)


def test_what_is_wrong_is_said_in_a_line(tmp_path: pathlib.Path) -> None:
    file, out = tmp_path / "c.toml", tmp_path / "out"
    file.write_text(CONFIG)
    given = ["--config", str(file), "--out", str(out)]
    refused([*given, "--cells", "0"], "--cells = 0", "at least 1")
    refused([*given, "--cells", "0", "--also", "nb201_resnot"], "nb201_resnet")
    refused([*given, "--limit-seconds", "0"], "--limit-seconds = 0", "above 0")
    refused(["--config", str(tmp_path / "none.toml"), "--out", str(out)], "sparsebench file", "shipped: cifar10")
    for text, parts in (
        ("[sparsity]\nkeep = []", ("sparsity.keep = []", "different")),
        ('[sparsity]\ndistributions = ["erk", "erk"]', ("sparsity.distributions", "different")),
        ("[sparsity]\nkeep = [2]", ("sparsity.keep", "(0, 1]")),
        ("[train]\nbatch_sise = 3", ("unknown key 'train.batch_sise'", "batch_size")),
    ):
        file.write_text(text)
        refused(given, *parts)
    file.write_text(CONFIG + "[train]\nbatch_size = 5000")
    refused(given, "train.batch_size = 5000", "the training images")
    # A folder with a table is its configuration's.
    table.write(out, [table.Row(of_key("341032"), 1, 0, 1.0, {"test_dense": [1.0]})])
    file.write_text(CONFIG)
    refused(given, "--out", "a table of other fields")
    (out / "table.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"table\.npz cannot be read"):
        table.read(out)


def test_the_shipped_configurations_are_read() -> None:
    files = sorted((pathlib.Path(__file__).parents[2] / "configs" / "sparsebench").glob("*.toml"))
    assert files
    for file in files:
        assert json.dumps(str(command.fields(file.stem).data.source))
