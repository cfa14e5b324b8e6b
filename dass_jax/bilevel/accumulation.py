"""Gradient accumulation: a batch worked through in K parts, for the memory of one part.

    f(v; B) = 1/K Σ_k f(v; B_k),     ∇f(v; B) = 1/K Σ_k ∇f(v; B_k)

The parts go one after the other, and each gradient is taken before the next part begins: the forward rule of the mean's
derivative finds values and gradients together, its backward rule only scales them. So no part's activations are kept,
and nothing is computed twice. (A scan over rematerialised parts would need no rule of its own, but one more forward
pass.) Where that gradient is differentiated in turn, by `unrolled` and the implicit estimators, each part is
rematerialised: the memory is again that of one part, and each product with the Hessian takes the part's gradient anew.

Exact where the loss is a mean over the examples. A network with batch normalisation is not: each part is normalised by
its own statistics, and the running ones move part by part, K times for each gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dass_jax.bilevel.levels import Loss, Result
from dass_jax.variables import Variables


def accumulated(loss: Loss, parts: int, axis: int = -1) -> Loss:
    """The mean of `loss` over `parts` equal parts of a batch, as a loss; for 1 it is `loss` itself.

    Part k is the examples k, k + parts, k + 2·parts, …: where each device takes a run of the batch, these are the same
    parts whatever the number of devices. Every part draws from a key of its own, sees the `updates` that the part
    before it handed back, and its metrics are averaged. Only the loss has a derivative, by those of the variables that
    are asked for, in reverse mode first; metrics and updates count as constants.

    Args:
      axis: that of the examples, in every leaf of a batch.

    Raises:
      ValueError: if parts < 1; when called, if a batch does not divide, or a derivative by the batch is asked for.
    """
    if parts < 1:
        raise ValueError(f"parts = {parts}; allowed: at least 1")
    if parts == 1:
        return loss

    def split(x: Any) -> jax.Array:
        x, at = jnp.asarray(x), axis % jnp.ndim(x)
        if x.shape[at] % parts:
            raise ValueError(f"parts = {parts} of a batch of {x.shape[at]}; allowed: a divisor")
        return jnp.moveaxis(x.reshape(*x.shape[:at], -1, parts, *x.shape[at + 1 :]), at + 1, 0)

    def samples(batch: Any, key: jax.Array) -> Any:
        return jax.tree.map(split, batch), jax.random.split(key, parts)

    @jax.custom_vjp
    def mean(variables: Variables, batch: Any, key: jax.Array) -> Result:
        def part(updates: Variables, sample: Any) -> Any:
            value, (metrics, updates) = loss({**variables, **updates}, *sample)
            return (value, metrics), updates

        (value, metrics), updates = _over_parts(part, variables, samples(batch, key))
        return value, (metrics, updates)

    def forward(*primals: Any) -> tuple[Result, Any]:
        variables, batch, key = jax.tree.map(lambda primal: primal.value, primals)
        if any(primal.perturbed for primal in jax.tree.leaves(primals[1:])):
            raise ValueError("a derivative of an accumulated loss by its batch; allowed: by the variables")
        # None is no leaf: what is not asked for is not there.
        asked = jax.tree.map(lambda primal: primal.value if primal.perturbed else None, primals[0])

        def part(updates: Variables, sample: Any) -> Any:
            def of(asked: Any) -> Result:
                chosen = jax.tree.map(lambda given, x: given if x is None else x, variables, asked)
                return loss({**chosen, **updates}, *sample)

            (value, (metrics, updates)), gradient = jax.value_and_grad(of, has_aux=True)(asked)
            return (value, jax.lax.stop_gradient(metrics), gradient), jax.lax.stop_gradient(updates)

        (value, metrics, gradient), updates = _over_parts(part, variables, samples(batch, key))
        return (value, (metrics, updates)), gradient

    def backward(gradient: Any, cotangents: Any) -> Any:
        slope = cotangents[0]
        if isinstance(slope, SymbolicZero):
            return None, None, None
        return jax.tree.map(lambda g: (slope * g).astype(g.dtype), gradient), None, None

    mean.defvjp(forward, backward, symbolic_zeros=True)
    return mean


def _over_parts(part: Callable[[Variables, Any], Any], variables: Variables, samples: Any) -> Any:
    """`part`(updates, sample) → (figures, updates), for one sample after the other: (mean figures, last updates)."""
    figures, handed_back = jax.eval_shape(part, {}, jax.tree.map(lambda x: x[0], samples))

    def step(carry: tuple[Any, Variables], sample: Any) -> tuple[tuple[Any, Variables], None]:
        total, updates = carry
        found, updates = part(updates, sample)
        return (jax.tree.map(jnp.add, total, found), updates), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), figures)
    first = zeros, {name: variables[name] for name in handed_back}
    (total, updates), _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), first, samples)
    parts = len(jax.tree.leaves(samples)[0])
    return jax.tree.map(lambda x: x / parts, total), updates
