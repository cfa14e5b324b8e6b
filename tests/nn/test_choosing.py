"""One of several operations, chosen by data."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.nn import choosing

BRANCHES = [lambda x, w: w * x**2, lambda x, w: w**2 * x]
X, W, X_DOT, W_DOT = 3.0, 5.0, 0.5, -2.0


@pytest.mark.parametrize(
    ("index", "value", "gradient", "moved"),
    [
        (0, W * X**2, (2 * W * X, X**2), (2 * W * X_DOT + 2 * X * W_DOT, 2 * X * X_DOT)),
        (1, W**2 * X, (W**2, 2 * W * X), (2 * W * W_DOT, 2 * W * X_DOT + 2 * X * W_DOT)),
    ],
)
def test_value_and_derivatives_are_those_of_the_chosen_one(index: int, value: float, gradient: Any, moved: Any) -> None:
    """The second ones reverse over reverse, and forward over reverse as implicit hypergradients take them."""

    def slopes(x: jax.Array, w: jax.Array) -> Any:
        return jax.grad(lambda x, w: choosing.chosen(BRANCHES, jnp.asarray(index), x, w), (0, 1))(x, w)

    at, along = (jnp.asarray(X), jnp.asarray(W)), (jnp.asarray(X_DOT), jnp.asarray(W_DOT))
    found, pushed = jax.jvp(slopes, at, along)
    pulled = jax.grad(lambda *at: sum(map(jnp.multiply, slopes(*at), along)), (0, 1))(*at)
    np.testing.assert_allclose(choosing.chosen(BRANCHES, jnp.asarray(index), *at), value, rtol=1e-6)
    for one, expected in ((found, gradient), (pushed, moved), (pulled, moved)):
        chex.assert_trees_all_close(one, tuple(map(jnp.asarray, expected)), rtol=1e-6)
