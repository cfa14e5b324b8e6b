"""Accelerated proximal gradient with Nesterov's momentum: L1 on scaling factors that reach exactly 0.

    min_λ G(λ) + Σ γ|λ|, λ ≥ 0

    z = S_{ηγ}(λ − η∇G)          S_τ(x) = sign(x) max(|x| − τ, 0)
    v ← z − λ + μv
    λ ← max(0, z + μv)

Source: DSO-NAS (Zhang et al., TPAMI 2020) Eq. 13 to 16, which are APG (Beck and Teboulle 2009) in the variables of
Nesterov's SGD (Huang and Wang, arXiv 1707.01213); the maximum with 0 is that of the published code. With μ = 0 this is
ISTA. Of a μ that changes, v takes the last step's and λ the present one's: with `fista` and without projection z is
FISTA's sequence. η and γ are data of a step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dass_jax.bilevel.transforms import scale_by_given_learning_rate

Map = Callable[[jax.Array], jax.Array]
Prox = Callable[[jax.Array, jax.Array], jax.Array]


def soft_threshold(x: jax.Array, tau: jax.Array) -> jax.Array:
    """argmin_z ½(z − x)² + τ|z|, entry by entry."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - tau, 0)


def positive_part(x: jax.Array, tau: jax.Array) -> jax.Array:
    """argmin_{z ≥ 0} ½(z − x)² + τz, entry by entry."""
    return jnp.maximum(x - tau, 0)


def nonnegative(x: jax.Array) -> jax.Array:
    """The nearest number that is not negative."""
    return jnp.maximum(x, 0)


FORMS: dict[str, tuple[Prox, Map]] = {
    "coded": (soft_threshold, nonnegative),
    "prox": (positive_part, nonnegative),
    "signed": (soft_threshold, lambda x: x),
}
"""The operator that gives z, and what λ is projected by. `coded`: as the published code; an entry that is held at 0
while z is negative winds v up to z/(1 − μ) and comes back late. `prox`: the operator of the constrained problem; the
same minimiser, without wind-up. `signed`: the paper's equations, for factors of either sign."""


class ProximalState(NamedTuple):
    """`velocity` is a tree like the factors; `steps`, int32, those done."""

    velocity: Any
    steps: jax.Array


def fista(count: jax.Array) -> jax.Array:
    """μ_t = (t − 1)/(t + 2), with which APG has its rate 1/t²."""
    return (count - 1) / (count + 2)


def apg_nag(momentum: float | optax.Schedule = 0.9, form: str = "coded") -> optax.GradientTransformationExtraArgs:
    """The step above, as an optax transform. `update` takes the keyword arguments `learning_rate`, a scalar, and
    `gamma`, a tree like the factors whose leaves are scalars or have the leaf's shape.

    Args:
      momentum: μ, or a function of the step's number t = 1, 2, …, a float scalar.
      form: a key of `FORMS`.

    Raises:
      ValueError: on another form.
    """
    if form not in FORMS:
        raise ValueError(f"form = {form!r}; allowed: {', '.join(FORMS)}")
    prox, project = FORMS[form]

    def mu(count: jax.Array, dtype: Any) -> jax.Array:
        return jnp.asarray(momentum(count.astype(dtype)) if callable(momentum) else momentum, dtype)

    def init(params: Any) -> ProximalState:
        return ProximalState(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32))

    def update(
        gradient: Any, state: ProximalState, params: Any = None, *, learning_rate: jax.Array, gamma: Any, **_: Any
    ) -> tuple[Any, ProximalState]:
        count = optax.safe_increment(state.steps)

        def moved(x: jax.Array, g: jax.Array, v: jax.Array, weight: Any) -> tuple[jax.Array, jax.Array]:
            eta = jnp.asarray(learning_rate, x.dtype)
            z = prox(x - eta * g, eta * jnp.asarray(weight, x.dtype))
            v = z - x + mu(state.steps, x.dtype) * v
            return project(z + mu(count, x.dtype) * v) - x, v

        found = jax.tree.map(moved, params, gradient, state.velocity, gamma)
        step, velocity = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0)), found)
        return step, ProximalState(velocity, count)

    return optax.GradientTransformationExtraArgs(init, update)


def nesterov_sgd(
    momentum: float, weight_decay: float, clip: float | None = None, decayed: Any = None
) -> optax.GradientTransformationExtraArgs:
    """SGD with Nesterov's momentum: g ← clip(∇, ±clip) + decay·w; m ← μm + g; w ← w − η(g + μm). η comes as data.

    Args:
      clip: largest entry of the gradient; None: any.
      decayed: params → a tree of booleans: which leaves decay; None: all.
    """
    clipping = [] if clip is None else [optax.clip(clip)]
    return optax.chain(
        *clipping,
        optax.add_decayed_weights(weight_decay, decayed),
        optax.trace(momentum, nesterov=True),
        scale_by_given_learning_rate(),
    )
