"""What every search space offers, as pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.nn.initial import UNIFORM, Scheme, initialise


class Choice(NamedTuple):
    """One matrix of a space's choice: what its rows and columns are called. A relaxed space mixes the columns of each
    row; rows are edges or places, columns operations."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    grid: tuple[tuple[int, int], ...] = ()
    """Where each row is drawn, see `phases.Matrix`."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.columns)


class Space(NamedTuple):
    """A search space.

    init(key, image_shape [H, W, C]) → {"params", "batch_stats"}
    apply(params, batch_stats, choice, images [C, H, W, N], train) → (outputs [N, O], batch_stats);
      choice {name: float [rows, columns]}, the weights of every operation of every row
    encode(architecture) → choice: the supernet then computes what the network of that architecture computes on the
      weights that the two share
    decode(choice) → architecture
    sample(generator) → architecture, drawn uniformly on the host
    choices: name → labels of the matrix of that name
    rules: which leaves of params may be pruned
    settle(choice) → architecture, with every edge that the choice gives to an operation other than none: what a search
      finds that leaves one operation alive on each edge. As `decode` where that limits no number of edges
    carried(tree, live, before) → what the program of the living operations `live`, {name: bool [rows, columns]}, keeps
      of a tree (params, batch_stats, momentum, …) of the program of `before` (None: all operations); None: the space
      has no smaller programs
    skips(architecture) → {matrix: how many of the operations chosen there are skip connections}
    whole: the architecture of everything that the space has; None: its operations exclude each other
    costs: name → (choice → {matrix: for each entry what it costs, as a factor of at most 1})
    """

    init: Callable[..., variables.Variables]
    apply: Callable[..., tuple[jax.Array, Any]]
    encode: Callable[[Any], dict[str, np.ndarray]]
    decode: Callable[[Any], Any]
    sample: Callable[[np.random.Generator], Any]
    choices: Mapping[str, Choice]
    rules: variables.Rules
    settle: Callable[[Any], Any]
    carried: Callable[..., Any] | None = None
    skips: Callable[[Any], dict[str, int]] = lambda architecture: {}
    whole: Any = None
    costs: Mapping[str, Callable[[Any], dict[str, Any]]] = {}


def of_module(
    network: nn.Module, choices: Mapping[str, Choice], rules: variables.Rules, scheme: Scheme = UNIFORM
) -> tuple[Callable[..., variables.Variables], Callable[..., tuple[jax.Array, Any]]]:
    """`init` and `apply` of a supernet: a module that maps (images, choice, train) to outputs."""

    def init(key: jax.Array, image_shape: tuple[int, int, int]) -> variables.Variables:
        height, width, channels = image_shape
        choice = {name: jnp.zeros(labels.shape) for name, labels in choices.items()}
        images = jnp.zeros((channels, height, width, 2))
        return initialise(key, jax.eval_shape(lambda: network.init(key, images, choice, train=True)), rules, scheme)

    def apply(params: Any, batch_stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
        outputs, updates = network.apply(
            {variables.PARAMS: params, variables.BATCH_STATS: batch_stats},
            images,
            choice,
            train,
            mutable=[variables.BATCH_STATS],
        )
        return outputs, updates[variables.BATCH_STATS]

    return init, apply
