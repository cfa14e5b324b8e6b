"""That calls share one computation in what is compiled, where the function says so, and only there."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax.nn.kernels.once import compiled_once


def called(function: Callable[..., Any], name: str) -> int:
    """How many calls of a computation of that name are left in the program of `function`."""
    x = jnp.ones((8, 8))
    text = jax.jit(lambda: function(function(x) + 1)).lower().compile().as_text()
    return len(re.findall(rf" call\(.*{name}", text))


def inner(x: jax.Array) -> jax.Array:
    return jnp.sin(x) @ x


def outer(x: jax.Array) -> jax.Array:
    return jax.jit(inner)(x) * 2


def test_calls_stay_and_what_they_call_is_inlined() -> None:
    assert called(compiled_once(outer), "outer") == 2
    assert called(compiled_once(outer), "inner") == 0


def test_jit_alone_inlines() -> None:
    assert called(jax.jit(outer), "outer") == 0


def test_it_computes_what_the_function_does_also_when_differentiated_and_mapped() -> None:
    x, once = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4))), compiled_once(outer)
    wanted, found = (jax.vmap(jax.value_and_grad(lambda a, f=f: f(a).sum()))(x) for f in (outer, once))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)


def test_static_arguments_are_static() -> None:
    times = compiled_once(lambda x, n: x if n == 0 else x * n, static_argnums=1)
    assert float(times(jnp.ones(()), 3)) == 3
