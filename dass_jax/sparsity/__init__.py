"""Pruning scores and exact masks as pure functions of pytrees: (θ, s) → θ⊙m; and pruning while θ is trained."""

from dass_jax.sparsity.gradual import (
    ASIDE,
    PRUNING,
    Gradual,
    keep_after,
    layer_sizes,
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
    kept_in_layer,
    kept_total,
    magnitude_masks,
    masked_weights,
    sparsify,
    topk_masks,
)
from dass_jax.sparsity.scores import init_scores

__all__ = ["ASIDE", "PRUNING", "Gradual", "Kept", "apply_masks", "dense_masks", "init_scores", "keep_after"]
__all__ += ["kept_in_layer", "kept_total", "layer_sizes", "magnitude_masks", "masked_weights", "pruned", "pruner"]
__all__ += ["pruning_rates", "sparsify", "sparsity_of", "topk_masks", "unpruned"]
