"""Initial values of a network. Its modules declare shapes; one random draw fills all weights.

One generator per leaf, as Linen's initialisers would have it, takes half a minute to compile for a small supernet.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables


class Scheme(NamedTuple):
    """How the weights of layers are drawn."""

    draw: Callable[[jax.Array, tuple[int]], jax.Array]
    """(key, shape) → numbers."""
    scale: Callable[[str, tuple[int, ...]], float]
    """(path, shape of the layer) → what they are multiplied by."""


def _by_outputs(path: str, layer: tuple[int, ...]) -> float:
    window = math.prod(layer[-2:]) if len(layer) > 2 else 1
    return 0.01 if "/linear/" in path else math.sqrt(2 / (layer[0] * window))


UNIFORM = Scheme(
    lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0),
    lambda _, layer: variables.fan_in(layer) ** -0.5,
)
"""U(−b, b) with b = 1/√fan_in, the default of the framework that DARTS and DASS were written in."""
NORMAL = Scheme(jax.random.normal, _by_outputs)
"""N(0, 2/(O·k²)) for O channels out, of depthwise convolutions too; linear layers N(0, 0.01²). DSO-NAS' code."""
HE_NORMAL = Scheme(jax.random.normal, lambda _, layer: (2 / variables.fan_in(layer)) ** 0.5)
"""N(0, 2/fan_in). Source: arXiv 1502.01852."""


def initialise(key: jax.Array, shapes: Any, rules: variables.Rules, scheme: Scheme = UNIFORM) -> variables.Variables:
    """Values for the collections "params" and "batch_stats".

    Prunable weights: as the scheme says. BN scales and running variances: 1. Biases and running means: 0.

    Args:
      shapes: the collections as `jax.ShapeDtypeStruct`s, from `jax.eval_shape(module.init, …)`; a network without BN
        has no "batch_stats".
      rules: which leaves are prunable (`variables.prunable`).
    """
    params = shapes[variables.PARAMS]
    prunable = variables.prunable(params, rules)
    stacks, weights = variables.flatten(prunable), variables.flatten(variables.select(params, prunable))
    ends = np.cumsum([leaf.size for leaf in weights.values()])
    draws = jnp.split(scheme.draw(key, (int(ends[-1]),)), ends[:-1])
    drawn = {
        path: (draw * scheme.scale(path, leaf.shape[stacks[path] :])).reshape(leaf.shape).astype(leaf.dtype)
        for (path, leaf), draw in zip(weights.items(), draws, strict=True)
    }

    def constant(path: str, leaf: Any) -> jax.Array:
        return (jnp.ones if path.rsplit("/", 1)[-1] in ("scale", "var") else jnp.zeros)(leaf.shape, leaf.dtype)

    def fill(collection: Any) -> Any:
        leaves = variables.flatten(collection)
        return variables.unflatten({path: constant(path, leaf) for path, leaf in leaves.items()})

    filled = {name: fill(shapes.get(name, {})) for name in (variables.PARAMS, variables.BATCH_STATS)}
    filled[variables.PARAMS] = variables.merge(filled[variables.PARAMS], variables.unflatten(drawn))
    return filled
