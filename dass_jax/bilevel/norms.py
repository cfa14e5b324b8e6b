"""Global norms of gradients whose sum of squares overflows though they are finite.

Behind several batch norms of nearly constant inputs a gradient can grow past √max (1.8e19 in float32). Its plain norm
is then infinite: clipping by it would give zero, and the step would be reported as unsound.

A supernet's gradient has hundreds of leaves. What looks at all entries looks at them in one vector (`flat`): leaf by
leaf it would be hundreds of operations to compile and to start.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree


def flat(tree: Any) -> jax.Array:
    """All entries as one vector, leaf after leaf, in the widest of their dtypes."""
    # Behind the barrier the vector is made once, not again in each operation that reads it.
    return jax.lax.optimization_barrier(ravel_pytree(tree)[0])


def norm(tree: Any) -> jax.Array:
    """The 2-norm of all entries, a scalar of their dtype: `optax.tree.norm` wherever that is finite.

    Infinite or NaN only if an entry is, or if the norm itself is beyond the dtype's range.
    """
    scaled, scale = _scaled(tree)
    return scaled / scale


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` where the norm's square is finite, and right where it overflows."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scaled, scale = _scaled(updates)
        inside = scaled / scale < max_norm

        def clip(u: jax.Array) -> jax.Array:
            clipped = u * scale.astype(u.dtype) / scaled.astype(u.dtype) * max_norm
            # `jnp.where` would be a call for each leaf, of its own kernel (`compilation.copy_calls_late`).
            return jax.lax.select(inside, u, clipped)

        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scaled(tree: Any) -> tuple[jax.Array, jax.Array]:
    """(|scale · tree|, scale): scale is 1, or a power of two at which the squares of all finite entries can be summed.

    The scale is chosen by the values but does not vary with them, so that the norm's derivative is right at both.
    """
    entries = flat(tree)
    plain = jax.lax.stop_gradient(optax.tree.norm(entries))
    # 2^20 below √max: squares of the largest entries leave room for the sum of 2^40 of them. What underflows there is
    # 2^40 times smaller than what overflowed.
    small = 2.0 ** -(jnp.finfo(plain.dtype).maxexp // 2 + 20)
    scale = jnp.where(jnp.isfinite(plain), 1, small).astype(plain.dtype)
    return optax.tree.norm(entries * scale), scale
