"""What follows a level's step: seen by the other levels at once, done after each of several steps, and by `joint` too.

θ is projected onto vectors of norm at most 1, and how often that was done is counted in a collection of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax.bilevel import Level, State, alternate, descend, joint, unrolled

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)


def distance(v: Any, batch: Any, key: Any) -> Any:
    return ((v["params"] - batch - v["alpha"]) ** 2).sum() / 2, ({}, {})


def ball(state: State) -> State:
    v = state.variables
    theta = v["params"] / jnp.maximum(1, jnp.linalg.norm(v["params"]))
    memory = jax.tree.map(jnp.zeros_like, state.optimizers["params"])
    return state._replace(
        variables={**v, "params": theta, "projections": v["projections"] + 1},
        optimizers={**state.optimizers, "params": memory},
    )


def begin() -> Any:
    return {"params": jnp.array([0.3, 0.4]), "alpha": jnp.zeros(2), "projections": jnp.zeros((), int), "rest": KEY}


def levels(steps: int = 1, project: Any = ball) -> tuple[Level, Level]:
    lower = Level("params", distance, optax.sgd(0.5, 0.9), steps, project)
    return Level("alpha", distance, optax.sgd(0.1)), lower


def onto(x: np.ndarray) -> np.ndarray:
    return x / max(1, np.linalg.norm(x))


BATCH = np.array([3.0, 4.0])
FIRST = np.array([0.3, 0.4])


def test_the_upper_level_sees_what_was_projected_and_the_transforms_memory_is_the_projections() -> None:
    turns = alternate(*levels(), order="lower_first")
    state = turns.init(begin())
    v = state.variables
    state, info = turns.update(state, {"upper": -BATCH, "lower": BATCH}, KEY)
    theta = onto(FIRST - 0.5 * (FIRST - BATCH))
    np.testing.assert_allclose(state.variables["params"], theta, rtol=1e-14)
    np.testing.assert_allclose(info["upper"].loss, ((theta + BATCH) ** 2).sum() / 2, rtol=1e-14)
    np.testing.assert_allclose(state.variables["alpha"], 0.1 * (theta + BATCH), rtol=1e-14)
    assert not np.any(optax.tree.get(state.optimizers["params"], "trace"))
    assert state.variables["projections"] == 1 and state.variables["rest"] is v["rest"]


def test_several_steps_of_a_turn_are_projected_each() -> None:
    algorithm = descend(levels(3)[1])
    v = begin()
    batches = np.array([1.0, -2.0, 3.0])[:, None] * BATCH
    state, _ = jax.jit(algorithm.update)(algorithm.init(v), batches, KEY)
    theta = FIRST
    for batch in batches:
        theta = onto(theta - 0.5 * (theta - batch))
    np.testing.assert_allclose(state.variables["params"], theta, rtol=1e-14)
    assert state.variables["projections"] == 3
    kept = algorithm.update(algorithm.init(v), batches, KEY)[0].variables
    assert kept["alpha"] is v["alpha"] and kept["rest"] is v["rest"]


def test_a_joint_step_is_projected_once_both_have_moved() -> None:
    upper, lower = levels()
    algorithm = joint({"lower": lower, "upper": upper})
    state, _ = algorithm.update(algorithm.init(begin()), BATCH, KEY)
    np.testing.assert_allclose(state.variables["params"], onto(FIRST - 0.5 * (FIRST - BATCH)), rtol=1e-14)
    np.testing.assert_allclose(state.variables["alpha"], 0.1 * (FIRST - BATCH), rtol=1e-14)
    assert state.variables["projections"] == 1


def test_a_hypergradient_looks_ahead_without_it() -> None:
    found = []
    for project in (ball, None):
        turns = alternate(*levels(project=project), unrolled(1))
        found.append(turns.update(turns.init(begin()), {"upper": BATCH, "lower": BATCH}, KEY)[0].variables["alpha"])
    np.testing.assert_array_equal(*found)
