"""Initial values of a network. Its modules declare shapes; one random draw fills all weights.

One generator per leaf, as Linen's initialisers would have it, takes half a minute to compile for a small supernet.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables


def initialise(key: jax.Array, shapes: Any, rules: variables.Rules, he_normal: bool = False) -> variables.Variables:
    """Values for the collections "params" and "batch_stats".

    Prunable weights: U(−b, b) with b = 1/√fan_in, the default of the framework that DARTS and DASS were written in, or
    normal with standard deviation √(2/fan_in). BN scales and running variances: 1. Biases and running means: 0.

    Args:
      shapes: the collections as `jax.ShapeDtypeStruct`s, from `jax.eval_shape(module.init, …)`; a network without BN
        has no "batch_stats".
      rules: which leaves are prunable (`variables.prunable`).
      he_normal: draw weights from the normal distribution (arXiv 1502.01852).
    """
    params = shapes[variables.PARAMS]
    prunable = variables.prunable(params, rules)
    stacks, weights = variables.flatten(prunable), variables.flatten(variables.select(params, prunable))
    ends = np.cumsum([leaf.size for leaf in weights.values()])
    size = (int(ends[-1]),)
    drawn_at_once = (
        jax.random.normal(key, size) * 2**0.5 if he_normal else jax.random.uniform(key, size, minval=-1.0, maxval=1.0)
    )
    draws = jnp.split(drawn_at_once, ends[:-1])
    drawn = {
        path: (draw * variables.fan_in(leaf.shape, stacks[path]) ** -0.5).reshape(leaf.shape).astype(leaf.dtype)
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
