"""Unrolled: the exact gradient through K steps of the lower level.

    dF/du = d/du F(u, v_K(u)),   v_0 = v,   v_{k+1} = v_k + step(∇_v f(u, v_k))

`step` is the lower level's own optax transform in its present state, so momentum, weight decay, clipping and adaptive
scaling are differentiated as they are. Source: Franceschi et al. 2017 (arXiv 1703.01785), reverse mode; for K = 1 and
SGD it is DARTS (arXiv 1806.09055) Eq. 7 without the finite difference of Eq. 8.

K + 1 gradients and K Hessian products; memory grows with K by the activations of a step, or with `remat` by |v| and the
optimizer's state only.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.bilevel.hypergradients.point import Hypergradient, Point
from dass_jax.bilevel.levels import Level, Reduce, Result, direct_gradient, move, sample_of_step


def unrolled(steps: int = 1, remat: bool = False) -> Hypergradient:
    """Differentiates through `steps` lower steps, which are then forgotten: the real lower turn follows.

    The steps see the samples of the lower level's turn one after another, from the first again if there are fewer. What
    the lower loss hands back in `updates` (running statistics) is not carried along.

    With the lower variable s under a straight-through mask, the trajectory is the real one and its derivative is the
    straight-through one at every order: dm/ds is sign(s) wherever it occurs, although m moves in jumps.

    Args:
      remat: recompute each step in the backward pass instead of keeping what it computed.

    Raises:
      ValueError: if steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}; allowed: at least 1")

    def hypergradient(upper: Level, lower: Level, point: Point, reduce: Reduce) -> tuple[Any, Result]:
        variables = point.variables

        def loss(u: Any) -> Result:
            def step(carry: tuple[Any, Any], number: Any) -> tuple[tuple[Any, Any], None]:
                v, optimizer = carry
                ahead = {**variables, upper.collection: u, lower.collection: v}
                gradient, _ = direct_gradient(lower, ahead, sample_of_step(lower, point.lower, number))
                return move(lower, v, optimizer, reduce(gradient), point.extra), None

            body = jax.checkpoint(step) if remat else step
            first = (variables[lower.collection], point.optimizer)
            (v, _), _ = jax.lax.scan(body, first, jnp.arange(steps))
            return upper.loss({**variables, upper.collection: u, lower.collection: v}, *point.upper)

        result, gradient = jax.value_and_grad(loss, has_aux=True)(variables[upper.collection])
        return gradient, result

    return hypergradient
