"""DASS, the search. Source: arXiv 2207.06968 Algorithm 1, Eq. 5 to 7.

    Step 1:  min_α F(α, θ*(α))          θ* = argmin_θ f(α, θ)            dense weights
    Step 2:  min_α F(α, θ⊙m(s*(α)))     s* = argmin_s f(α, θ⊙m(s))       θ fixed, m = per-layer top-k of |s|

f is the loss on the training split, F on the validation split. Both steps are `bilevel.alternate` with α above; they
differ in the lower level's collection and in the weights the supernet sees. Step 1 alone is DARTS (arXiv 1806.09055),
the search of the baseline DARTS_sparse. In the paper α follows the first-order gradient; every other estimator fits in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from dass_jax import bilevel, sparsity, variables
from dass_jax.methods.losses import Batch, accuracy, cross_entropy
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, SCORES, Variables

Weights = Callable[[Variables], Any]
"""variables → the θ that the network sees."""


def dense_weights(v: Variables) -> Any:
    """Step 1's weights: θ."""
    return v[PARAMS]


def sparse_weights(stacks: Any, keep: float) -> Weights:
    """Step 2's weights: θ⊙m(s), straight through to s."""
    return lambda v: sparsity.sparsify(v[PARAMS], v[SCORES], stacks, keep)


def supernet_loss(apply: Callable[..., Any], relax: Callable[[Any], Any], weights: Weights) -> bilevel.Loss:
    """Cross-entropy of the supernet under relaxed α; BN uses the batch's statistics.

    Args:
      apply: (params, batch_stats, edge_weights, images, train) → (logits, batch_stats), as a space offers it.
      relax: α → edge weights.
    """

    def loss(v: Variables, batch: Batch, key: Any) -> Any:
        logits, batch_stats = apply(weights(v), v[BATCH_STATS], relax(v[ALPHA]), batch.images, True)
        metrics = {"accuracy": accuracy(logits, batch.labels)}
        return cross_entropy(logits, batch.labels), (metrics, {BATCH_STATS: batch_stats})

    return loss


def step(
    collection: str,
    loss: bilevel.Loss,
    alpha_transform: optax.GradientTransformation,
    lower_transform: optax.GradientTransformation,
    hypergradient: bilevel.Hypergradient,
    order: str,
    reduce: bilevel.Reduce,
    cosine: bool = False,
) -> bilevel.Algorithm:
    """Step 1 (`collection` = θ, dense loss) or Step 2 (`collection` = s, sparse loss)."""
    upper = bilevel.Level(ALPHA, loss, alpha_transform)
    lower = bilevel.Level(collection, loss, lower_transform)
    return bilevel.alternate(upper, lower, hypergradient, order, reduce, cosine)


class UnsplitInfo(NamedTuple):
    """What the three levels saw in one turn: α (upper), θ (lower), s."""

    upper: bilevel.Info
    lower: bilevel.Info
    scores: bilevel.Info


def unsplit(
    loss: bilevel.Loss,
    alpha_transform: optax.GradientTransformation,
    theta_transform: optax.GradientTransformation,
    scores_transform: optax.GradientTransformation,
    hypergradient: bilevel.Hypergradient,
    order: str,
    reduce: bilevel.Reduce,
    cosine: bool = False,
) -> bilevel.Algorithm:
    """Eq. 5 before it is split into two steps: α, then θ, then s in every iteration, all on the sparse loss.

    `update` takes the batches (validation, training): θ and s move on the same training images, one after the other,
    each seeing what the one before it has just done. α follows the hypergradient through θ, with s held fixed.

    Args:
      order: "upper_first" (α, θ, s) or "lower_first" (θ, s, α).

    Raises:
      ValueError: on any other order.
    """
    turns_of = {"upper_first": ("upper", "lower", "scores"), "lower_first": ("lower", "scores", "upper")}
    if order not in turns_of:
        raise ValueError(f"order = {order!r}; allowed: {', '.join(map(repr, turns_of))}")
    levels = {
        "upper": bilevel.Level(ALPHA, loss, alpha_transform),
        "lower": bilevel.Level(PARAMS, loss, theta_transform),
        "scores": bilevel.Level(SCORES, loss, scores_transform),
    }
    turns = bilevel.in_turn(
        levels,
        {"upper": bilevel.Through("lower", hypergradient)},
        order=turns_of[order],
        reduce=reduce,
        cosine=cosine,
    )

    def update(state: bilevel.State, batches: Any, key: Any, **extra: Any) -> tuple[bilevel.State, UnsplitInfo]:
        upper, lower = batches
        state, infos = turns.update(state, {"upper": upper, "lower": lower, "scores": lower}, key, **extra)
        return state, UnsplitInfo(**infos)

    return bilevel.Algorithm(turns.init, update)


def with_scores(v: Variables, stacks: Any) -> Variables:
    """The variables with pruning scores from θ (Eq. 3)."""
    return {**v, SCORES: sparsity.init_scores(variables.select(v[PARAMS], stacks), stacks)}


def begin_step2(state: bilevel.State, step2: bilevel.Algorithm, stacks: Any) -> bilevel.State:
    """From the end of Step 1 to the start of Step 2: scores from θ, α and its Adam state carried over."""
    begun = step2.init(with_scores(state.variables, stacks))
    return begun._replace(optimizers={**begun.optimizers, ALPHA: state.optimizers[ALPHA]})
