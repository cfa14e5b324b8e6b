"""Which number is kept in which dtype.

Activations may be narrower than what learns. A network casts its images once, at the stem, and every layer's output has
its input's dtype. Parameters stay as they are, float32, and are cast where they meet an activation, so their gradients
come back in float32. What adds up many numbers does so in float32 and rounds once: BN statistics, means over an image,
the sum over the edges of a node, logits, losses. α, scores, masks and optimizers never see an activation's dtype.
"""

import jax
import jax.numpy as jnp


def widened(x: jax.Array) -> jax.Array:
    """x in float32 if it is narrower, else x."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
