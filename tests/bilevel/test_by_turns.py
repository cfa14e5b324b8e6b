"""Algorithms that take turns, and the transforms that leave parts of leaves at rest or divide as TensorFlow does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel
from dass_jax.bilevel.by_turns import TURN
from dass_jax.runtime import soundness
from dass_jax.variables import RATES

RATE = jnp.float32(0.5)


def level(collection: str, other: str) -> bilevel.Level:
    def loss(v: Any, batch: jax.Array, key: Any) -> Any:
        value = ((v[collection] - v[other] * batch) ** 2).sum()
        return value, ({"distance": jnp.abs(v[collection]).sum()}, {"seen": v["seen"] + 1})

    return bilevel.Level(collection, loss, bilevel.with_rate(bilevel.sgd(0.9, 0.0, 100.0), collection))


ONE, OTHER = bilevel.descend(level("one", "other")), bilevel.descend(level("other", "one"))
BATCHES = {"first": jnp.float32(0.3), "second": jnp.float32(0.7)}


def begin(turn: float) -> dict[str, Any]:
    v = {"one": jnp.arange(3.0), "other": jnp.ones(3), "seen": jnp.float32(0), "still": jnp.ones(2)}
    return {**v, RATES: {TURN: jnp.float32(turn)}}


@pytest.mark.parametrize(("turn", "name", "alone", "batch"), [(0, "one", ONE, "first"), (1, "other", OTHER, "second")])
def test_a_step_is_that_of_the_algorithm_whose_turn_it_is(turn: int, name: str, alone: Any, batch: str) -> None:
    both, learning = bilevel.by_turns({"first": ONE, "second": OTHER}), {"learning_rate": {"one": RATE, "other": RATE}}
    state, key = both.init(begin(turn)), jax.random.key(0)
    assert state.optimizers.keys() == {"one", "other"}
    found, infos = jax.jit(both.update)(state, BATCHES, key, **learning)
    wanted, info = jax.jit(alone.update)(alone.init(begin(turn)), BATCHES[batch], key, **learning)
    jax.tree.map(np.testing.assert_array_equal, found.variables, wanted.variables)
    jax.tree.map(np.testing.assert_array_equal, found.optimizers[name], wanted.optimizers[name])
    rest = {"one": "other", "other": "one"}[name]
    jax.tree.map(np.testing.assert_array_equal, found.optimizers[rest], state.optimizers[rest])
    assert [int(infos[level].taken) for level in ("first", "second")] == [1 - turn, turn]
    np.testing.assert_array_equal(infos[batch].loss, info[name].loss)
    eager, _ = both.update(state, BATCHES, key, **learning)
    assert eager.variables["still"] is state.variables["still"]


def test_averages_are_of_the_steps_that_were_taken() -> None:
    def info(values: list[float], taken: list[int]) -> bilevel.Info:
        return bilevel.Info(
            np.array([values]), {"x": np.array([values])}, np.array([values]), taken=np.array([taken], np.int32)
        )

    infos = {"a": info([1, 3, 0, 0], [1, 1, 0, 0]), "b": info([0, 0, 5, np.nan], [0, 0, 1, 1])}
    [found] = soundness.means(infos)
    assert (found["a_loss"], found["a_x"], found["b_loss"], found["skipped_steps"]) == (2, 2, 5, 1)


def test_parts_that_do_not_move_keep_their_bits_and_their_momenta() -> None:
    transform = bilevel.sgd_of_parts(0.9, 0.1)
    params = {"rows": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3))), "whole": jnp.asarray([-0.0, 2.0])}
    moving = {"rows": jnp.array([True, False, True, False]), "whole": jnp.asarray(False)}
    everything = jax.tree.map(lambda x: jnp.asarray(True), params)
    gradient = jax.tree.map(jnp.ones_like, params)
    state, reference = transform.init(params), jax.tree.map(np.zeros_like, params)
    for parts in (everything, moving, moving, everything):
        step, after = transform.update(gradient, state, params, learning_rate=RATE, moving=parts)
        moved = optax.apply_updates(params, step)
        for name, leaf in params.items():
            there = np.broadcast_to(
                np.reshape(parts[name], (-1, *[1] * (leaf.ndim - 1))) if leaf.ndim > 1 else parts[name], leaf.shape
            )
            full = 1 + 2 * 0.1 * np.asarray(leaf)
            memory = np.where(there, full + 0.9 * reference[name], reference[name])
            wanted = np.where(there, leaf - 0.5 * (full + 0.9 * memory), leaf)
            np.testing.assert_allclose(moved[name], wanted, rtol=1e-6)
            np.testing.assert_allclose(after[name], memory, rtol=1e-6)
            assert np.asarray(moved[name])[~there].tobytes() == np.asarray(leaf)[~there].tobytes()
            reference[name] = memory
        params, state = moved, after


def test_gradients_are_clipped_before_weights_decay() -> None:
    params, gradient = {"a": jnp.array([3.0]), "b": jnp.array([1.0])}, {"a": jnp.array([6.0]), "b": jnp.array([8.0])}
    moving = {"a": jnp.asarray(True), "b": jnp.asarray(True)}
    for clip, shrunk in ((0.0, 1.0), (20.0, 1.0), (5.0, 0.5)):
        transform = bilevel.sgd_of_parts(0.0, 0.1, clip)
        step, _ = transform.update(
            gradient, transform.init(params), params, learning_rate=jnp.float32(1), moving=moving
        )
        np.testing.assert_allclose([step["a"][0], step["b"][0]], [-6 * shrunk - 0.6, -8 * shrunk - 0.2], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_adam_is_tensorflows_whose_first_steps_are_smaller() -> None:
    lr, b2, eps, w, mean, square = 0.1, 0.999, 1e-3, np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for b1 in (0.0, 0.5):
        transform = bilevel.adam_of_tensorflow(b1, b2, eps)
        params, state = jnp.asarray(w), transform.init(jnp.asarray(w))
        mean, square = np.zeros(2), np.zeros(2)
        for t in range(1, 6):
            g = np.array([1e-3, 0.3 * t])
            step, state = transform.update(jnp.asarray(g), state, params, learning_rate=jnp.asarray(lr))
            mean, square = b1 * mean + (1 - b1) * g, b2 * square + (1 - b2) * g * g
            wanted = -lr * np.sqrt(1 - b2**t) / (1 - b1**t) * mean / (np.sqrt(square) + eps)
            np.testing.assert_allclose(step, wanted, rtol=1e-12)
    small = jnp.asarray([1e-3])
    ours = bilevel.adam_of_tensorflow(0.0, b2, eps)
    first = ours.update(small, ours.init(small), small, learning_rate=jnp.asarray(1.0))[0]
    optaxs = optax.adam(1.0, 0.0, b2, eps)
    ratio = float((optaxs.update(small, optaxs.init(small), small)[0] / first)[0])
    np.testing.assert_allclose(ratio, (1e-3 + np.sqrt(1 - b2) * 1e-3) / 2e-3 / np.sqrt(1 - b2), rtol=1e-6)
    assert 16 < ratio < 17
