"""What every trainable network offers, whether it is made from a genotype or published as it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.errors import UserError
from dass_jax.nn.initial import UNIFORM, Scheme, initialise
from dass_jax.tasks import Outputs, Pixels

RULES: variables.Rules = (
    (r".*/factorized/weight", 1),
    (r".*/weight", 0),
    (r".*/(scale|bias)", None),
)
"""Every weight of a convolution or a linear layer may be pruned, BN and biases may not."""


class Model(NamedTuple):
    """A trainable network as pure functions.

    * `init(key, image_shape [H, W, C])` → {"params", "batch_stats"}
    * `apply(params, batch_stats, images [C, H, W, N], train, path_scale)` → (logits, auxiliary logits or None,
      batch_stats); path_scale [*paths, N] multiplies each droppable path (0, or 1/(1 − p)); None: no drop-path.
    * `paths`: the leading shape of path_scale: (cells, nodes, pairs) of a derived network, (blocks,) of a residual
      one
    * `drops`: what the probability that a path is dropped is multiplied by, broadcast over `paths`
    """

    init: Callable[..., variables.Variables]
    apply: Callable[..., tuple[jax.Array, jax.Array | None, Any]]
    paths: tuple[int, ...]
    rules: variables.Rules
    drops: Any = 1.0


def check_auxiliary(outputs: Outputs, auxiliary: bool) -> None:
    """Raises UserError if a network whose outputs are for pixels is to have an auxiliary head."""
    if auxiliary and isinstance(outputs, Pixels):
        raise UserError("network.auxiliary = true where each pixel has outputs; allowed: false")


def check_square(image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if a network with an auxiliary head, which ends in one pixel, is to have images [H, W, C] of two
    sizes."""
    height, width, _ = image_shape
    if height != width:
        raise UserError(
            f"network.auxiliary = true with images of {height}×{width} pixels; allowed: square ones, or "
            "network.auxiliary = false"
        )


def _init(network: nn.Module, rules: variables.Rules, scheme: Scheme, *given: Any) -> Callable[..., Any]:
    """`Model.init` of a module that is called with (images, *given, train)."""

    def init(key: jax.Array, image_shape: tuple[int, int, int]) -> variables.Variables:
        height, width, channels = image_shape
        images = jnp.zeros((channels, height, width, 2))
        return initialise(key, jax.eval_shape(lambda: network.init(key, images, *given, True)), rules, scheme)

    return init


def of_module(network: nn.Module, paths: tuple[int, ...], scheme: Scheme = UNIFORM) -> Model:
    """The model of a module that maps (images, train, path_scale) to (logits, auxiliary logits or None)."""

    def apply(params: Any, batch_stats: Any, images: jax.Array, train: bool, path_scale: Any = None) -> Any:
        (logits, auxiliary), updates = network.apply(
            {variables.PARAMS: params, variables.BATCH_STATS: batch_stats},
            images,
            train,
            path_scale,
            mutable=[variables.BATCH_STATS],
        )
        return logits, auxiliary, updates.get(variables.BATCH_STATS, batch_stats)

    return Model(_init(network, RULES, scheme), apply, paths, RULES)


def of_choosing_module(network: nn.Module, numbers: Any, rules: variables.Rules) -> Model:
    """The model of a module that maps (images, numbers, train) to logits, of the architecture that the numbers say:
    integers, which may be traced, so that what is compiled serves all architectures of their shape."""

    def apply(params: Any, batch_stats: Any, images: jax.Array, train: bool, path_scale: Any = None) -> Any:
        values = {variables.PARAMS: params, variables.BATCH_STATS: batch_stats}
        logits, updates = network.apply(values, images, numbers, train, mutable=[variables.BATCH_STATS])
        return logits, None, updates.get(variables.BATCH_STATS, batch_stats)

    return Model(_init(network, rules, UNIFORM, np.zeros(np.shape(numbers), np.int32)), apply, (0,), rules)
