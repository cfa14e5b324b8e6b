"""Seeds in rounds: each ends where it ends alone, has seen what it sees alone, and all devices are at work."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.runtime import loop, parallel, rounds, seeds

EPOCHS, STEPS = 2, 5
EXAMPLES = np.arange(7.0)


def update(state: Any, batch: Any, key: Any, learning_rate: Any) -> Any:
    """Depends on everything that a step is given, and on the order of the steps; says which device took it."""
    moved = 0.5 * state + learning_rate * batch.sum() + jax.random.uniform(key)
    return moved, {"loss": moved.sum(), "device": 1 + parallel.index()}


def prepare(examples: Any, rows: jax.Array, draw: jax.Array, drop_path: jax.Array) -> jax.Array:
    return examples[rows] + jax.random.uniform(draw) + drop_path


def epochs(together: int) -> Any:
    return loop.several(seeds.over(loop.epoch(update, prepare), together, (0, None, 0, 0, *[None] * 5)))


def inputs(count: int) -> tuple[Any, ...]:
    """State [seeds, 3], then indices, keys and rates."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 7, (EPOCHS, count, STEPS, 4)).astype(np.int32)
    keys = jax.random.split(jax.random.key(1), (EPOCHS, count))
    return rng.normal(size=(count, 3)), indices, keys, np.array([0.1, 0.2]), np.array([0.0, 0.3])


def on(devices: int, function: Any, *arguments: Any) -> Any:
    """What the first of so many devices ends with; `vmap` stands in for them. All must end with the same."""
    arguments = jax.tree.map(jnp.asarray, arguments)
    everywhere = jax.jit(jax.vmap(lambda _: function(*arguments), axis_name=parallel.AXIS))(np.arange(devices))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, np.stack([x[0]] * devices)), everywhere)
    return jax.tree.map(lambda x: np.asarray(x[0]), everywhere)


@pytest.mark.parametrize(
    ("count", "devices", "first", "last"), [(3, 2, 0, 10), (4, 2, 3, 7), (5, 3, 0, 1), (5, 3, 3, 7), (6, 4, 0, 10)]
)
def test_each_seed_takes_the_steps_that_it_takes_alone(count: int, devices: int, first: int, last: int) -> None:
    state, *given = inputs(count)
    part = loop.bounds(first, last, EPOCHS, STEPS)
    function = rounds.over(epochs(rounds.at_once(count, devices)), count, devices, (None, 1, 1, None, None), 1)
    states, infos = on(devices, function, state, EXAMPLES, *given, *part)
    assert infos["loss"].shape == (EPOCHS, count, STEPS)
    for seed in range(count):
        indices, keys, *rates = given
        own = state[seed], EXAMPLES, indices[:, seed], keys[:, seed], *rates, *part
        alone, seen = on(1, epochs(1), *own)
        np.testing.assert_allclose(states[seed], alone, rtol=1e-12)
        np.testing.assert_allclose(infos["loss"][:, seed], seen["loss"], rtol=1e-12)
    assert ((infos["device"] > 0).sum((0, 2)) == last - first).all()


@pytest.mark.parametrize(("count", "devices"), [(5, 2), (6, 4), (7, 3), (8, 2)])
def test_all_devices_take_equally_many_steps(count: int, devices: int) -> None:
    state, *given = inputs(count)
    steps = 2 * devices
    function = rounds.over(epochs(rounds.at_once(count, devices)), count, devices, (None, 1, 1, None, None), 1)
    _, infos = on(devices, function, state, EXAMPLES, *given, *loop.bounds(1, 1 + steps, EPOCHS, STEPS))
    taken = np.bincount(infos["device"].ravel(), minlength=devices + 1)[1:]
    assert taken.tolist() == [count * steps / devices] * devices


def test_what_carries_no_state_is_shared_out_as_well() -> None:
    def sums(nothing: Any, own: jax.Array, shared: jax.Array, first: Any, last: Any) -> Any:
        numbers = jnp.arange(len(shared))
        return nothing, jnp.where((numbers >= first) & (numbers < last), own * shared, 0)

    function = rounds.over(sums, 3, 2, (0, None), infos_axis=0)
    own, shared = np.array([1.0, 2.0, 3.0]), np.arange(1.0, 7.0)
    _, found = on(2, function, (), own, shared, np.int32(1), np.int32(4))
    np.testing.assert_array_equal(found, own[:, None] * np.array([0, 2, 3, 4, 0, 0]))
