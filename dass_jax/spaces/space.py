"""What every search space offers, as pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import variables
from dass_jax.nn.initial import UNIFORM, Scheme, initialise
from dass_jax.policies import Policy


class Choice(NamedTuple):
    """One matrix of a space's choice: what its rows and columns are called. A relaxed space mixes the columns of each
    row, float [rows, columns]; of a sampled one the choice is one column for each row, int32 [rows]. Rows are edges or
    places, columns operations."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    grid: tuple[tuple[int, int], ...] = ()
    """Where each row is drawn, see `phases.Matrix`."""
    allowed: tuple[int, ...] = ()
    """Of a sampled space: from how many columns, the first ones, each row chooses."""

    @property
    def zeros(self) -> np.ndarray:
        """A choice of the right shape and dtype."""
        return np.zeros(len(self.rows), np.int32) if self.allowed else np.zeros(self.shape, np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.columns)


class Sampled(NamedTuple):
    """What a space offers whose architectures are integers, drawn one at a time.

    * `policy`: a trainable distribution over the choices
    * `uniform(key)` → choice
    * `moving(params, choice)` → a tree like params: bool, each with as many leading axes of the leaf's as it needs,
      whether that part of the leaf is part of the network of this choice
    """

    policy: Policy
    uniform: Callable[[jax.Array], Any]
    moving: Callable[[Any, Any], Any]


class Written(NamedTuple):
    """What a space offers for whose architectures a hyper-network writes weights.

    * `draw(key, key of the noise, progress in [0, 1])` → choice, with the noise that the hyper-network sees beside
      it
    * `perturb(choice, key)` → a choice near it, of the same noise
    * `decays(params)` → a tree like params: bool, what is not of the hyper-network
    * `kept(choice, share)` → the choice with the share of the written weights that are kept, by magnitude, before
      they are divided by their norm
    * `beside`: what of a choice is not of its architecture: noise, the share
    * `windows`: which of the weights that are not written are windows that all architectures share
    """

    draw: Callable[[jax.Array, jax.Array, Any], Any]
    perturb: Callable[[Any, jax.Array], Any]
    decays: Callable[[Any], Any]
    kept: Callable[[Any, Any], Any]
    beside: tuple[str, ...]
    windows: variables.Rules


class Space(NamedTuple):
    """A search space.

    * `init(key, image_shape [H, W, C])` → {"params", "batch_stats"}
    * `apply(params, batch_stats, choice, images [C, H, W, N], train)` → (outputs [N, O], batch_stats); choice
      {name: float [rows, columns]}, the weights of every operation of every row
    * `encode(architecture)` → choice: the supernet then computes what the network of that architecture computes on
      the weights that the two share
    * `decode(choice)` → architecture
    * `sample(generator)` → architecture, drawn uniformly on the host
    * `choices`: name → labels of the matrix of that name
    * `rules`: which leaves of params may be pruned
    * `settle(choice)` → architecture, with every edge that the choice gives to an operation other than none: what a
      search finds that leaves one operation alive on each edge. As `decode` where that limits no number of edges
    * `carried(tree, live, before)` → what the program of the living operations `live`, {name: bool [rows,
      columns]}, keeps of a tree (params, batch_stats, momentum, …) of the program of `before` (None: all
      operations); None: the space has no smaller programs
    * `skips(architecture)` → {matrix: how many of the operations chosen there are skip connections}
    * `whole`: the architecture of everything that the space has; None: its operations exclude each other
    * `costs`: name → (choice → {matrix: for each entry what it costs, as a factor of at most 1})
    * `sampled`: None for a relaxed space
    * `written`: None but for a space with a hyper-network
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
    sampled: Sampled | None = None
    written: Written | None = None


def of_module(
    network: nn.Module, choices: Mapping[str, Choice], rules: variables.Rules, scheme: Scheme = UNIFORM
) -> tuple[Callable[..., variables.Variables], Callable[..., tuple[jax.Array, Any]]]:
    """`init` and `apply` of a supernet: a module that maps (images, choice, train) to outputs."""

    def init(key: jax.Array, image_shape: tuple[int, int, int]) -> variables.Variables:
        height, width, channels = image_shape
        choice = {name: labels.zeros for name, labels in choices.items()}
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
        return outputs, updates.get(variables.BATCH_STATS, batch_stats)

    return init, apply


class Uniform(NamedTuple):
    """The uniform distribution over the choices of a sampled space."""

    host: Callable[[np.random.Generator], Any]
    traced: Callable[[jax.Array], Any]


def uniform(choices: Mapping[str, Choice]) -> Uniform:
    """That of the given choices; a key or generator → {name: int32 [rows]}."""

    def host(generator: np.random.Generator) -> Any:
        return {name: generator.integers(choice.allowed, dtype=np.int32) for name, choice in choices.items()}

    def traced(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(choices))
        return {
            name: jax.random.randint(k, (len(choice.rows),), 0, np.array(choice.allowed, np.int32))
            for k, (name, choice) in zip(keys, choices.items(), strict=True)
        }

    return Uniform(host, traced)
