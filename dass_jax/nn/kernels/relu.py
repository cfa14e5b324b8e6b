"""The rectifiers, which every layer calls."""

import jax
from jax import lax


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with gradient 0 at 0. Inlined when traced, see `runtime.compilation.copy_calls_late`."""
    return lax.max(x, lax.full_like(x, 0))


relu.defjvps(lambda g, _, x: lax.select(x > 0, g, lax.full_like(g, 0)))


@jax.custom_jvp
def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6); its gradient at 0 and 6 is 0."""
    return lax.min(lax.max(x, lax.full_like(x, 0)), lax.full_like(x, 6))


relu6.defjvps(lambda g, _, x: lax.select((x > 0) & (x < 6), g, lax.full_like(g, 0)))
