"""How large a network is: parameters, prunable and kept weights, multiply-accumulates. From shapes alone.

A weight's multiply-accumulates are the output positions of its convolution: every weight of a layer is used once at
each of them. Biases, BN, pooling and additions are not counted, as in the papers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dass_jax import variables
from dass_jax.sparsity import Distribution, kept_counts


class Count(NamedTuple):
    """All figures are whole numbers; the auxiliary head is left out by building the network without it."""

    total: int
    prunable: int
    kept: int
    kept_with_bn_bias: int
    """Kept weights, BN scales and offsets, and biases."""
    macs: int
    """Multiply-accumulates of the dense network, one image."""
    macs_nonzero: int
    """The same with pruned weights left out."""
    paper_kept: int
    """Kept weights as the DASS paper's tables count them, see `paper_kept`."""


def paper_kept(prunable: int, others: int, keep: float) -> int:
    """The paper's own figure: weights and their scores plus BN and biases, in millions cut to two decimals, halved,
    times `keep` (found by comparing the released code with the paper's Table 4)."""
    hundredths = (2 * prunable + others) // 10_000
    return round(hundredths * 10_000 / 2 * keep)


def positions(forward: Callable[[], Any]) -> dict[str, int]:
    """Output positions (height × width) of every module that `forward` calls, by path; nothing is computed.

    Args:
      forward: calls the network on abstract or concrete arrays.
    """
    found: dict[str, int] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(output, jax.Array):
            # Feature maps end in [C, H, W, N]; a linear layer gives [O, N] and has one position.
            found["/".join(context.module.path)] = math.prod(output.shape[-3:-1]) if output.ndim > 2 else 1
        return output

    with nn.intercept_methods(record):
        jax.eval_shape(forward)
    return found


def macs_per_weight(params: Any, rules: variables.Rules, forward: Callable[[], Any]) -> dict[str, int]:
    """For each prunable leaf (by path) the positions of the operation that owns it."""
    where = positions(forward)
    return {path: where[path.rsplit("/", 2)[0]] for path in variables.flatten(variables.prunable(params, rules))}


def kept_of_fraction(
    params: Any, rules: variables.Rules, keep: float, distribution: Distribution = "layer"
) -> dict[str, int]:
    """For each prunable leaf (by path) the weights that are kept of the fraction `keep` in (0, 1], where the scores do
    not decide it: not under `global`."""
    counts = kept_counts(params, variables.prunable(params, rules), keep, distribution)
    return {path: int(np.sum(count)) for path, count in variables.flatten(counts).items()}


def kept_of_masks(masks: Any, params: Any, rules: variables.Rules) -> dict[str, int]:
    """The same of masks; those of leaves that `params` lacks (an auxiliary head's) are left out."""
    wanted = variables.flatten(variables.prunable(params, rules))
    leaves = variables.flatten(masks)
    return {path: int(np.count_nonzero(leaves[path])) for path in wanted}


def count(
    params: Any, rules: variables.Rules, kept: Mapping[str, int], keep: float, forward: Callable[[], Any]
) -> Count:
    """Counts a network.

    Args:
      params: θ, as arrays or shapes.
      rules: which leaves are prunable.
      kept: weights that are kept of each prunable leaf, by path.
      keep: the fraction that was asked for, from which the paper reckons its own count.
      forward: calls the network on one image, see `positions`.
    """
    stacks = variables.prunable(params, rules)
    leaves = list(variables.layers(params, stacks))
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    prunable = sum(layers * size for _, layers, size in leaves)
    all_kept = sum(kept.values())
    uses = macs_per_weight(params, rules, forward)
    return Count(
        total=total,
        prunable=prunable,
        kept=all_kept,
        kept_with_bn_bias=all_kept + total - prunable,
        macs=sum(uses[path] * layers * size for path, layers, size in leaves),
        macs_nonzero=sum(uses[path] * kept[path] for path, _, _ in leaves),
        paper_kept=paper_kept(prunable, total - prunable, keep),
    )


def nid(accuracy: float, kept: int) -> float:
    """Accuracy in per cent per thousand kept weights (NID, DASS Section 5)."""
    return accuracy / (kept / 1000)
