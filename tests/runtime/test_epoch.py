"""Epochs as one program: which images, which rates, the same numbers as a plain loop of steps; and parts of them."""

import collections
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax.bilevel import State, transforms
from dass_jax.runtime import epoch, parallel
from dass_jax.runtime.epoch import Examples

ONE = jax.devices()[:1]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_a_shuffled_epoch_takes_each_image_at_most_once_and_whole_batches_only(
    size: int, batch: int, seed: int
) -> None:
    rows = np.arange(1000, 1000 + 3 * size, 3)
    found = epoch.shuffled(rows, batch, (seed, 1))
    assert found.shape == (size // batch, batch) and found.dtype == np.int32
    assert len(set(found.ravel())) == found.size and set(found.ravel()) <= set(rows)


def test_the_seed_alone_decides_the_order() -> None:
    rows = np.arange(64)
    first = epoch.shuffled(rows, 8, (3, 5, 7))
    np.testing.assert_array_equal(first, epoch.shuffled(rows, 8, (3, 5, 7)))
    for other in ((4, 5, 7), (3, 6, 7), (3, 5, 8)):
        assert (first != epoch.shuffled(rows, 8, other)).any(), other
    np.testing.assert_array_equal(rows, np.arange(64))


def test_what_one_epoch_leaves_out_another_takes() -> None:
    epochs = [set(epoch.shuffled(np.arange(10), 4, (0, number)).ravel()) for number in range(20)]
    assert all(len(seen) == 8 for seen in epochs) and set.union(*epochs) == set(range(10))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40))
