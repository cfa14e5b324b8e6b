"""Latency in the penalty of DSO-NAS' connections: what leaves with each, against sweeping it; whose blocks count."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures.dso import OUT, connections, living, swept, targets
from dass_jax.nn.level_blocks import columns
from dass_jax.spaces import dso_latency
from dass_jax.spaces.dso import Fields, dso
from tests.spaces.dso_blocks import FULL, drawn


def by_sweeping(left: set[tuple[str, str]], sizes: tuple[int, int], operations: np.ndarray, end: float) -> float:
    found = swept(left, *sizes)
    inner = sum(operations[int(node.split(".")[1])] for node in living(found))
    return float(inner + end * sum(target == OUT for _, target in found))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sizes", [(1, 2), (2, 2), (3, 3), (4, 2)])
def test_a_connection_saves_what_sweeping_takes_out_with_it(sizes: tuple[int, int]) -> None:
    rng, rows, named = np.random.default_rng(sum(sizes)), targets(*sizes), columns(*sizes)
    operations, end = rng.uniform(1, 2, sizes[1]), 0.3
    every, several = connections(*sizes), 0
    saved = jax.jit(lambda live: dso_latency.saved(live, sizes[0], jnp.asarray(operations), end))
    for share in (0.2, 0.5, 0.8, 1.0) * 3:
        left = {pair for pair in every if rng.random() < share}
        live = np.zeros((len(rows), len(named)), bool)
        for source, target in left:
            live[rows.index(target), named.index(source)] = True
        found, total = np.asarray(saved(live)), by_sweeping(left, sizes, operations, end)
        wanted = np.zeros(live.shape)
        for source, target in left:
            without = by_sweeping(left - {(source, target)}, sizes, operations, end)
            wanted[rows.index(target), named.index(source)] = total - without
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        several += int((wanted > end + 2.1).any())
    assert several or sizes[0] == 1


def penalties(c: Fields, entries: Any, choice: Any, root: pathlib.Path) -> dict[str, np.ndarray]:
    file = root / "table.json"
    file.write_text(json.dumps({"image": [8, 8, 1], "entries": entries}), encoding="utf-8")
    found = dso(dataclasses.replace(c, latency=str(file)), 3).costs["latency"](choice)
    return {name: np.asarray(matrix) for name, matrix in found.items()}


def test_each_block_counts_by_its_stage_and_a_shared_one_by_all(tmp_path: pathlib.Path) -> None:
    """One level: each connection, 1.x to the output, takes its operation and the 1×1 convolution with it."""
    c = Fields(scope="full", levels=1, operations=("sep3", "max3"), stages=(2, 1), channels=2)
    parts = dso_latency.timed(c, 3, (8, 8, 1)).parts
    assert list(parts) == [f"{name}, {at}" for at in ("2 channels, 8×8", "4 channels, 4×4")
                           for name in ("sep3", "max3", "output")]  # fmt: skip
    entries = dict(zip(parts, (3.0, 1.0, 1.0, 8.0, 2.0, 1.0), strict=True))
    space = dso(c, 3)
    choice = space.encode(space.whole)
    found = penalties(c, entries, choice, tmp_path)
    # 4 and 2 ms in the first two blocks, 9 and 3 in the third.
    for name, wanted in (("block 0", [1, 0.5 + 1 / 7, 0.5]), ("block 1", [1, 0.5 + 1 / 7, 0.5]),
                         ("block 2", [1, 1, 0.5 + 0.5 / 7])):  # fmt: skip
        np.testing.assert_allclose(found[name][0], wanted, rtol=1e-6)
    assert (found["reductions"] == 1).all()
    # What is dead has γ, and is in no extreme.
    choice["block 2"][0, 1] = 0
    np.testing.assert_allclose(penalties(c, entries, choice, tmp_path)["block 0"][0, 1:], [1, 0.5], rtol=1e-6)
    shared = dataclasses.replace(c, scope="share")
    choice = dso(shared, 3).encode(dso(shared, 3).whole)
    np.testing.assert_allclose(penalties(shared, entries, choice, tmp_path)["block"], [[1, 1, 0.5]], rtol=1e-6)


def test_uses_are_the_living_operations_and_the_connections_to_the_output() -> None:
    a = drawn(FULL, 5)
    uses = dso_latency.timed(FULL, 3, (8, 8, 1)).uses(a)
    first, last = "2 channels, 8×8", "4 channels, 4×4"
    blocks = {first: a.blocks[:2], last: a.blocks[2:]}
    for at, own in blocks.items():
        assert uses[f"output, {at}"] == sum(target == OUT for block in own for _, target in block)
        for number, name in enumerate(FULL.operations):
            inner = [node for block in own for node in living(block) if node.endswith(f".{number}")]
            assert uses[f"{name}, {at}"] == len(inner)
    shared = dataclasses.replace(FULL, scope="share")
    one = drawn(shared, 5)
    assert sum(dso_latency.timed(shared, 3, (8, 8, 1)).uses(one).values()) == 3 * sum(
        dso_latency.timed(dataclasses.replace(shared, stages=(1,)), 3, (8, 8, 1)).uses(one).values()
    )
