"""One of several operations, where which one is data of the program."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dass_jax.nn import kernels, layers

_MOMENTUM, _EPSILON = layers.BatchNorm.momentum, layers.BatchNorm.epsilon


def chosen(branches: Sequence[Callable[..., Any]], index: Any, x: jax.Array, weights: Any) -> Any:
    """`branches[index](x, weights)`, and nothing of the others. An integer that is no array is a program of its own;
    under `vmap` over the index all branches are computed.

    Branches close over no traced value. Derivatives of the value are reverse ones only; a gradient has both.
    """
    if isinstance(index, int):
        return branches[index](x, weights)
    return _switched(tuple(branches), index, x, weights)


# The way back is a switch too, whose branches work out themselves what they need beside x: what a switch hands on for
# the way back is what all of its branches would, with zeros from those that were not taken.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _switched(branches: tuple[Callable[..., Any], ...], index: Any, x: jax.Array, weights: Any) -> Any:
    return jax.lax.switch(index, branches, x, weights)


# Not by `_switched`, whose own way back would have no forward derivative.
def _forward(branches: tuple[Callable[..., Any], ...], index: Any, x: jax.Array, weights: Any) -> Any:
    return jax.lax.switch(index, branches, x, weights), (index, x, weights)


def _backward(branches: tuple[Callable[..., Any], ...], residuals: Any, cotangent: Any) -> Any:
    def back(branch: Callable[..., Any], x: jax.Array, weights: Any, cotangent: Any) -> Any:
        return jax.vjp(branch, x, weights)[1](cotangent)

    index, x, weights = residuals
    return None, *jax.lax.switch(index, [functools.partial(back, one) for one in branches], x, weights, cotangent)


_switched.defvjp(_forward, _backward)


def normalised_if(
    wanted: Any, y: jax.Array, affine: Any, running: Any, train: bool, average: layers.Average
) -> tuple[jax.Array, Any]:
    """Where `wanted`, an integer, is 1: what `layers.BatchNorm` makes of y [C, H, W, N], and the running averages after
    it. Where it is 0: both as they are.

    Args:
      affine: (scale, bias), each [C].
      running: (mean, variance), each [C].
    """

    def normalised(y: jax.Array, own: Any) -> Any:
        affine, (mean, var) = own
        if not train:
            inverse = kernels.inverse_deviation(var, _EPSILON)
            return kernels.scaled(y, *kernels.scale_and_shift(mean, inverse, affine)), (mean, var)
        found, now = kernels.normalised(y, affine, average, _EPSILON)
        moved = (_MOMENTUM * old + (1 - _MOMENTUM) * new for old, new in zip((mean, var), now, strict=True))
        return found, tuple(new.astype(old.dtype) for new, old in zip(moved, (mean, var), strict=True))

    return chosen([lambda y, own: (y, own[1]), normalised], wanted, y, (affine, running))


def parted(tree: Any) -> list[Any]:
    """Leaves [n, …] → n trees, one for each place of the first axis. A split's gradient is one concatenation, that of n
    slices n sums of whole leaves."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [[part[0] for part in jax.lax.split(leaf, [1] * len(leaf))] for leaf in leaves]
    return [jax.tree.unflatten(structure, own) for own in zip(*parts, strict=True)]