def test_in_order_counts_every_image_once(size: int, batch: int) -> None:
    rows, counted = epoch.in_order(size, batch)
    assert rows.shape == counted.shape == (-(-size // batch), batch)
    assert (rows.dtype, counted.dtype) == (np.int32, np.float32) and set(np.unique(counted)) <= {0.0, 1.0}
    np.testing.assert_array_equal(rows.ravel()[counted.ravel() == 1], np.arange(size))
    assert rows.max() < size


def update(state: State, batches: Any, key: jax.Array, *, learning_rate: Any) -> Any:
    """A step with a bit of everything, for each level in turn: data, state, noise from the key, rates."""
    seen = {}
    for level, (x, y) in batches.items():
        w, optimizer, rates = state.variables["w"], state.optimizers, state.variables["rates"]
        residual = x @ w - y + rates["shift"]
        optimizer = {"steps": optimizer["steps"] + 1, "momentum": 0.9 * optimizer["momentum"] + x.T @ residual}
        noise = jax.random.normal(key, w.shape)
        moved = w - learning_rate[level] * (optimizer["momentum"] + noise)
        state = State({**state.variables, "w": moved}, optimizer)
        seen[level] = {"loss": (residual**2).mean(), "key": noise.sum()}
    return state, seen


def prepare(data: Examples, rows: jax.Array, key: jax.Array, rates: Any) -> Any:
    return data.images[rows] + jax.random.uniform(key), data.targets[rows] + rates["shift"]


def problem(levels: tuple[str, ...] = ("low",), batches: int = 1) -> tuple[Any, ...]:
    """(state, data, {level: rows [5, 4] or [5, batches, 4]}, key, rates [5])."""
    rng = np.random.default_rng(0)
    data = Examples(jnp.asarray(rng.normal(size=(12, 3)), "float32"), jnp.asarray(rng.normal(size=12), "float32"))
    state = State({"w": jnp.ones(3)}, {"steps": jnp.int32(0), "momentum": jnp.zeros(3)})
    shape = (5, 4) if batches == 1 else (5, batches, 4)
    rows = {level: rng.integers(0, 12, shape).astype(np.int32) for level in levels}
    rates = {
        "learning_rate": {level: jnp.linspace(0.01, 0.03, 5) for level in levels},
        "shift": jnp.linspace(0.25, 0.5, 5),
    }
    return state, data, rows, jax.random.key(3), rates


WHOLE = np.int32(0), np.int32(5)


def run_of(levels: tuple[str, ...] = ("low",), skip: bool = False, step: Any = update) -> Any:
    return jax.jit(epoch.epoch(step, dict.fromkeys(levels, prepare), skip))


@pytest.mark.parametrize("levels", [("low",), ("high", "low")])
def test_an_epoch_is_a_loop_of_its_steps(levels: tuple[str, ...]) -> None:
    state, data, rows, key, rates = problem(levels)
    found, infos = run_of(levels)(state, data, rows, key, rates, *WHOLE)
    expected, seen = state, []
    for number in range(5):
        draw, inner = jax.random.split(jax.random.fold_in(key, number))
        draws = [draw] if len(levels) == 1 else jax.random.split(draw, len(levels))
        now = jax.tree.map(lambda rate, n=number: rate[n], rates)
        batches = {
            level: prepare(data, rows[level][number], own, now) for level, own in zip(levels, draws, strict=True)
        }
        given = expected._replace(variables={**expected.variables, "rates": now})
        expected, observed = update(given, batches, inner, learning_rate=now["learning_rate"])
        seen.append(observed)
    del expected.variables["rates"]
    assert found.optimizers["steps"] == 5 * len(levels) and set(found.variables) == {"w"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    stacked = jax.tree.map(lambda *steps: np.stack(steps), *seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), infos, stacked)


def test_a_level_of_several_steps_sees_several_batches_and_one_without_images_none() -> None:
    def step(state: State, batches: Any, key: jax.Array, **_: Any) -> Any:
        assert batches["none"] is None
        images, targets = batches["low"]
        return state, {"low": {"images": images.sum((1, 2)), "targets": targets}}

    state, data, rows, key, rates = problem(batches=2)
    run = jax.jit(epoch.epoch(step, {"low": prepare, "none": None}))
    _, infos = run(state, data, rows, key, rates, *WHOLE)
    draw = jax.random.split(jax.random.split(jax.random.fold_in(key, 1))[0])[0]
    now = jax.tree.map(lambda rate: rate[1], rates)
    for number, own in enumerate(jax.random.split(draw)):
        images, targets = prepare(data, rows["low"][1, number], own, now)
        np.testing.assert_allclose(infos["low"]["images"][1, number], images.sum(), rtol=1e-5)
        np.testing.assert_allclose(infos["low"]["targets"][1, number], targets, rtol=1e-6)


def test_a_part_of_an_epoch_draws_as_the_whole_does() -> None:
    state, data, rows, key, rates = problem()
    _, whole = run_of()(state, data, rows, key, rates, *WHOLE)
    part = jax.tree.map(lambda x: x[2:4], (rows, rates))
    _, found = run_of()(state, data, part[0], key, part[1], np.int32(0), np.int32(2), np.int32(2))
    np.testing.assert_array_equal(found["low"]["key"], whole["low"]["key"][2:4])


def test_an_epoch_makes_no_call_for_each_leaf() -> None:
    """With `compilation.copy_calls_late` it would be a kernel of its own behind every leaf's update."""
    transform = transforms.sgd(momentum=0.9, weight_decay=1e-3, clip=5.0)
    leaves = {str(number): jnp.ones(3) for number in range(12)}

    def step(state: State, batches: Any, key: jax.Array, *, learning_rate: Any) -> Any:
        w, rate = state.variables["w"], {"learning_rate": learning_rate["low"]}
        moves, optimizers = transform.update(w, state.optimizers, w, **rate)
        moved = {**state.variables, "w": optax.apply_updates(w, moves)}
        return State(moved, optimizers), {"low": {"loss": batches["low"][0].mean()}}

    _, *inputs = problem()
    state = State({"w": leaves}, transform.init(leaves))
    text = run_of(step=step).lower(state, *inputs, *WHOLE).as_text()
    calls = collections.Counter(re.findall(r"call @([\w.]+)", text))
    assert calls and max(calls.values()) < len(leaves), calls


@pytest.mark.parametrize("cuts", [(0, 1, 5), (0, 2, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5)])
def test_an_epoch_in_parts_is_the_whole_one_bit_for_bit(cuts: tuple[int, ...]) -> None:
    run, (state, *inputs) = run_of(), problem()
    whole, seen = run(state, *inputs, *WHOLE)
    sums = jax.tree.map(jnp.zeros_like, seen)
    for first, last in itertools.pairwise(cuts):
        state, part = run(state, *inputs, np.int32(first), np.int32(last))
        assert not any(np.asarray(x)[:first].any() or np.asarray(x)[last:].any() for x in jax.tree.leaves(part))
        sums = jax.tree.map(jnp.add, sums, part)
    jax.tree.map(np.testing.assert_array_equal, (state, sums), (whole, seen))


@pytest.mark.parametrize("skip", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(skip: bool) -> None:
    state, data, rows, *inputs = problem()
    bad = Examples(data.images, data.targets.at[11].set(jnp.inf))
    rows["low"][:], rows["low"][2, 1] = rows["low"] % 11, 11
    run = run_of(skip=skip)
    found, seen = run(state, bad, rows, *inputs, *WHOLE)
    assert np.isfinite(seen["low"]["loss"]).tolist() == [True, True, False, True, True]
    expected, _ = run(state, data, rows, *inputs, np.int32(0), np.int32(2))
    if skip:
        expected, _ = run(expected, data, rows, *inputs, np.int32(3), np.int32(5))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("batch", [4, 7, 10, 16])
def test_an_evaluation_counts_the_whole_split_and_nothing_twice(batch: int) -> None:
    size, classes = 10, 3
    rng = np.random.default_rng(batch)
    images = rng.normal(size=(size, 5)).astype(np.float32)
    targets = rng.integers(0, classes, size).astype(np.int32)
    weight = rng.normal(size=(5, classes)).astype(np.float32)

    def prepare(data: Examples, rows: jax.Array, counted: jax.Array) -> Any:
        return data.images[rows].T, data.targets[rows], counted

    def sums(outputs: jax.Array, targets: jax.Array, counted: jax.Array) -> Any:
        right = (outputs.argmax(-1) == targets) * counted
        return {"right": right.sum(), "seen": counted.sum(), "squares": (outputs**2 * counted[:, None]).sum()}

    evaluate = epoch.evaluation(lambda v, x: x.T @ v["weight"], sums, prepare)
    given = parallel.replicate(({"weight": weight}, Examples(images, targets)), ONE)
    arguments = (*given, *epoch.in_order(size, batch))
    steps = -(-size // batch)
    program = parallel.program(evaluate, ONE, (*arguments, np.int32(0), np.int32(0)), donate=False)
    parts = [parallel.unreplicate(program(*arguments, np.int32(n), np.int32(n + 1))) for n in range(steps)]
    whole = parallel.unreplicate(program(*arguments, np.int32(0), np.int32(steps)))
    jax.tree.map(lambda x, *own: np.testing.assert_array_equal(x, sum(own)), whole, *parts)
    found = jax.tree.map(np.sum, whole)
    outputs = (images @ weight).astype(np.float64)
    assert found["seen"] == size and found["right"] == (outputs.argmax(1) == targets).sum()
    np.testing.assert_allclose(found["squares"], (outputs**2).sum(), rtol=1e-5)


def test_one_program_serves_every_epoch() -> None:
    traces = []

    def counting(*arguments: Any, **extra: Any) -> Any:
        traces.append(1)
        return update(*arguments, **extra)

    (state, data, _, _, rates), run = problem(), run_of(step=counting)
    for number, factor in enumerate((0.1, 0.05, 0.0)):
        rows = {"low": epoch.shuffled(np.arange(12), 2, (0, number))[:5]}
        given = jax.tree.map(lambda rate, factor=factor: factor * rate, rates)
        state, info = run(state, data, rows, jax.random.key(number), given, *WHOLE)
    assert len(traces) == 1 and np.isfinite(optax.tree.norm(info))


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("batches", [1, 2])
def test_parts_name_the_images_of_the_epoch(devices: int, seeds: int, batches: int) -> None:
    """Every device finds, at the indices it is given, the images that the whole epoch names for it."""
    total, steps, batch = 6, 2, 8
    indices = np.random.default_rng(0).integers(0, 1000, (seeds, total, batches, batch))
    found = epoch.parted(indices.shape, steps, devices)
    assert found.places.shape == (total // steps, devices, seeds * steps * batches * batch // devices)
    np.testing.assert_array_equal(np.sort(found.places.ravel()), np.arange(indices.size))
    for part, places in enumerate(found.places):
        wanted = np.split(indices[:, part * steps : (part + 1) * steps], devices, -1)
        own = np.split(found.indices, devices, -1)
        for device in range(devices):
            there = indices.ravel()[places[device]]
            np.testing.assert_array_equal(there[own[device]], wanted[device])
