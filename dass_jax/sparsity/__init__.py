"""Pruning scores and exact masks as pure functions of pytrees: (θ, s) → θ⊙m."""

from dass_jax.sparsity.masks import (
    apply_masks,
    dense_masks,
    kept_in_layer,
    kept_total,
    masked_weights,
    sparsify,
    topk_masks,
)
from dass_jax.sparsity.scores import init_scores

__all__ = ["apply_masks", "dense_masks", "init_scores", "kept_in_layer", "kept_total", "masked_weights", "sparsify"]
__all__ += ["topk_masks"]
