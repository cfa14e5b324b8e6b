"""α-entmax: sparse weights from logits, with softmax at α = 1, sparsemax at α = 2 and argmax in the limit α → ∞.

    p = argmax_{p ∈ Δ} ⟨p, z⟩ + Σ_i (p_i − p_i^α) / (α(α−1))        p_i = [(α−1) z_i − τ]₊^{1/(α−1)},  Σ_i p_i = 1
    p_i > 0  ⇔  Σ_{j: z_j > z_i} ((α−1)(z_j − z_i))^{1/(α−1)} < 1
    ∂p_i = (g_i / Σ_k g_k) Σ_j g_j (∂z_i − ∂z_j)                    g_i = p_i^{2−α} where p_i > 0, else 0

Source: Peters, Niculae and Martins 2019 (arXiv 1905.05702), the mapping and its derivative; Correia, Niculae and
Martins 2019 (arXiv 1909.00015), any α by bisection; Martins and Astudillo 2016 (arXiv 1602.02068), α = 2.

All is computed from differences of logits. The textbook form subtracts τ from (α−1) z; near the edge of the support the
two are nearly equal, and a float32 weight keeps no digit. Measured from the least logit of the support the weights are
[(α−1)(z_i − z_least) + q^{α−1}]^{1/(α−1)}, where q is the least weight: sums of positive terms. All pairs of a row of d
are compared, in d² memory: this is meant for the operations of an edge and not for a vocabulary.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.errors import UserError

CLOSED = (1.0, 1.5, 2.0)
"""The α with a closed form."""


def entmax(z: jax.Array, alpha: Any = 1.5, alive: jax.Array | None = None, floor: float = 1e-3) -> jax.Array:
    """Weights of the logits z [..., d] over the last axis, in z's shape and dtype: not negative, with sum 1.

    `alpha` is a Python number ≥ 1, or an array [] that may be traced and change without a new compilation; an array
    below 1 counts as 1. Python's 1, 1.5 and 2 are closed forms, all else is bisection, to the accuracy of the dtype.
    `alive`, boolean with the shape of z, leaves out coordinates: their weights are exactly 0 and so are their
    gradients, whatever their logits are. A row with none alive has weights 0. A logit of −∞ is as good as dead.

    Float16 and bfloat16 are computed in float32. Any number of derivatives by z; none by α. For α > 2 the slope has a
    pole where two weights reach 0 together: so g has max(p, floor) in place of p; floor = 0 is the exact derivative.

    Raises UserError for an α, a floor or arrays other than these.
    """
    if not 0 <= floor <= 1:
        raise UserError(f"floor = {floor}; allowed: 0 to 1")
    closed, wide, alpha, alive = _checked(z, alpha, alive)
    return _entmax(closed, floor, wide, alpha, alive).astype(jnp.asarray(z).dtype)


def support(z: jax.Array, alpha: Any = 1.5, alive: jax.Array | None = None) -> jax.Array:
    """Boolean [..., d]: where `entmax` of the same arguments is not 0, by the exact test, without a threshold.

    Float16 alone rounds weights below 3e-8 to 0 that are inside. A row of logits that are not numbers is inside.

    Raises UserError as `entmax` does.
    """
    closed, wide, alpha, alive = _checked(z, alpha, alive)
    return _support(closed, wide, alpha, alive)


def _checked(z: Any, alpha: Any, alive: Any) -> tuple[float | None, jax.Array, jax.Array, jax.Array]:
    """α if it has a closed form; then z in float32 at least, α as an array of that dtype, and which are alive."""
    z = jnp.asarray(z)
    if z.ndim == 0 or not jnp.issubdtype(z.dtype, jnp.floating):
        raise UserError(f"z = {z.dtype}{list(z.shape)}; allowed: floats [..., d]")
    if isinstance(alpha, int | float) and not 1 <= alpha < math.inf:
        raise UserError(f"alpha = {alpha}; allowed: a finite number of at least 1")
    if jnp.shape(alpha) != ():
        raise UserError(f"alpha = {list(jnp.shape(alpha))}; allowed: one number (jax.vmap for several)")
    alive = jnp.ones(z.shape, bool) if alive is None else jnp.asarray(alive)
    if alive.dtype != bool or alive.shape != z.shape:
        raise UserError(f"alive = {alive.dtype}{list(alive.shape)}; allowed: bool{list(z.shape)}, as z")
    closed = float(alpha) if isinstance(alpha, int | float) and alpha in CLOSED else None
    wide = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    # Next to 1, where α − 1 can still be divided by, the bisection is softmax to the last digits.
    least = 1 if closed else 1 + jnp.finfo(wide.dtype).eps
    alpha = jnp.maximum(jax.lax.stop_gradient(jnp.asarray(alpha, wide.dtype)), least)
    return closed, wide, alpha, alive & (z != -jnp.inf)


def _support(closed: float | None, z: jax.Array, alpha: jax.Array, alive: jax.Array) -> jax.Array:
    if closed == 1:
        return alive
    above = (alpha - 1) * jnp.maximum(z[..., None, :] - z[..., None], 0)
    spent = jnp.where(alive[..., None, :], above ** (1 / (alpha - 1)), 0).sum(-1)
    return alive & ~(spent >= 1)  # not `< 1`: a logit that is not a number shall be seen in the weights


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)  # a loop outside jit would be compiled at each call
def _entmax(closed: float | None, floor: float, z: jax.Array, alpha: jax.Array, alive: jax.Array) -> jax.Array:
    inside = _support(closed, z, alpha, alive)
    if closed == 1:
        p = jnp.exp(z - z.max(-1, keepdims=True, where=alive, initial=-jnp.inf))
    else:
        least = z.min(-1, keepdims=True, where=inside, initial=jnp.inf)
        gap = jnp.where(inside, (alpha - 1) * (z - least), 0)
        count = jnp.maximum(inside.sum(-1, keepdims=True), 1).astype(z.dtype)
        p = {1.5: _one_and_a_half, 2.0: _two}[closed](gap, count) if closed else _bisected(gap, count, inside, alpha)
    p = p / jnp.where(inside, p, 0).sum(-1, keepdims=True)
    # A weight inside the support stays positive where the exact one is below the least float.
    return jnp.where(inside, jnp.maximum(p, jnp.finfo(z.dtype).tiny), 0)


def _two(gap: jax.Array, count: jax.Array) -> jax.Array:
    """p = gap + q, so that Σ gap + n q = 1."""
    return gap + jnp.maximum(1 - gap.sum(-1, keepdims=True), 0) / count


def _one_and_a_half(gap: jax.Array, count: jax.Array) -> jax.Array:
    """p = (gap + √q)², so that Σ gap² + 2√q Σ gap + n q = 1: the positive root, as a quotient of positive sums."""
    once, rest = gap.sum(-1, keepdims=True), jnp.maximum(1 - (gap**2).sum(-1, keepdims=True), 0)
    return (gap + rest / (once + jnp.sqrt(once**2 + count * rest))) ** 2


def _bisected(gap: jax.Array, count: jax.Array, inside: jax.Array, alpha: jax.Array) -> jax.Array:
    """p up to a factor, by bisection for log q between the least float and 1/n: an ε there moves no weight by more."""
    kind, log_gap = jnp.finfo(gap.dtype), jnp.log(gap)

    def log_weights(log_q: jax.Array) -> jax.Array:
        return jnp.logaddexp(log_gap, (alpha - 1) * log_q) / (alpha - 1)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        over = jnp.where(inside, jnp.exp(log_weights(middle)), 0).sum(-1, keepdims=True) >= 1
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    high = -jnp.log(count)
    log_p = log_weights(jax.lax.fori_loop(0, kind.bits, halve, (jnp.full_like(high, jnp.log(kind.tiny)), high))[1])
    return jnp.exp(log_p - log_p.max(-1, keepdims=True))  # near α = 1 the least float can be too large a q


@_entmax.defjvp
def _entmax_derivative(closed: float | None, floor: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # A call of `_entmax` itself and plain operations: so this rule can be differentiated again.
    p, alpha = _entmax(closed, floor, *primals), primals[1]
    inside = p != 0  # also where it is not a number
    # Up to α = 2 no g exceeds 1 and nothing need be capped. Beyond, g is at most the root of the largest float as well.
    representable = jnp.finfo(p.dtype).max ** (-0.5 / (alpha - 2))
    least = jnp.where(alpha > 2, jnp.maximum(floor, representable), 0)
    g = jnp.where(inside, jnp.where(inside, jnp.maximum(p, least), 1) ** (2 - alpha), 0)
    total = g.sum(-1, keepdims=True)
    share = g / jnp.where(total == 0, 1, total)
    # Half of each pair's exchange is added here and half subtracted there. The transpose of this sum has the same form,
    # so that gradients, too, are sums of differences.
    exchange = g[..., None] * share[..., None, :] * (tangents[0][..., None] - tangents[0][..., None, :]) / 2
    return p, exchange.sum(-1) - exchange.sum(-2)
