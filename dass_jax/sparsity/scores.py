"""Initial pruning scores. Source: DASS (arXiv 2207.06968) Eq. 3, with the constants of the authors' code:

    s = sqrt(6 / fan_in) · θ / max|θ|     per layer;  s = 0 where a layer's weights are all zero

so that the order of |s| is the order of |θ| and the scale is that of a freshly initialised layer.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.variables import fan_in


def init_scores(weights: Any, stacks: Any) -> Any:
    """Scores with the structure, shapes and dtypes of `weights` (prunable leaves, see `variables.select`)."""

    def leaf(weight: jax.Array, stack: int) -> jax.Array:
        largest = jnp.max(jnp.abs(weight), axis=tuple(range(stack, weight.ndim)), keepdims=True)
        scale = (6.0 / fan_in(weight.shape, stack)) ** 0.5
        return scale * weight / jnp.where(largest > 0, largest, 1)

    return jax.tree.map(leaf, weights, stacks)
