"""Dense convolutions with holes, in the form that a CPU does best: a product of the weights with k² shifted images."""

import itertools

import jax
import jax.numpy as jnp
from jax import lax

from dass_jax.nn.kernels.windows import pad


def convolution(x: jax.Array, w: jax.Array, dilation: int) -> jax.Array:
    """x [I, H, W, N] with w [O, I, k, k], k odd, padded with (k − 1)/2 · dilation zeros: [O, H, W, N].

    Taps that see nothing but zeros are left out: on a small map a large dilation leaves the centre alone.
    """
    k, (height, width) = w.shape[-1], x.shape[1:3]
    reach = [dilation * (tap - (k - 1) // 2) for tap in range(k)]
    rows, columns = ([tap for tap in range(k) if abs(reach[tap]) < size] for size in (height, width))
    border = max(abs(reach[tap]) for tap in (*rows, *columns))
    padded = pad(x, border, (border, border)) if border else x
    taps = list(itertools.product(rows, columns))
    views = [_shifted(padded, border + reach[i], border + reach[j], height, width) for i, j in taps]
    seen = lax.optimization_barrier(jnp.concatenate(views)).reshape(len(taps) * x.shape[0], -1)
    weights = jnp.concatenate([w[:, :, i, j] for i, j in taps], axis=1)
    return lax.optimization_barrier(weights @ seen).reshape(w.shape[0], *x.shape[1:])


def _shifted(x: jax.Array, top: int, left: int, height: int, width: int) -> jax.Array:
    return lax.slice(x, (0, top, left, 0), (x.shape[0], top + height, left + width, x.shape[3]))
