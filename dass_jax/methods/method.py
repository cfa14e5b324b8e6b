"""What a method is given and what it gives: phases that search an architecture."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dass_jax import bilevel
from dass_jax.accounting import Count
from dass_jax.phases import Search
from dass_jax.sparsity import Distribution
from dass_jax.tasks import Task
from dass_jax.variables import Variables


class Problem(NamedTuple):
    """What is searched and by what means, with the configuration resolved. Spaces are known as functions only."""

    space: Callable[..., Any]
    """() → `spaces.Space`; with {matrix: bool [rows, columns]} that of the living operations alone."""
    task: Task
    image_shape: tuple[int, int, int]
    """[H, W, C]."""
    keep: float
    """Fraction of the weights that will survive pruning."""
    hypergradient: bilevel.Hypergradient
    average: bilevel.Reduce
    """The mean over the devices that share a batch."""
    macs: Callable[[Any], int]
    """Space → multiply-accumulates of its supernet for one image."""
    size: Callable[[Any], Count]
    """Architecture → the size of the network that will be trained of it."""
    given: Any = None
    """The architecture that the configuration names; None: none."""
    distribution: Distribution = "layer"
    """How the weights that survive are shared out over the layers."""

    def shapes(self, space: Any) -> Variables:
        """The variables of a space, as shapes."""
        return jax.eval_shape(lambda: space.init(jax.random.key(0), self.image_shape))


def one_phase(c: Any) -> int:
    """`Entry.epochs` of a method whose field `epochs` is that of the whole search."""
    return int(c.epochs)


class Entry(NamedTuple):
    """A method as configurations name it: `[method] name`."""

    about: str
    """In a few words, for `--help`."""
    schema: type
    """Of its fields. A control has its main method's values of those that both have."""
    search: Callable[[Any, Problem], Search]
    """(fields, problem) → search."""
    epochs: Callable[[Any], int] = lambda fields: 0
    """Fields → epochs of the whole search, which a control gets as its `epochs`."""
    hypergradient: bool = False
    """Whether the search uses `Problem.hypergradient`: only then can `[hypergradient]` be set."""
    sampled: bool | str | None = False
    """Whether it searches a space whose architectures are drawn one at a time, or one that mixes them, as
    `spaces.Entry.sampled` has it; None: any."""
