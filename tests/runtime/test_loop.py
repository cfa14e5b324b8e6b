"""Epochs as one program: which images, which learning rate, and the same numbers as a plain loop of steps."""

import collections
import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax.bilevel import State, transforms
from dass_jax.runtime import loop, parallel

ONE = jax.devices()[:1]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_a_shuffled_epoch_takes_each_image_at_most_once_and_whole_batches_only(
    size: int, batch: int, seed: int
) -> None:
    rows = np.arange(1000, 1000 + 3 * size, 3)
    found = loop.shuffled(rows, batch, (seed, 1))
    assert found.shape == (size // batch, batch) and found.dtype == np.int32
    assert len(set(found.ravel())) == found.size and set(found.ravel()) <= set(rows)


def test_the_seed_alone_decides_the_order() -> None:
    rows = np.arange(64)
    first = loop.shuffled(rows, 8, (3, 5, 7))
    np.testing.assert_array_equal(first, loop.shuffled(rows, 8, (3, 5, 7)))
    for other in ((4, 5, 7), (3, 6, 7), (3, 5, 8)):
        assert (first != loop.shuffled(rows, 8, other)).any(), other
    np.testing.assert_array_equal(rows, np.arange(64))


def test_what_one_epoch_leaves_out_another_takes() -> None:
    epochs = [set(loop.shuffled(np.arange(10), 4, (0, epoch)).ravel()) for epoch in range(20)]
    assert all(len(seen) == 8 for seen in epochs) and set.union(*epochs) == set(range(10))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40))
