"""The un-split search: which level moves when, and on which batch."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from dass_jax import bilevel
from dass_jax.methods import dass
from dass_jax.variables import ALPHA, PARAMS, SCORES


def product(v: Any, batch: jax.Array, key: jax.Array) -> Any:
    """The derivative by each collection is the product of the other two and of the batch."""
    return v[ALPHA] * v[PARAMS] * v[SCORES] * batch, ({}, {})


@pytest.mark.parametrize("order", ["upper_first", "lower_first"])
def test_each_level_sees_its_batch_and_what_those_before_it_have_done(order: str) -> None:
    rates = (bilevel.with_rate(bilevel.scale_by_given_learning_rate(), index) for index in (0, 1))
    search = dass.unsplit(product, optax.sgd(1.0), *rates, bilevel.first_order(), order, bilevel.levels.same)
    alpha, theta, scores, validation, training = 1.5, 0.5, 2.0, 3.0, 0.25
    state = search.init({ALPHA: jnp.float32(alpha), PARAMS: jnp.float32(theta), SCORES: jnp.float32(scores)})
    batches = jnp.float32(validation), jnp.float32(training)
    state, info = search.update(state, batches, jax.random.key(0), learning_rate=jnp.array([2.0, 4.0]))

    if order == "upper_first":
        alpha -= theta * scores * validation
    theta -= 2 * alpha * scores * training
    scores -= 4 * alpha * theta * training
    if order == "lower_first":
        alpha -= theta * scores * validation
    found = [float(state.variables[name]) for name in (ALPHA, PARAMS, SCORES)]
    assert found == pytest.approx([alpha, theta, scores])
    assert info._fields == ("upper", "lower", "scores")


def test_an_unknown_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="order = 'together'; allowed: 'upper_first', 'lower_first'"):
        dass.unsplit(product, optax.sgd(1.0), optax.sgd(1.0), optax.sgd(1.0), bilevel.first_order(), "together", float)
