"""From architecture parameters to edge weights, outside any network: a space's `apply` receives the result.

Source: softmax: DARTS (arXiv 1806.09055) Eq. 2, DASS (arXiv 2207.06968) Eq. 1; sigmoid: Fair DARTS (arXiv
1911.12126); entmax: `entmax.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.relaxation.entmax import entmax


def init(key: jax.Array, shapes: dict[str, tuple[int, int]], scale: float = 1e-3) -> dict[str, jax.Array]:
    """α for each cell type, float32 [edges, operations], drawn from scale · N(0, 1)."""
    keys = jax.random.split(key, len(shapes))
    return {name: scale * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def softmax(alpha: Any) -> Any:
    """Edge weights exp(α_o) / Σ_o' exp(α_o') over the operations (last axis) of every leaf."""
    return jax.tree.map(lambda a: jax.nn.softmax(a, axis=-1), alpha)


def sigmoid(logits: Any) -> Any:
    """Edge weights 1 / (1 + exp(−z_o)) of every leaf, each operation by itself: a row need not sum to 1."""
    return jax.tree.map(jax.nn.sigmoid, logits)


def entmax_weights(logits: Any, alpha: Any = 1.5, alive: Any = None) -> Any:
    """Edge weights `entmax(z, alpha, alive)` of every leaf z; `alive` is a tree like `logits`, boolean, or None."""
    if alive is None:
        return jax.tree.map(lambda z: entmax(z, alpha), logits)
    return jax.tree.map(lambda z, a: entmax(z, alpha, a), logits, alive)


def entropy(edge_weights: Any) -> jax.Array:
    """Mean Shannon entropy of an edge's operations, in nats, over all edges of all leaves."""
    leaves = [-(jax.scipy.special.xlogy(w, w)).sum(-1) for w in jax.tree.leaves(edge_weights)]
    return jnp.concatenate(leaves).mean()
