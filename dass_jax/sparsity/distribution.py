"""How the weights that a network keeps are shared out over its layers: from shapes alone, in NumPy on the host.

`layer`: each layer keeps the same fraction, `kept_in_layer` (DASS, arXiv 2207.06968, Eq. 4).

`erk`: the density of a layer is ∝ (inputs + outputs) / (inputs · outputs), at most 1, with one factor for all layers.
Inputs and outputs are channels, those that an output reads: a depthwise layer has one input. Window sizes do not count.
It is the form of SET (arXiv 1707.04780, Eq. 3); with windows in both sums it would be that of RigL (arXiv 1911.11134).

`global`: the weights of the largest |score| of all layers together, each layer's divided by their root mean square. As
they are, initial scores have the scale of a freshly initialised layer, √(6 / fan_in) (Eq. 3 of DASS): layers of few
inputs would then keep nearly everything and wide ones one weight.

All three keep equally many weights in all, as many as `layer` does, and at least one in each layer: distributions are
compared at equal numbers of weights, and layers of equal shape keep under `erk` what they keep under `layer`. What is
never deployed, an auxiliary head, shares out its own.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from dass_jax import variables

Distribution = Literal["layer", "erk", "global"]
ALL = "all"


class Share(NamedTuple):
    """What the layers of a group keep, integers or arrays: each of them `each`, the first `more` of them one more."""

    each: Any
    more: Any = 0


class Group(NamedTuple):
    """Layers of one shape."""

    shape: tuple[int, ...]
    layers: int
    deployed: bool = True

    @property
    def name(self) -> str:
        """`16x16x3x3`."""
        return _name(self.deployed, "x".join(map(str, self.shape)))

    @property
    def size(self) -> int:
        """Weights of one layer."""
        return math.prod(self.shape)


class Pooled(NamedTuple):
    """Weights that all layers keep together: {whether they are deployed: how many}."""

    totals: Mapping[bool, Any]


def kept_in_layer(weights: int, keep: float) -> int:
    """How many of a layer's weights survive at the fraction `keep` in (0, 1]: one at least, also where 1 − keep is
    rounded to 1."""
    return max(weights - int((1 - keep) * weights), 1)


def kept_total(params: Any, stacks: Any, keep: float) -> int:
    """How many prunable weights of `params` (arrays or shapes) survive, however they are shared out."""
    return sum(group.layers * kept_in_layer(group.size, keep) for group in groups(params, stacks))


def groups(params: Any, stacks: Any) -> tuple[Group, ...]:
    """The prunable layers of `params` (arrays or shapes), by shape, in the order in which they come first."""
    found: dict[tuple[tuple[int, ...], bool], int] = {}
    for _, deployed, layers, shape in _leaves(params, stacks):
        found[shape, deployed] = found.get((shape, deployed), 0) + layers
    return tuple(Group(shape, layers, deployed) for (shape, deployed), layers in found.items())


def shares(found: tuple[Group, ...], keep: float, distribution: Distribution = "layer") -> dict[str, Share]:
    """What each group keeps, by its name, in integers; under `global` all groups together, as `ALL`."""
    if distribution == "layer":
        return {group.name: Share(kept_in_layer(group.size, keep)) for group in found}
    shared: dict[str, Share] = {}
    for deployed in (True, False):
        own = [group for group in found if group.deployed == deployed]
        if own:
            total = sum(group.layers * kept_in_layer(group.size, keep) for group in own)
            if distribution == "erk":
                shared |= {group.name: share for group, share in zip(own, erk(own, total), strict=True)}
            else:
                shared[_name(deployed, ALL)] = Share(*divmod(total, sum(group.layers for group in own)))
    return shared


def counts(params: Any, stacks: Any, shared: Mapping[str, Any]) -> Any:
    """Shares as ranks take them: a tree with the structure of the prunable leaves, of int32 [layers]; or `Pooled`."""
    if _name(True, ALL) in shared:
        found = groups(params, stacks)
        number = {part: sum(g.layers for g in found if g.deployed == part) for part in (True, False)}
        own = {part: shared[_name(part, ALL)] for part, layers in number.items() if layers}
        return Pooled({part: each * number[part] + more for part, (each, more) in own.items()})
    before: dict[str, int] = {}
    leaves = {}
    for path, deployed, layers, shape in _leaves(params, stacks):
        name = Group(shape, layers, deployed).name
        ranks = before.get(name, 0) + np.arange(layers, dtype=np.int32)
        before[name] = before.get(name, 0) + layers
        each, more = shared[name]
        leaves[path] = each + (ranks < more).astype(np.int32)
    return variables.unflatten(leaves)


def erk(found: list[Group], total: int) -> list[Share]:
    """`total` weights, at least one for each layer, shared out with densities ∝ (inputs + outputs) / (inputs · outputs)
    of at most 1. The largest fractions of weights are rounded up, earlier ones first if tied."""
    sizes, layers = (np.array([getattr(group, name) for group in found]) for name in ("size", "layers"))
    wanted = _filled(np.array([_density(group.shape) * group.size for group in found]), sizes, layers, total)
    each = np.minimum(np.floor(wanted).astype(np.int64), sizes)
    more, left = np.zeros_like(each), total - int((layers * each).sum())
    for place in np.argsort(each - wanted, kind="stable"):
        more[place] = min(left, layers[place]) if each[place] < sizes[place] else 0
        left -= int(more[place])
    whole = more == layers
    pairs = zip((each + whole).tolist(), np.where(whole, 0, more).tolist(), strict=True)
    return [Share(*pair) for pair in pairs]


def _filled(weights: np.ndarray, sizes: np.ndarray, layers: np.ndarray, total: int) -> np.ndarray:
    """clip(ε · weights, 1, sizes), whose sum over all layers is `total`. The sum is piecewise linear in ε, so that ε is
    found exactly: between the two corners where the sum passes the total."""

    def kept(epsilon: np.ndarray) -> np.ndarray:
        return np.clip(epsilon[:, None] * weights, 1, sizes)

    corners = np.unique(np.concatenate([1 / weights, sizes / weights]))
    sums = kept(corners) @ layers
    after = min(int(np.searchsorted(sums, total)), len(corners) - 1)
    before = max(after - 1, 0)
    rise = sums[after] - sums[before]
    share = (total - sums[before]) / rise if rise > 0 else 1.0
    return kept(np.array([corners[before] + share * (corners[after] - corners[before])]))[0]


def _density(shape: tuple[int, ...]) -> float:
    """(inputs + outputs) / (inputs · outputs) of a layer [O, I], [O, I, k, k] or, depthwise, [O, k, k]."""
    inputs, outputs = shape[1] if len(shape) in (2, 4) else 1, shape[0]
    return (inputs + outputs) / (inputs * outputs)


def deployed(stacks: Any) -> list[bool]:
    """Of each prunable leaf, in the order of JAX' trees, whether it is deployed."""
    paths = ["/".join(str(key.key) for key in keys) for keys, _ in jax.tree_util.tree_flatten_with_path(stacks)[0]]
    return [not path.startswith(f"{variables.AUXILIARY}/") for path in paths]


def _name(deployed: bool, name: str) -> str:
    return name if deployed else f"{variables.AUXILIARY} {name}"


def _leaves(params: Any, stacks: Any) -> Iterator[tuple[str, bool, int, tuple[int, ...]]]:
    """(path, whether it is deployed, layers, shape of one) of every prunable leaf, in the order of JAX' trees."""
    leaves = variables.flatten(params)
    found = jax.tree_util.tree_flatten_with_path(stacks)[0]
    for (keys, stack), own in zip(found, deployed(stacks), strict=True):
        path = "/".join(str(key.key) for key in keys)
        layers, shape = variables.layer_shape(leaves[path].shape, stack)
        yield path, own, layers, shape
