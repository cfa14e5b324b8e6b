"""Two devices give the result of one, for every phase of a run; the rest of the device code by its messages."""

from typing import Any

import chex
import jax
import numpy as np
import pytest

from dass_jax import compose, config
from dass_jax.errors import UserError
from dass_jax.runtime import parallel
from tests import devices, supernets
from tests.config_files import one_line

PHASES = {
    "step1": ("search", 0, 1),
    "step2": ("search", 1, 1),
    "weights, accumulated": ("training", 0, 4),
    "scores": ("training", 1, 1),
}


@pytest.mark.parametrize(("chain", "number", "accumulate"), PHASES.values(), ids=PHASES)
def test_two_devices_give_the_result_of_one(
    chain: str, number: int, accumulate: int, x64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first phase of all also where each device has a seed of its own."""
    devices.doubled(monkeypatch)
    supernets.few_operations(monkeypatch)
    alone, both = (devices.setting(count, accumulate) for count in (1, 2))
    apart = devices.setting(2, accumulate, seeds=2, axis="seeds")
    # All start from one state: a phase's start is compiled for one device and needs no comparison.
    state = devices.begun(apart, chain, number)
    first = jax.tree.map(lambda x: x[:1], state)
    one, two = (devices.after(s, devices.phases(s, chain)[number], first) for s in (alone, both))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), two)
    one, two = (jax.tree.map(lambda x: x[0], found) for found in (one, two))
    chex.assert_trees_all_equal_dtypes(one, two)
    jax.tree.map(near, two, one)
    if (chain, number) == ("search", 0):
        seeds = devices.after(apart, devices.phases(apart, chain)[number], state)
        jax.tree.map(lambda x, own: near(x[:1], own), seeds, one)
    moved, other = one[0].variables, first.variables
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(other), strict=True))
    assert {x.dtype for x in jax.tree.leaves(moved)} == {np.dtype("float64")}


def near(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_each_device_takes_its_own_slice() -> None:
    both = jax.devices()[:2]
    rows = np.arange(12, dtype=np.int32).reshape(3, 4)

    def function(state: Any, data: Any, rows: jax.Array) -> Any:
        last, first = parallel.own_slice(rows, 2), parallel.own_slice(rows[:2], 2, axis=0)
        return last, first, parallel.mean(last.astype("float32")), parallel.total(last)

    state = parallel.replicate(np.zeros(1), both)
    last, first, mean, total = parallel.program(function, both, (state, state, rows), donate=False)(state, state, rows)
    np.testing.assert_array_equal(last, np.stack([rows[:, :2], rows[:, 2:]]))
    np.testing.assert_array_equal(first, np.stack([rows[:1], rows[1:2]]))
    np.testing.assert_array_equal(mean, np.stack([(rows[:, :2] + rows[:, 2:]) / 2] * 2))
    np.testing.assert_array_equal(total, np.stack([rows[:, :2] + rows[:, 2:]] * 2))


def test_devices_that_share_the_seeds_hold_and_move_their_own() -> None:
    """Four seeds on two devices."""
    both = jax.devices()[:2]
    states, data, rates = np.arange(12.0).reshape(4, 3), np.array([2.0, 5.0]), np.arange(8.0).reshape(4, 2)

    def function(state: jax.Array, data: jax.Array, rates: jax.Array, shared: Any) -> Any:
        chex.assert_shape((state, data, rates), [(3,), (2,), (2,)])
        return state * shared + data.sum(), rates + state[0]

    layout, given = parallel.layout(both, 4, apart=True), states.copy()
    arguments = layout.put(given), layout.put_everywhere(data), rates, np.float64(10)
    given[:] = -1  # it was copied
    whole = layout.over(function, (0, None, 0, None))
    moved, infos = layout.program(whole, arguments, True)(*arguments)
    assert [(shard.device, shard.data.shape) for shard in moved.addressable_shards] == [(d, (2, 3)) for d in both]
    np.testing.assert_array_equal(layout.get(moved), states * 10 + 7)
    np.testing.assert_array_equal(layout.get(infos), rates + states[:, :1])
    layout.get(moved)[:] = 0  # an array of its own: it may be written to


def test_what_is_replicated_comes_back_and_is_nobodys_memory() -> None:
    tree = {"float": np.arange(6, dtype=np.float32).reshape(2, 3), "int": np.int32(4), "bool": np.array([True, False])}
    there = parallel.replicate(tree, jax.devices()[:2])
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(there))
    tree["float"][:] = -1
    back = parallel.unreplicate(there)
    np.testing.assert_array_equal(back["float"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert back["int"] == 4 and back["bool"].tolist() == [True, False] and back["bool"].dtype == bool
    back["float"][:] = 0  # an array of its own: it may be written to


@pytest.mark.parametrize(
    ("size", "devices", "named"), [(33, 2, "32 or 34"), (1, 2, "e.g. 2"), (65, 8, "64 or 72"), (5, 4, "4 or 8")]
)
def test_a_batch_that_does_not_divide_names_the_next_sizes(size: int, devices: int, named: str) -> None:
    with pytest.raises(UserError) as caught:
        parallel.check_batch("train.batch_size", size, devices)
    message = str(caught.value)
    assert message.startswith(f"train.batch_size = {size}; allowed on {devices} devices") and message.endswith(named)
    for fitting in named.removeprefix("e.g. ").split(" or "):
        parallel.check_batch("train.batch_size", int(fitting), devices)


@pytest.mark.parametrize(
    ("parts", "named"), [(3, "e.g. 2 or 4"), (25, "e.g. 16 or 32"), (64, "e.g. 32"), (31, "e.g. 16 or 32")]
)
def test_parts_that_do_not_divide_a_batch_name_the_next_numbers(parts: int, named: str) -> None:
    with pytest.raises(UserError) as caught:
        parallel.check_parts("train.accumulate", parts, 32)
    message = str(caught.value)
    assert message == f"train.accumulate = {parts}; allowed: a divisor of 32, the batch of each device, {named}"
    for fitting in named.removeprefix("e.g. ").split(" or "):
        parallel.check_parts("train.accumulate", int(fitting), 32)


@pytest.mark.parametrize(
    ("number", "most", "expected"), [(14, 1, 1), (14, 5, 2), (14, 100, 14), (7, 3, 1), (600, 50, 50)]
)
def test_the_largest_divisor_is_at_most_what_is_asked_for(number: int, most: int, expected: int) -> None:
    assert parallel.largest_divisor(number, most) == expected


def test_devices_that_do_not_come_out_even_are_left_idle() -> None:
    s = devices.setting(2, seeds=2, axis="seeds")
    assert [len(s.of(own).devices) for own in ((3,), (3, 5), (3, 5, 7), (3, 5, 7, 9))] == [1, 2, 1, 2]
    assert [s.of(own).layout.sharing for own in ((3,), (3, 5))] == [1, 1]
    assert [len(devices.setting(2, seeds=2).of(own).devices) for own in ((3,), (3, 5))] == [2, 2]


def test_streamed_batches_are_not_spread() -> None:
    given = {"parallel": {"axis": "seeds"}, "data": {"streaming": True}, "network": {"auxiliary": False}, "seeds": 2}
    with pytest.raises(UserError) as caught:
        compose.setting(config.from_dict(given))
    message = "parallel.axis = 'seeds' with data.streaming = true; allowed: 'batch', or data in memory"
    assert one_line(caught).startswith(message)


SMALL = {"space": {"cells": 1, "channels": 2, "nodes": 1}, "network": {"auxiliary": False}, "controls": ()}


@pytest.mark.parametrize("table", ["method", "train"])
def test_a_run_refuses_parts_that_the_batch_of_one_device_does_not_have(table: str) -> None:
    part = {"batch_size": 24, "accumulate": 8}
    data = {**SMALL, table: part, "runtime": {"devices": 1}}
    assert getattr(compose.setting(config.from_dict(data)).config, table).fields.accumulate == 8
    with pytest.raises(UserError, match=f"{table}.accumulate = 8; allowed: a divisor of 12, .* 6 or 12"):
        compose.setting(config.from_dict({**data, "runtime": {"devices": 2}}))


def test_more_devices_than_there_are_is_an_error() -> None:
    here = len(jax.local_devices())
    assert parallel.all_devices(0) == jax.local_devices() and len(parallel.all_devices(1)) == 1
    with pytest.raises(UserError, match=rf"runtime.devices = {here + 1}; allowed: 0 \(all\) to {here}"):
        parallel.all_devices(here + 1)


@pytest.mark.parametrize("table", ["method", "train"])
def test_a_run_refuses_a_batch_that_its_devices_cannot_share(table: str) -> None:
    given = {**SMALL, table: {"batch_size": 33}, "runtime": {"devices": 2}}
    with pytest.raises(UserError, match=rf"{table}.batch_size = 33; .* 32 or 34"):
        compose.setting(config.from_dict(given))
