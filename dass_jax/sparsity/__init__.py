"""Pruning scores and exact masks as pure functions of pytrees: (θ, s) → θ⊙m; and pruning while θ is trained."""

from dass_jax.sparsity.distribution import (
    ALL,
    Distribution,
    Group,
    Pooled,
    Share,
    counts,
    groups,
    kept_in_layer,
    kept_total,
    shares,
)
from dass_jax.sparsity.gradual import (
    ASIDE,
    PRUNING,
    Gradual,
    keep_after,
    prunable_groups,
    pruned,
    pruner,
    pruning_rates,
    sparsity_of,
    unpruned,
)
from dass_jax.sparsity.masks import (
    Kept,
    apply_masks,
    dense_masks,
    kept_counts,
    largest_of_layers,
    magnitude_masks,
    masked_through,
    masked_weights,
    sparsify,
    topk_masks,
)
from dass_jax.sparsity.scores import init_scores

__all__ = ["ALL", "ASIDE", "PRUNING", "Distribution", "Gradual", "Group", "Kept", "Pooled", "Share", "apply_masks"]
__all__ += ["counts", "dense_masks", "groups", "init_scores", "keep_after", "kept_counts", "kept_in_layer"]
__all__ += ["kept_total", "largest_of_layers", "magnitude_masks", "masked_through", "masked_weights", "prunable_groups"]
__all__ += ["pruned", "pruner", "pruning_rates", "shares", "sparsify", "sparsity_of", "topk_masks", "unpruned"]