def test_in_order_counts_every_image_once(size: int, batch: int) -> None:
    rows, counted = loop.in_order(size, batch)
    assert rows.shape == counted.shape == (-(-size // batch), batch)
    assert (rows.dtype, counted.dtype) == (np.int32, np.float32) and set(np.unique(counted)) <= {0.0, 1.0}
    np.testing.assert_array_equal(rows.ravel()[counted.ravel() == 1], np.arange(size))
    assert rows.max() < size


@pytest.mark.parametrize(("initial", "final", "epochs"), [(0.025, 0.001, 50), (0.1, 0.0, 2), (0.1, 0.2, 1)])
def test_the_cosine_starts_high_passes_the_middle_and_ends_low(initial: float, final: float, epochs: int) -> None:
    rate = loop.cosine(initial, final, epochs)
    assert rate(0) == pytest.approx(initial) and rate(epochs) == pytest.approx(final)
    if epochs % 2 == 0:
        assert rate(epochs // 2) == pytest.approx((initial + final) / 2)
    quarter = final + (initial - final) * (2 + np.sqrt(2)) / 4
    assert loop.cosine(initial, final, 4)(1) == pytest.approx(quarter)


class Seen(NamedTuple):
    loss: Any
    key: Any


def update(state: State, batch: Any, key: jax.Array, *, learning_rate: jax.Array) -> Any:
    """A step with a bit of everything: data, state, noise from the key, the rate."""
    x, y, drop_path = batch
    w, optimizer = state.variables["w"], state.optimizers
    residual = x @ w - y + drop_path
    optimizer = {"steps": optimizer["steps"] + 1, "momentum": 0.9 * optimizer["momentum"] + x.T @ residual}
    noise = jax.random.normal(key, w.shape)
    moved = State({"w": w - learning_rate * (optimizer["momentum"] + noise)}, optimizer)
    return moved, Seen((residual**2).mean(), noise.sum())


def prepare(data: loop.Examples, rows: jax.Array, key: jax.Array, drop_path: jax.Array) -> Any:
    return data.images[rows] + jax.random.uniform(key), data.labels[rows], drop_path


def bilevel_update(state: State, batches: Any, key: jax.Array, **extra: Any) -> Any:
    upper, lower = batches
    state, _ = update(state, upper, key, **extra)
    return update(state, lower, key, **extra)


@pytest.mark.parametrize("levels", [None, 2])
def test_an_epoch_is_a_loop_of_its_steps(levels: int | None) -> None:
    rng = np.random.default_rng(0)
    data = loop.Examples(jnp.asarray(rng.normal(size=(12, 3)), "float32"), jnp.asarray(rng.normal(size=12), "float32"))
    rows = rng.integers(0, 12, (5, 4) if levels is None else (5, levels, 4)).astype(np.int32)
    key, rate, drop_path = jax.random.key(3), jnp.float32(0.01), jnp.float32(0.25)
    state = State({"w": jnp.ones(3)}, {"steps": jnp.int32(0), "momentum": jnp.zeros(3)})
    step = update if levels is None else bilevel_update
    found, info = jax.jit(loop.epoch(step, prepare))(state, data, rows, key, rate, drop_path, np.int32(0), np.int32(5))

    expected, seen = state, []
    for number, row in enumerate(rows):
        draw, inner = jax.random.split(jax.random.fold_in(key, number))
        if levels is None:
            batch = prepare(data, row, draw, drop_path)
        else:
            batch = [prepare(data, r, k, drop_path) for r, k in zip(row, jax.random.split(draw, levels), strict=True)]
        expected, observed = step(expected, batch, inner, learning_rate=rate)
        seen.append(observed)
    assert found.optimizers["steps"] == 5 * (levels or 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    for name, value in info._asdict().items():
        np.testing.assert_allclose(value, [getattr(s, name) for s in seen], rtol=1e-5, atol=1e-6)


def regression() -> tuple[Any, ...]:
    """(state, data, rows [5, 4], key, rate, drop-path rate)."""
    rng = np.random.default_rng(0)
    data = loop.Examples(jnp.asarray(rng.normal(size=(12, 3)), "float32"), jnp.asarray(rng.normal(size=12), "float32"))
    state = State({"w": jnp.ones(3)}, {"steps": jnp.int32(0), "momentum": jnp.zeros(3)})
    rows = rng.integers(0, 12, (5, 4)).astype(np.int32)
    return state, data, rows, jax.random.key(3), jnp.float32(0.01), jnp.float32(0.25)


def test_an_epoch_makes_no_call_for_each_leaf() -> None:
    """With `compilation.copy_calls_late` it would be a kernel of its own behind every leaf's update."""
    transform = transforms.sgd(momentum=0.9, weight_decay=1e-3, clip=5.0)
    leaves = {str(number): jnp.ones(3) for number in range(12)}

    def step(state: State, batch: Any, key: jax.Array, *, learning_rate: jax.Array) -> Any:
        w, rate = state.variables, {"learning_rate": learning_rate}
        moves, optimizers = transform.update(w, state.optimizers, w, **rate)
        return State(optax.apply_updates(w, moves), optimizers), Seen(batch[0].mean(), jnp.zeros(()))

    _, *inputs = regression()
    state = State(leaves, transform.init(leaves))
    text = jax.jit(loop.epoch(step, prepare)).lower(state, *inputs, np.int32(0), np.int32(5)).as_text()
    calls = collections.Counter(re.findall(r"call @([\w.]+)", text))
    assert calls and max(calls.values()) < len(leaves), calls


@pytest.mark.parametrize("cuts", [(0, 1, 5), (0, 2, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5)])
def test_an_epoch_in_parts_is_the_whole_one_bit_for_bit(cuts: tuple[int, ...]) -> None:
    run, (state, *inputs) = jax.jit(loop.epoch(update, prepare)), regression()
    whole, seen = run(state, *inputs, np.int32(0), np.int32(5))
    sums = jax.tree.map(jnp.zeros_like, seen)
    for first, last in itertools.pairwise(cuts):
        state, part = run(state, *inputs, np.int32(first), np.int32(last))
        assert not any(np.asarray(x)[:first].any() or np.asarray(x)[last:].any() for x in part)
        sums = jax.tree.map(jnp.add, sums, part)
    jax.tree.map(np.testing.assert_array_equal, (state, sums), (whole, seen))


@pytest.mark.parametrize("skip", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(skip: bool) -> None:
    state, data, rows, *inputs = regression()
    bad = loop.Examples(data.images, data.labels.at[11].set(jnp.inf))
    rows[:], rows[2, 1] = rows % 11, 11
    run = jax.jit(loop.epoch(update, prepare, skip))
    found, seen = run(state, bad, rows, *inputs, np.int32(0), np.int32(5))
    assert np.isfinite(seen.loss).tolist() == [True, True, False, True, True]
    expected, _ = run(state, data, rows, *inputs, np.int32(0), np.int32(2))
    if skip:
        expected, _ = run(expected, data, rows, *inputs, np.int32(3), np.int32(5))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_after_an_epoch_that_is_not_finite_the_next_one_of_the_call_does_not_begin() -> None:
    state, data, rows, key, *rates = regression()
    bad = loop.Examples(data.images, data.labels.at[11].set(jnp.inf))
    rows[:], rows[4, 0] = rows % 11, 11
    pair = tuple(jnp.stack([x, x]) for x in (rows, key, *rates))
    arguments = (*pair, *loop.bounds(0, 10, 2, 5))
    for skip, steps in ((False, 4), (True, 8)):
        found, _ = jax.jit(loop.several(loop.epoch(update, prepare, skip), skip))(state, bad, *arguments)
        assert found.optimizers["steps"] == steps and np.isfinite(found.variables["w"]).all()


def test_the_steps_of_a_call_are_divided_over_its_epochs() -> None:
    assert [x.tolist() for x in loop.bounds(2, 9, 3, 4)] == [[2, 0, 0], [4, 4, 1]]
    assert [x.tolist() for x in loop.bounds(0, 12, 3, 4)] == [[0, 0, 0], [4, 4, 4]]


@pytest.mark.parametrize("batch", [4, 7, 10, 16])
def test_an_evaluation_counts_the_whole_split_and_nothing_twice(batch: int) -> None:
    size, classes = 10, 3
    rng = np.random.default_rng(batch)
    images = rng.normal(size=(size, 5)).astype(np.float32)
    labels = rng.integers(0, classes, size).astype(np.int32)
    weight = rng.normal(size=(5, classes)).astype(np.float32)

    def prepare(data: loop.Examples, rows: jax.Array, counted: jax.Array) -> Any:
        return data.images[rows].T, data.labels[rows], counted

    evaluate = loop.evaluation(lambda v, x: x.T @ v["weight"], prepare)
    arguments = (
        *parallel.replicate(({"weight": weight}, loop.Examples(images, labels)), ONE),
        *loop.in_order(size, batch),
    )
    steps = -(-size // batch)
    program = parallel.program(evaluate, ONE, (*arguments, np.int32(0), np.int32(0)), donate=False)
    parts = [parallel.unreplicate(program(*arguments, np.int32(n), np.int32(n + 1))) for n in range(steps)]
    whole = parallel.unreplicate(program(*arguments, np.int32(0), np.int32(steps)))
    jax.tree.map(lambda x, *own: np.testing.assert_array_equal(x, sum(own)), whole, *parts)
    sums = jax.tree.map(np.sum, whole)

    logits = (images @ weight).astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(size), labels]
    assert sums["images"] == size
    assert sums["correct"] == (logits.argmax(1) == labels).sum()
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)


def test_one_program_serves_every_epoch() -> None:
    traces = []

    def counting(*arguments: Any, **extra: Any) -> Any:
        traces.append(1)
        return update(*arguments, **extra)

    data = loop.Examples(jnp.ones((8, 3)), jnp.ones(8))
    state = State({"w": jnp.ones(3)}, {"steps": jnp.int32(0), "momentum": jnp.zeros(3)})
    run, all_of_it = jax.jit(loop.epoch(counting, prepare)), (np.int32(0), np.int32(2))
    for epoch, rate in enumerate((0.1, 0.05, 0.0)):
        rows = loop.shuffled(np.arange(8), 4, (0, epoch))
        state, info = run(state, data, rows, jax.random.key(epoch), np.float32(rate), np.float32(epoch), *all_of_it)
    assert len(traces) == 1 and np.isfinite(optax.tree.norm(info))


def test_several_epochs_in_one_call_are_the_same_as_one_after_another() -> None:
    def epoch(
        state: jax.Array, examples: None, indices: jax.Array, key: jax.Array, rate: jax.Array, drop: jax.Array, *_
    ):
        noise = jax.random.normal(key)
        return state * rate + indices.sum() + noise, {"seen": state + drop}

    keys = jax.random.split(jax.random.key(0), 3)
    indices, rates, drops = jnp.arange(6).reshape(3, 2), jnp.array([0.5, 0.25, 2.0]), jnp.array([0.0, 1.0, 2.0])
    state, infos = loop.several(epoch)(jnp.float32(1), None, indices, keys, rates, drops, *loop.bounds(0, 6, 3, 2))
    expected = jnp.float32(1)
    for number in range(3):
        expected, info = epoch(expected, None, indices[number], keys[number], rates[number], drops[number])
        np.testing.assert_allclose(infos["seen"][number], info["seen"], rtol=1e-6)
    np.testing.assert_allclose(state, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("number", "most", "expected"), [(14, 1, 1), (14, 5, 2), (14, 100, 14), (7, 3, 1), (600, 50, 50)]
)
def test_a_call_takes_a_number_of_epochs_that_divides_the_stage(number: int, most: int, expected: int) -> None:
    assert loop.largest_divisor(number, most) == expected
