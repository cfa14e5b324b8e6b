"""The un-split search: which level moves when, and on which batch."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from dass_jax.methods import dass, dass_joint
from dass_jax.variables import ALPHA, PARAMS, SCORES
from tests import supernets


def product(v: Any, batch: jax.Array, key: jax.Array) -> Any:
    """The derivative by each collection is the product of the other two and of the batch."""
    return v[ALPHA] * v[PARAMS] * v[SCORES] * batch, ({}, {})


@pytest.mark.parametrize("order", ["upper_first", "lower_first"])
def test_each_level_sees_its_batch_and_what_those_before_it_have_done(order: str) -> None:
    # Without momentum and decay θ and s take plain gradient steps, and Adam's first one is its rate, down the slope.
    still = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9, "alpha_weight_decay": 0.0}
    c = dass_joint.Fields(order=order, **still)
    search = dass.in_three_turns(product, c, supernets.problem(None, 2, (1, 1, 1)))
    alpha, theta, scores, validation, training = 1.5, 0.5, 2.0, 3.0, 0.25
    rates = {"upper": 0.1, "lower": 2.0, "scores": 4.0}
    state = search.init({ALPHA: jnp.float32(alpha), PARAMS: jnp.float32(theta), SCORES: jnp.float32(scores)})
    batches = {"upper": jnp.float32(validation), "lower": jnp.float32(training)}
    given = {name: jnp.float32(rate) for name, rate in rates.items()}
    state, info = search.update(state, batches, jax.random.key(0), learning_rate=given)

    wanted = {}
    if order == "upper_first":
        wanted["upper"] = theta * scores * validation
        alpha -= 0.1
    wanted["lower"] = alpha * scores * training
    theta -= 2 * wanted["lower"]
    wanted["scores"] = alpha * theta * training
    scores -= 4 * wanted["scores"]
    if order == "lower_first":
        wanted["upper"] = theta * scores * validation
        alpha -= 0.1 * (1 if wanted["upper"] > 0 else -1)
    found = [float(state.variables[name]) for name in (ALPHA, PARAMS, SCORES)]
    assert found == pytest.approx([alpha, theta, scores], rel=1e-5)
    assert {name: float(one.gradient_norm) for name, one in info.items()} == pytest.approx(
        {name: abs(slope) for name, slope in wanted.items()}, rel=1e-5
    )
