"""DASS_Op, the ablation with sparse operations and no learned masks. Source: DASS (arXiv 2207.06968) Section 5.

    min_α F(α, θ*(α)⊙m)      θ* = argmin_θ f(α, θ⊙m)      m = per-layer top-k of |s|, s from the initial θ (Eq. 3)

It is Step 1 with θ⊙m in the place of θ. The paper does not say when the masks are drawn: here m is found once, from the
freshly initialised θ, and never moves, so that a pruned weight keeps its initial value, which nothing sees. What
remains of DASS' search without it is the objective: the learning of s.
"""

from typing import Any

import optax

from dass_jax import bilevel, sparsity
from dass_jax.methods import dass, prune
from dass_jax.variables import MASKS, PARAMS, SCORES, Variables


def step(
    loss: bilevel.Loss,
    alpha_transform: optax.GradientTransformation,
    theta_transform: optax.GradientTransformation,
    hypergradient: bilevel.Hypergradient,
    order: str,
    reduce: bilevel.Reduce,
    cosine: bool = False,
) -> bilevel.Algorithm:
    """`dass.step` on θ's kept entries; `loss` sees `prune.masked_weights`."""
    kept = optax.chain(theta_transform, bilevel.freeze_pruned())
    return prune.under_masks(dass.step(PARAMS, loss, alpha_transform, kept, hypergradient, order, reduce, cosine))


def with_masks(v: Variables, stacks: Any, keep: float) -> Variables:
    """The variables with the masks of θ's initial scores."""
    return {**v, MASKS: sparsity.topk_masks(dass.with_scores(v, stacks)[SCORES], stacks, keep)}
