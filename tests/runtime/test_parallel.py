"""Two devices give the result of one, for every stage of a run; the rest of the device code by its messages."""

import functools
from typing import Any

import chex
import jax
import numpy as np
import pytest
from dass_jax.runtime.stage import Stage

from dass_jax import compose, config_io
from dass_jax.architectures.darts import Genotype
from dass_jax.compose import Setting, programs
from dass_jax.errors import UserError
from dass_jax.runtime import parallel

GENOTYPE = Genotype(
    normal=((("skip_connect", 0), ("skip_connect", 1)),),
    reduce=((("dil_conv_3x3", 0), ("skip_connect", 1)),),
)
DROP_PATH = 0.4
"""One cell that reduces: both its edges can be dropped."""


def setting(devices: int, accumulate: int, limit: int = 64) -> Setting:
    """Random crops, mirrors, cutout and drop-path are on: they must not depend on the number of devices."""
    return compose.setting(
        config_io.from_dict(
            {
                "data": {"limit": limit, "crop_padding": 1, "flip": True, "cutout": 2},
                "search": {"cells": 1, "channels": 2, "nodes": 1, "batch_size": 16, "accumulate": accumulate},
                "sparsity": {"keep": 0.3},
                "network": {"cells": 1, "channels": 2, "auxiliary": False, "drop_path": 0.2},
                "train": {"batch_size": 32, "accumulate": accumulate},
                "runtime": {"devices": devices, "compilation_cache": ""},
            }
        )
    )


def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x), tree)


def epoch(s: Setting, stage: Stage, state: Any, steps: int | None = None) -> tuple[Any, Any]:
    """(state, infos) after so many steps of the stage's first epoch, or all, with the copy of each own device."""
    inputs = (stage.indices(0), compose.key(s, stage.name, 0), np.float32(0.05), np.float32(DROP_PATH))
    inputs = (*inputs, np.int32(0), np.int32(steps or len(inputs[0])), np.int32(0))
    arguments = parallel.replicate((state, compose.examples(s)[0]), s.devices)
    program = parallel.program(stage.epoch, s.devices, (*arguments, *inputs), donate=False)

    def copies(x: jax.Array) -> np.ndarray:
        return np.concatenate([np.asarray(shard.data) for shard in x.addressable_shards])

    return jax.tree.map(copies, program(*arguments, *inputs))


CHAINS = {
    "search": lambda s: compose.search_stages(s, "dass")[0],
    "training": lambda s: compose.training_stages(s, GENOTYPE)[0][:2],
}
STAGES = {
    "step1": ("search", 0, 1),
    "step2": ("search", 1, 1),
    "weights": ("training", 0, 1),
    "scores": ("training", 1, 1),
    "step1, accumulated": ("search", 0, 4),
}


@pytest.mark.parametrize(("chain", "number", "accumulate"), STAGES.values(), ids=STAGES)
def test_two_devices_give_the_result_of_one(
    chain: str, number: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "augment", functools.partial(programs.augment, dtype="float64"))
    # In 64-bit floats another order of additions costs some 1e-16 a step: far below 1e-9, and far below what other
    # random numbers would do. In 32 bits a score near the cut could change places with the next and hide an error.
    with jax.enable_x64(True):
        settings = {devices: setting(devices, accumulate) for devices in (1, 2)}
        stages = {devices: CHAINS[chain](s) for devices, s in settings.items()}
        # Both start from one state: a stage's start is compiled for one device and needs no comparison.
        state = double(stages[1][0].start(None))
        if number:
            state = double(stages[1][number].start(state))
        found = {devices: epoch(s, stages[devices][number], state) for devices, s in settings.items()}

    one, two = found[1], found[2]
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), two)
    first = jax.tree.map(lambda x: x[0], one)
    chex.assert_trees_all_equal_dtypes(first, jax.tree.map(lambda x: x[0], two))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-9, atol=1e-11), first, two)

    moved, other = first[0].variables, state.variables
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(other), strict=True))
    assert {x.dtype for x in jax.tree.leaves(moved)} == {np.dtype("float64")}


