"""One of several operations, where which one is data of the program."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax


def chosen(branches: Sequence[Callable[..., Any]], index: Any, x: jax.Array, weights: Any) -> Any:
    """`branches[index](x, weights)`, and nothing of the others. An integer that is no array is a program of its own;
    under `vmap` over the index all branches are computed.

    Branches close over no traced value. Derivatives are reverse ones only.
    """
    if isinstance(index, int):
        return branches[index](x, weights)
    return _switched(tuple(branches), index, x, weights)


# The way back is a switch too, whose branches work out themselves what they need beside x: what a switch hands on for
# the way back is what all of its branches would, with zeros from those that were not taken.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _switched(branches: tuple[Callable[..., Any], ...], index: Any, x: jax.Array, weights: Any) -> Any:
    return jax.lax.switch(index, branches, x, weights)


def _forward(branches: tuple[Callable[..., Any], ...], index: Any, x: jax.Array, weights: Any) -> Any:
    return _switched(branches, index, x, weights), (index, x, weights)


def _backward(branches: tuple[Callable[..., Any], ...], residuals: Any, cotangent: Any) -> Any:
    def back(branch: Callable[..., Any], x: jax.Array, weights: Any, cotangent: Any) -> Any:
        return jax.vjp(branch, x, weights)[1](cotangent)

    index, x, weights = residuals
    return None, *jax.lax.switch(index, [functools.partial(back, one) for one in branches], x, weights, cotangent)


_switched.defvjp(_forward, _backward)
