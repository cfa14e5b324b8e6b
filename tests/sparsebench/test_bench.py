"""The loop over cells and its table, with programs that train nothing."""

import csv
import dataclasses
import json
import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import architectures
from dass_jax.architectures.darts import PUBLISHED, Genotype
from dass_jax.architectures.nasbench201 import key, of_key
from dass_jax.architectures.nasbench201_alike import kinds
from dass_jax.errors import Stopped, UserError
from dass_jax.networks.any_cell import numbers
from dass_jax.networks.any_genotype import Fields as Genotypes
from dass_jax.networks.nasbench201 import Fields as Network
from dass_jax.spaces import SPACES
from dass_jax.sparsebench import __main__ as command
from dass_jax.sparsebench import bench, sample, sizes, spaces, table, training
from dass_jax.sparsebench.fields import Fields, Sparsity

SHAPE, CLASSES = (8, 8, 3), 10
SPARSITY = Sparsity(keep=(0.1, 0.01), distributions=("layer", "erk"))
C = Fields(seeds=2, sample=5, sparsity=SPARSITY)
DARTS = Fields(space="darts", seeds=2, sample=5, network=Genotypes(cells=4, channels=4, nodes=2), sparsity=SPARSITY)


def first_of(layers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A mask with so many ones in each layer."""
    rows = layers.reshape(len(counts), -1)
    assert (counts <= rows.sum(1)).all()
    return (np.arange(rows.shape[1]) < counts[:, None]).reshape(layers.shape)


def untrained(c: Fields = C) -> bench.Bench:
    """Masks have their counts, and accuracies follow from the cell and from what is kept."""
    space = spaces.space_of(c)

    def dense(cell: Any, keys: Any, rates: Any, data: Any) -> Any:
        return {"right": int(cell.sum()) + np.arange(len(keys))}

    def sparse(cell: Any, v: Any, kept: Any, keys: Any, rates: Any, data: Any) -> Any:
        masks = jax.tree.map(lambda *x: np.stack([first_of(*x)] * len(keys)), kept.layers, kept.counts)
        return {"right": v["right"] + sum(int(x.sum()) for x in jax.tree.leaves(kept.counts)) % 7, "masks": masks}

    programs = training.Programs(dense, sparse, lambda cell, v, data: v["right"])
    keys = jnp.stack([jax.random.key(seed) for seed in range(2)])
    data: Any = SimpleNamespace(test_labels=np.zeros(50))
    return bench.Bench(c, space, programs, sizes.skeleton(space, CLASSES, SHAPE), data, keys)


@pytest.mark.parametrize("c", [C, DARTS], ids=["nasbench201", "darts"])
def test_a_table_resumes_where_it_stopped_and_ends_as_in_one_go(c: Fields, tmp_path: pathlib.Path) -> None:
    b, said = untrained(c), list[str]()
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
    assert len(table.read(parts, b.space)) == 2
    assert len(bench.extend(b, parts, range(4), said.append)) == 4
    assert len(bench.extend(b, parts, range(5), said.append, bench.Stop(1e-9))) == 4  # there is no time left
    bench.extend(b, parts, range(5), said.append)
    timeless = [[row._replace(seconds=0.0) for row in table.read(path, b.space)] for path in (one, parts)]
    assert timeless[0] == timeless[1] and [row.order for row in timeless[0]] == [0, 1, 2, 3, 4]
    assert (one / "table.csv").read_text() == (parts / "table.csv").read_text()


@pytest.mark.parametrize("c", [C, DARTS], ids=["nasbench201", "darts"])
def test_the_csv_has_a_row_for_each_cell_and_seed(c: Fields, tmp_path: pathlib.Path) -> None:
    b = untrained(c)
    rows = bench.extend(b, tmp_path, range(2), str)
    with (tmp_path / "table.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["order"], row["seed"]) for row in found] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert architectures.load(found[2]["cell"]) == rows[1].cell == b.space.order.at(1)[0]
    number = int(b.space.numbers(rows[1].cell).sum())
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
    outside, _ = untrained().space.order.at(30)
    assert known.entries(outside) == {} and known.metrics(outside) == {}
    assert f"a sample of 30 networks, does not have the architecture {key(outside)} (" in known.unknown(outside)


def test_cells_outside_of_the_sample_are_trained_on_demand_and_nothing_is_compared_with_them(
    tmp_path: pathlib.Path,
) -> None:
    b, space = untrained(), SPACES["nasbench201"]
    before = bench.extend(b, tmp_path, range(20), str)
    file = space.schema(table=str(tmp_path / "table.npz"))
    sampled = space.lookup(file).entries(before[3].cell)
    others = [b.space.order.at(place)[0] for place in range(22, b.space.order.size)]
    best, worst = (extreme(others, key=lambda cell: int(numbers(cell).sum())) for extreme in (max, min))
    places = sample.places(b.space.order, [best, worst, best], 0)
    rows = bench.extend(b, tmp_path, places, str)
    assert len(places) == 2 and [row.order for row in rows] == [*range(20), *sorted(places)]
    known = space.lookup(file)
    assert known.entries(before[3].cell) == sampled
    above, below = (known.entries(cell)["test_dense"] for cell in (best, worst))
    assert (above.rank, above.of, above.regret, above.percentile) == (1, 20, 0.0, 100.0)
    assert (below.rank, below.of, below.percentile) == (21, 20, 0.0) and below.regret > 0
    # A sample that grows as far takes them in.
    bench.extend(b, tmp_path, sample.places(b.space.order, [best], 22), str)
    assert space.lookup(file).entries(best)["test_dense"].of == 22


def test_genotypes_are_trained_on_demand_at_their_place_in_the_sample(tmp_path: pathlib.Path) -> None:
    b, (name, _) = untrained(DARTS), PUBLISHED["dass_95"]
    found = Genotype(name[:2], name[:2])
    rows = bench.extend(b, tmp_path, sample.places(b.space.order, [found, found], 2), str)
    assert [row.order for row in rows[:2]] == [0, 1] and len(rows) == 3
    assert [row.cell for row in table.read(tmp_path, b.space)] == [row.cell for row in rows]
    assert b.space.order.at(rows[2].order)[0] == rows[2].cell
    assert {frozenset(node) for node in rows[2].cell.normal} == {frozenset(node) for node in found.normal}


def test_a_table_of_genotypes_is_none_of_nasbench201(tmp_path: pathlib.Path) -> None:
    bench.extend(untrained(DARTS), tmp_path, range(2), str)
    space = SPACES["nasbench201"]
    with pytest.raises(UserError, match=r"has 'ops' of uint8 \[2, 10\]; allowed: whole numbers \[N, 6\]"):
        space.lookup(space.schema(table=str(tmp_path / "table.npz")))


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
        ('space = "darts"\n[network]\nnodes = 5', ("network.nodes = 5", "[1, 4]")),
        ("[sparsity]\nkeep = []", ("sparsity.keep = []", "different")),
        ('[sparsity]\ndistributions = ["erk", "erk"]', ("sparsity.distributions", "different")),
        ("[sparsity]\nkeep = [2]", ("sparsity.keep", "(0, 1]")),
        ("[network]\nnodes = 3", ("unknown key 'network.nodes'", "cells, channels")),
        ('space = "dart"', ("space = 'dart'", "'nasbench201', 'darts'")),
        ("base = 3", ("base = 3", "a TOML file")),
        ('base = "none.toml"', ("sparsebench file", "none.toml", "cannot be read")),
        ("[train]\nbatch_sise = 3", ("unknown key 'train.batch_sise'", "batch_size")),
    ):
        file.write_text(text)
        refused(given, *parts)
    file.write_text(CONFIG + "[train]\nbatch_size = 5000")
    refused(given, "train.batch_size = 5000", "the training images")
    # A folder with a table is its configuration's.
    space = spaces.space_of(C)
    table.write(out, [table.Row(of_key("341032"), 1, 0, 1.0, {"test_dense": [1.0]})], space)
    file.write_text(CONFIG)
    refused(given, "--out", "a table of other fields")
    (out / "table.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"table\.npz cannot be read"):
        table.read(out, space)


def test_a_folder_of_an_older_version_goes_on(tmp_path: pathlib.Path) -> None:
    """Its fields.json has no space, and is still the same configuration; another space is another."""
    c = Fields(network=Network(cells=1, channels=4))
    table.write(tmp_path, [table.Row(of_key("341032"), 1, 0, 1.0, {"test_dense": [1.0]})], spaces.space_of(c))
    command.begin(tmp_path, c)
    noted = json.loads((tmp_path / "fields.json").read_text())
    assert noted.pop("space") == "nasbench201"
    (tmp_path / "fields.json").write_text(json.dumps(noted))
    command.begin(tmp_path, c)
    for other in (DARTS, Fields(network=Network(cells=1, channels=8))):
        with pytest.raises(UserError, match="a table of other fields"):
            command.begin(tmp_path, other)
    (tmp_path / "fields.json").write_text("[]")
    with pytest.raises(UserError, match="a table of other fields"):
        command.begin(tmp_path, c)


def test_a_file_says_what_differs_from_its_base(tmp_path: pathlib.Path) -> None:
    (tmp_path / "first.toml").write_text("[data]\nlimit = 7\nflip = false\n[train]\nclip = 2.0\n")
    (tmp_path / "second.toml").write_text('base = "first.toml"\n[data]\nlimit = 9\n[sparsity]\nkeep = [0.5]\n')
    usual, found = Fields(), command.fields(str(tmp_path / "second.toml"))
    data = dataclasses.replace(usual.data, limit=9, flip=False)
    sparsity = dataclasses.replace(usual.sparsity, keep=(0.5,))
    train = dataclasses.replace(usual.train, clip=2.0)
    assert found == dataclasses.replace(usual, data=data, sparsity=sparsity, train=train)
    (tmp_path / "third.toml").write_text('base = "second.toml"\n')
    refused(["--config", str(tmp_path / "third.toml"), "--out", str(tmp_path)], "base = 'second.toml'", "without one")


def test_the_shipped_configurations_are_read() -> None:
    files = sorted((pathlib.Path(__file__).parents[2] / "configs" / "sparsebench").glob("*.toml"))
    assert files
    for file in files:
        assert json.dumps(str(command.fields(file.stem).data.source))
