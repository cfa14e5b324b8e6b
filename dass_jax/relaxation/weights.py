"""From architecture parameters to edge weights, outside any network: a space's `apply` receives the result.

Source: DARTS (arXiv 1806.09055) Eq. 2, DASS (arXiv 2207.06968) Eq. 1.
"""

from typing import Any

import jax
import jax.numpy as jnp


def init(key: jax.Array, shapes: dict[str, tuple[int, int]], scale: float = 1e-3) -> dict[str, jax.Array]:
    """α for each cell type, float32 [edges, operations], drawn from scale · N(0, 1)."""
    keys = jax.random.split(key, len(shapes))
    return {name: scale * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def softmax(alpha: Any) -> Any:
    """Edge weights exp(α_o) / Σ_o' exp(α_o') over the operations (last axis) of every leaf."""
    return jax.tree.map(lambda a: jax.nn.softmax(a, axis=-1), alpha)


def entropy(edge_weights: Any) -> jax.Array:
    """Mean Shannon entropy of an edge's operations, in nats, over all edges of all leaves."""
    leaves = [-(jax.scipy.special.xlogy(w, w)).sum(-1) for w in jax.tree.leaves(edge_weights)]
    return jnp.concatenate(leaves).mean()
