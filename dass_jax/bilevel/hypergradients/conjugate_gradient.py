"""Conjugate gradient: the linear system of the implicit function theorem, solved.

    (∂²f/∂v² + damping·1) q = ∂F/∂v,     dF/du = ∂F/∂u − (∂²f/∂u∂v)ᵀ q

Source: Pedregosa 2016 (arXiv 1602.02355); Rajeswaran et al. 2019 (iMAML, arXiv 1909.04630) for the damping. For a
positive definite Hessian of condition number κ the error falls as ((√κ − 1)/(√κ + 1))^iterations; an indefinite one, as
networks have, needs damping above the size of its most negative eigenvalue.

Two gradients and `iterations` + 2 Hessian products (the solver's first residual, the mixed term); memory of one
linearised gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from dass_jax.bilevel.hypergradients.implicit import Product, implicit
from dass_jax.bilevel.hypergradients.point import Hypergradient


def conjugate_gradient(iterations: int, damping: float = 0.0) -> Hypergradient:
    """The implicit hypergradient by at most `iterations` iterations. See `implicit` for damping and for masked θ.

    Raises:
      ValueError: if iterations < 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations = {iterations}; allowed: at least 1")

    def solve(product: Product, vector: Any) -> Any:
        # Beyond rounding there is nothing to gain, and further on p·Hp underflows to 0/0.
        rounding = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(vector))).eps)
        return cg(product, vector, tol=rounding, maxiter=iterations)[0]

    return implicit(solve, damping)
