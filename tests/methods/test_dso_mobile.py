"""A search of mobile blocks by latency goes on until each has one operation, and then ends."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.methods import dso
from dass_jax.methods.dso import CONNECTIONS, Fields
from dass_jax.spaces import mobile as space_of
from dass_jax.spaces.mobile import BLOCKS
from dass_jax.tasks import Batch
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS
from tests import supernets

KEY, IMAGE = jax.random.key(0), (6, 5, 1)
TIMES = np.array([[1.0, 2, 3, 4, 5, 0.5], [4, 3, 2, 2.5, 6, 7]])
"""Milliseconds."""


def blind(root: pathlib.Path) -> Any:
    """The space with a network that no factor changes."""
    c = space_of.Fields(stages=(1, 1), width=0.2)
    names = space_of.timed(c, 3, IMAGE).parts
    file = root / "table.json"
    entries = dict(zip(names, TIMES.ravel(), strict=True))
    file.write_text(json.dumps({"image": IMAGE, "entries": entries}), encoding="utf-8")
    space = space_of.mobile(space_of.Fields(stages=(1, 1), width=0.2, latency=str(file)), 3)

    def apply(params: Any, stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
        return images.mean((0, 1, 2))[:, None] * params["w"], stats

    return space._replace(init=lambda key, image: {PARAMS: {"w": jnp.ones(3)}, BATCH_STATS: {}}, apply=apply)


def searched(space: Any, epochs: int, **fields: Any) -> tuple[Any, list[float], Any]:
    """(found, living operations after each epoch, last variables), of epochs of five steps."""
    problem = supernets.problem(None, 3, IMAGE, space=lambda live=None: space)
    c = Fields(epochs=epochs, pretrain_epochs=0, form="prox", gamma=0.1, remove_every=1, stop_connections=2, **fields)
    search = dso.search(c, problem)
    phase = search.phases[-1]
    batch = Batch(np.ones((1, *IMAGE[:2], 6)), np.arange(6) % 3)
    rates = {"lower": jnp.float32(0.1), "upper": jnp.float32(0.1)}

    @jax.jit
    def epoch(state: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            return phase.algorithm.update(state, {"lower": batch, "upper": batch}, KEY, learning_rate=rates)[0], None

        return jax.lax.scan(step, state, length=5)[0]

    state, left = phase.begin(KEY, None), []
    for _ in range(epochs):
        state = phase.after_epoch(epoch(state))
        seen = phase.observe(state.variables).metrics
        left.append(seen["connections_swept"])
        if phase.stop(seen):
            break
    return search.found(state.variables, 0), left, state.variables


def test_the_fastest_operation_of_each_block_is_left_and_the_search_ends(tmp_path: pathlib.Path) -> None:
    found, left, v = searched(blind(tmp_path), 100, budget="latency")
    assert found.blocks == (("k7e6",), ("k5e3",))
    assert left[0] == 12 and left[-1] == 2 and sorted(left, reverse=True) == left and len(set(left)) > 2
    assert len(left) < 100 and (v[CONNECTIONS]["alive"][BLOCKS].sum(1) == 1).all()
    # The last one of a block keeps what it has.
    assert (v[ALPHA][BLOCKS].max(1) > 0).all()


def test_without_latency_all_leave_together_and_the_first_is_kept(tmp_path: pathlib.Path) -> None:
    found, left, _ = searched(blind(tmp_path), 100)
    assert found.blocks == (("k3e3",), ("k3e3",)) and set(left) == {12, 2}


def test_at_the_last_epoch_the_largest_is_taken(tmp_path: pathlib.Path) -> None:
    found, left, v = searched(blind(tmp_path), 4, budget="latency")
    assert left[-1] > 2 and found.blocks == (("k7e6",), ("k5e3",))
    assert space_of.decode(v[ALPHA]) != found


@pytest.mark.parametrize("last", [3, 5])
def test_of_a_block_whose_last_operation_is_at_zero_that_one_stays(last: int, tmp_path: pathlib.Path) -> None:
    """And none that has left before: the program may have it no more."""
    space = blind(tmp_path)
    problem = supernets.problem(None, 3, IMAGE, space=lambda live=None: space)
    search = dso.search(Fields(pretrain_epochs=0, remove_every=1), problem)
    state = search.phases[-1].begin(KEY, None)
    alive = np.zeros((2, 6), bool)
    alive[:, last] = True
    connections = {"alive": {BLOCKS: alive}, "epochs": np.int32(1)}
    v = {**state.variables, ALPHA: {BLOCKS: np.zeros((2, 6), np.float32)}, CONNECTIONS: connections}
    after = search.phases[-1].after_epoch(state._replace(variables=v)).variables
    np.testing.assert_array_equal(after[CONNECTIONS]["alive"][BLOCKS], alive)
    np.testing.assert_array_equal(after[ALPHA][BLOCKS], alive)
    assert search.found(v, 0).blocks == ((space_of.OPERATIONS[last],),) * 2
