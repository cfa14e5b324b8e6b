"""Dense convolution as a sum of products, one for each pixel of the window: for a loop over operations, where writing
windows out and keeping them costs more than the products (8×8 pixels, 16 maps, 5×5: half the time of `patches`)."""

import functools

import jax
import jax.numpy as jnp

from dass_jax.nn.kernels.windows import pad


@functools.partial(jax.checkpoint, prevent_cse=False)
def convolution(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [I, H, W, N] with w [O, I, k, k], padded with zeros to the same size: [O, H, W, N]. The shifted maps are made
    again for the gradient, not kept."""
    k, (height, width, batch) = w.shape[-1], x.shape[1:]
    padded = pad(x, k // 2, (k // 2, k // 2))
    maps = [
        padded[:, row : row + height, column : column + width].reshape(len(x), -1)
        for row in range(k)
        for column in range(k)
    ]
    products = (w[:, :, n // k, n % k] @ map for n, map in enumerate(maps))
    return functools.reduce(jnp.add, products).reshape(len(w), height, width, batch)
