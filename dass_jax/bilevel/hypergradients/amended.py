"""Amended gradient: the Hessian itself, scaled, in the place of its inverse.

    dF/du ≈ ∂F/∂u − η (∂²f/∂u∂v)ᵀ H ∂F/∂v,     H = ∂²f/∂v²

Source: Bi et al. 2019 (arXiv 1910.11831), the "amended" second-order term of DARTS. Where DARTS' own second-order term
puts ξ·1 for H⁻¹, a positive definite H has H⁻¹'s eigenvectors and signs, so along each of them the two terms agree in
direction; but H weighs stiff directions most, H⁻¹ least. It is a direction, not an approximation: it vanishes at the
solution where H is a multiple of 1, and elsewhere in general not.

Two gradients and two Hessian products (H ∂F/∂v, the mixed term).
"""

from typing import Any

import jax

from dass_jax.bilevel.hypergradients.implicit import Product, implicit
from dass_jax.bilevel.hypergradients.point import Hypergradient


def amended(eta: float, damping: float = 0.0) -> Hypergradient:
    """The amended hypergradient. See `implicit` for damping and for masked θ.

    Args:
      eta: η, the amending coefficient.

    Raises:
      ValueError: if eta is not positive.
    """
    if not eta > 0:
        raise ValueError(f"eta = {eta}; allowed: greater than 0")

    def solve(product: Product, vector: Any) -> Any:
        return jax.tree.map(lambda h: eta * h, product(vector))

    return implicit(solve, damping)