def test_each_device_takes_its_own_slice() -> None:
    devices = jax.devices()[:2]
    rows = np.arange(12, dtype=np.int32).reshape(3, 4)

    def function(state: Any, data: Any, rows: jax.Array) -> Any:
        last, first = parallel.own_slice(rows, 2), parallel.own_slice(rows[:2], 2, axis=0)
        return last, first, parallel.mean(last.astype("float32")), parallel.total(last)

    state = parallel.replicate(np.zeros(1), devices)
    last, first, mean, total = parallel.program(function, devices, (state, state, rows), donate=False)(
        state, state, rows
    )
    np.testing.assert_array_equal(last, np.stack([rows[:, :2], rows[:, 2:]]))
    np.testing.assert_array_equal(first, np.stack([rows[:1], rows[1:2]]))
    np.testing.assert_array_equal(mean, np.stack([(rows[:, :2] + rows[:, 2:]) / 2] * 2))
    np.testing.assert_array_equal(total, np.stack([rows[:, :2] + rows[:, 2:]] * 2))


def test_devices_that_share_the_seeds_hold_and_move_their_own() -> None:
    """Four seeds on two devices; [epochs, seeds] come in and go out with the seeds as second axis."""
    devices = jax.devices()[:2]
    states, data, rates = np.arange(12.0).reshape(4, 3), np.array([2.0, 5.0]), np.arange(8.0).reshape(2, 4)

    def function(state: jax.Array, data: jax.Array, rates: jax.Array, shared: Any) -> Any:
        chex.assert_shape((state, data, rates), [(3,), (2,), (2,)])
        return state * shared + data.sum(), rates + state[0]

    layout, given = parallel.of_seeds(devices), states.copy()
    arguments = layout.put(given), layout.put_everywhere(data), rates, np.float64(10)
    given[:] = -1  # it was copied
    whole = parallel.each_seed(function, devices, (0, None, 1, None), (0, 1))
    moved, infos = layout.program(whole, arguments, True)(*arguments)
    assert [(shard.device, shard.data.shape) for shard in moved.addressable_shards] == [(d, (2, 3)) for d in devices]
    np.testing.assert_array_equal(layout.get(moved), states * 10 + 7)
    np.testing.assert_array_equal(layout.get(infos), rates + states[:, 0])
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


@pytest.mark.parametrize("name", ["search", "train"])
def test_a_run_refuses_parts_that_the_batch_of_one_device_does_not_have(name: str) -> None:
    part = {"batch_size": 24, "accumulate": 8}
    data = {"network": {"auxiliary": False}, name: part, "runtime": {"devices": 1}}
    assert getattr(compose.setting(config_io.from_dict(data)).config, name).accumulate == 8
    with pytest.raises(UserError, match=f"{name}.accumulate = 8; allowed: a divisor of 12, .* 6 or 12"):
        compose.setting(config_io.from_dict({**data, "runtime": {"devices": 2}}))


def test_more_devices_than_there_are_is_an_error() -> None:
    here = len(jax.local_devices())
    assert parallel.all_devices(0) == jax.local_devices() and len(parallel.all_devices(1)) == 1
    with pytest.raises(UserError, match=rf"runtime.devices = {here + 1}; allowed: 0 \(all\) to {here}"):
        parallel.all_devices(here + 1)


@pytest.mark.parametrize("name", ["search", "train"])
def test_a_run_refuses_a_batch_that_its_devices_cannot_share(name: str) -> None:
    config = config_io.from_dict({"network": {"auxiliary": False}, name: {"batch_size": 33}, "runtime": {"devices": 2}})
    with pytest.raises(UserError, match=rf"{name}.batch_size = 33; .* 32 or 34"):
        compose.setting(config)
