"""Neumann series: the inverse Hessian as a truncated geometric series.

    H⁻¹ ≈ lr · Σ_{k < terms} (1 − lr·H)^k,     dF/du = ∂F/∂u − (∂²f/∂u∂v)ᵀ H⁻¹ ∂F/∂v

Source: Lorraine, Vicol, Duvenaud 2020 (arXiv 1911.02590) Algorithm 3. The error of H⁻¹ falls as max|1 − lr·λ|^terms
over the eigenvalues λ of H, so it converges for lr < 2 / λ_max only; at v* it is what unrolling `terms` steps of
gradient descent with that lr gives, without their memory.

Two gradients and `terms` Hessian products; memory of one linearised gradient, whatever the number of terms.
"""

from typing import Any

import jax

from dass_jax.bilevel.hypergradients.implicit import Product, implicit
from dass_jax.bilevel.hypergradients.point import Hypergradient


def neumann(terms: int, lr: float, damping: float = 0.0) -> Hypergradient:
    """The implicit hypergradient by `terms` terms of the series. See `implicit` for damping and for masked θ.

    Raises:
      ValueError: if terms < 1 or lr is not positive.
    """
    if terms < 1:
        raise ValueError(f"terms = {terms}; allowed: at least 1")
    if not lr > 0:
        raise ValueError(f"lr = {lr}; allowed: greater than 0")

    def solve(product: Product, vector: Any) -> Any:
        def add_term(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            power, total = carry
            power = jax.tree.map(lambda x, h: x - lr * h, power, product(power))
            return power, jax.tree.map(lambda t, x: t + x, total, power)

        _, total = jax.lax.fori_loop(1, terms, add_term, (vector, vector))
        return jax.tree.map(lambda t: lr * t, total)

    return implicit(solve, damping)
