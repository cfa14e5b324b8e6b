"""From a derived network to a sparse one, "Step 3". Source: DASS (arXiv 2207.06968) Section 4.3.

    pre-train:   θ on f(θ⊙1)              all weights
    scores:      s on f(θ⊙m(s))           θ fixed, m = per-layer top-k of |s|, straight through
    fine-tune:   θ on f(θ⊙m)              m fixed, only kept weights move

Pre-training and fine-tuning are one function: the mask and the learning rate are data.
"""

from collections.abc import Callable
from typing import Any

import optax

from dass_jax import bilevel, sparsity
from dass_jax.methods.dass import Weights, sparse_weights, with_scores
from dass_jax.methods.losses import Batch, accuracy, cross_entropy
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, SCORES, Variables


def masked_weights(v: Variables) -> Any:
    """θ⊙m."""
    return sparsity.apply_masks(v[PARAMS], v[MASKS])


def under_masks(algorithm: bilevel.Algorithm) -> bilevel.Algorithm:
    """The algorithm with `variables["masks"]` handed to its transforms, for `bilevel.freeze_pruned`."""

    def update(state: bilevel.State, batch: Any, key: Any, **extra: Any) -> Any:
        return algorithm.update(state, batch, key, masks=state.variables[MASKS], **extra)

    return bilevel.Algorithm(algorithm.init, update)


def network_loss(apply: Callable[..., Any], weights: Weights, auxiliary_weight: float) -> bilevel.Loss:
    """Cross-entropy of a derived network, plus `auxiliary_weight` times the auxiliary head's where there is one.

    Args:
      apply: (params, batch_stats, images, train, path_scale) → (logits, auxiliary logits or None, batch_stats).
    """

    def loss(v: Variables, batch: Batch, key: Any) -> Any:
        logits, auxiliary, batch_stats = apply(weights(v), v[BATCH_STATS], batch.images, True, batch.path_scale)
        value = cross_entropy(logits, batch.labels)
        if auxiliary is not None:
            value = value + auxiliary_weight * cross_entropy(auxiliary, batch.labels)
        return value, ({"accuracy": accuracy(logits, batch.labels)}, {BATCH_STATS: batch_stats})

    return loss


def train_weights(
    apply: Callable[..., Any],
    transform: optax.GradientTransformation,
    auxiliary_weight: float,
    reduce: bilevel.Reduce,
    parts: int = 1,
) -> bilevel.Algorithm:
    """Pre-training and fine-tuning: θ's kept entries under the masks in `variables["masks"]`.

    Args:
      parts: of each batch, one after the other; see `bilevel.accumulated`.
    """
    loss = bilevel.accumulated(network_loss(apply, masked_weights, auxiliary_weight), parts)
    level = bilevel.Level(PARAMS, loss, optax.chain(transform, bilevel.freeze_pruned()))
    return under_masks(bilevel.descend(level, reduce))


def learn_scores(
    apply: Callable[..., Any],
    transform: optax.GradientTransformation,
    stacks: Any,
    keep: float,
    auxiliary_weight: float,
    reduce: bilevel.Reduce,
    parts: int = 1,
) -> bilevel.Algorithm:
    """Score learning: s alone. `parts` as in `train_weights`."""
    loss = bilevel.accumulated(network_loss(apply, sparse_weights(stacks, keep), auxiliary_weight), parts)
    return bilevel.descend(bilevel.Level(SCORES, loss, transform), reduce)


def begin_scores(v: Variables, scores: bilevel.Algorithm, stacks: Any) -> bilevel.State:
    """From the dense network to score learning: scores from θ."""
    return scores.init(with_scores(v, stacks))


def begin_finetuning(v: Variables, weights: bilevel.Algorithm, stacks: Any, keep: float) -> bilevel.State:
    """From learned scores to fine-tuning: the masks are fixed, the scores have done their work, the optimizer starts
    anew."""
    v = {**v, MASKS: sparsity.topk_masks(v[SCORES], stacks, keep)}
    del v[SCORES]
    return weights.init(v)
