"""Our variables to the peer's parameters and buffers and back.

`dass_jax.nn.mixed` keeps the edges that leave one group of nodes in one leaf, [sources, targets, ...], and their BN
statistics as [sources, operations·targets, channels]; the peer has one module for each edge and operation. This file
is the only one that knows both layouts: each tensor of the peer is one slice of one of our leaves.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peer import nn, torch
from dass_jax.architectures.darts import edges, reductions
from dass_jax.nn.mixed import DILATED, POOLS, SEPARABLE
from dass_jax.spaces.darts import SupernetConfig
from dass_jax.variables import flatten, unflatten


class Place(NamedTuple):
    """Where a tensor of the peer is in our variables; equal up to axes of length 1."""

    path: str
    """"/"-separated, with the collection in front."""
    index: tuple[int, ...] = ()


def tensors(peer: nn.Module) -> dict[str, torch.Tensor]:
    """The peer's parameters and running statistics by name."""
    found = dict(peer.named_parameters()) | dict(peer.named_buffers())
    return {name: tensor.detach() for name, tensor in found.items() if not name.endswith("num_batches_tracked")}


def places(config: SupernetConfig) -> dict[str, Place]:
    """For each tensor of the peer its place in our variables."""
    found = {f"alpha.{name}": Place(f"alpha/{name}") for name in ("normal", "reduce")}
    found |= ends(config.stem)
    reduced = config.stem == "imagenet"
    for index in range(config.cells):
        reduction = index in reductions(config.cells)
        found.update(_cell(config, f"cells.{index}", f"cell_{index}", reduction, reduced))
        reduced = reduction
    return found


def ends(stem: str) -> dict[str, Place]:
    """The stem and the classifier, which supernets and derived networks have alike."""
    found = {
        "classifier.weight": Place("params/head/classifier/linear/weight"),
        "classifier.bias": Place("params/head/classifier/bias"),
    }
    for index in range(3 if stem == "imagenet" else 1):
        suffix = f"_{index + 1}" if stem == "imagenet" else ""
        found[f"stem.convs.{index}.weight"] = Place(f"params/stem/conv{suffix}/conv/weight")
        found.update(affine_norm(f"stem.norms.{index}", f"stem/norm{suffix}"))
    return found


def affine_norm(theirs: str, ours: str) -> dict[str, Place]:
    """BN with scale and offset."""
    names = {"weight": "scale", "bias": "bias"}
    return norm(theirs, ours) | {f"{theirs}.{t}": Place(f"params/{ours}/{o}") for t, o in names.items()}


def norm(theirs: str, ours: str, *index: int) -> dict[str, Place]:
    """The running statistics of BN."""
    return {f"{theirs}.running_{name}": Place(f"batch_stats/{ours}/{name}", index) for name in ("mean", "var")}


def halves(theirs: str, ours: str, *index: int) -> dict[str, Place]:
    """The two convolutions of a factorized reduce."""
    return {f"{theirs}.conv_{half + 1}.weight": Place(f"params/{ours}/weight", (*index, half)) for half in (0, 1)}


def preprocessing(
    theirs: str, ours: str, reduced: bool, norm: Callable[[str, str], dict[str, Place]]
) -> dict[str, Place]:
    """What aligns the two inputs of a cell; `norm`: `norm` or `affine_norm`."""
    found = {}
    for part in (0, 1):
        name, own = f"{theirs}.preprocess_{part}", f"{ours}/preprocess_{part}"
        if part == 0 and reduced:
            found.update(halves(name, f"{own}/factorized"))
        else:
            found[f"{name}.conv.weight"] = Place(f"params/{own}/pointwise/conv/weight")
        found.update(norm(f"{name}.norm", f"{own}/norm"))
    return found


def _cell(config: SupernetConfig, theirs: str, ours: str, reduction: bool, reduced: bool) -> dict[str, Place]:
    found = preprocessing(theirs, ours, reduced, norm)
    for number, (source, node) in enumerate(edges(config.nodes)):
        # Group 0 holds the edges from both inputs to all nodes, group j those from node j + 1 to the later ones.
        group, row, first = (0, source, 2) if source < 2 else (source - 1, 0, source + 1)
        targets = config.nodes + 2 - first
        stride = 2 if reduction and source < 2 else 1
        edge = _edge(f"{theirs}.edges.{number}.operations", f"{ours}/edges_{group}", row, node - first, targets, stride)
        found.update(edge)
    return found


def _edge(theirs: str, ours: str, row: int, column: int, targets: int, stride: int) -> Iterator[tuple[str, Place]]:
    """The edge in row `row` (source) and column `column` (target) of a fused group with `targets` columns."""
    for position, operation in enumerate(POOLS):
        yield from norm(f"{theirs}.{operation}.norm", f"{ours}/norm_pool", row, position, 0).items()
    if stride == 2:
        yield from halves(f"{theirs}.skip_connect", f"{ours}/skip_connect", row, column).items()
        yield from norm(f"{theirs}.skip_connect.norm", f"{ours}/norm_skip", row, 0, column).items()
    for operation in (*SEPARABLE, *DILATED):
        for part in (1, 2) if operation in SEPARABLE else (1,):
            for layer in ("depthwise", "pointwise"):
                place = Place(f"params/{ours}/{operation}_{layer}_{part}/weight", (row, column))
                yield f"{theirs}.{operation}.{part - 1}.{layer}.weight", place
    for position, operation in enumerate(SEPARABLE):
        norms = f"{theirs}.{operation}.0.norm", f"{theirs}.{operation}.1.norm"
        yield from norm(norms[0], f"{ours}/norm_1", row, position * targets + column).items()
        yield from norm(norms[1], f"{ours}/norm_2", row, position, column).items()
    for position, operation in enumerate(DILATED):
        yield from norm(f"{theirs}.{operation}.0.norm", f"{ours}/norm_dilated", row, position, column).items()


Places = Mapping[str, Place]


def split(places: Places, variables: Any) -> dict[str, np.ndarray]:
    """Our variables, or a part of their collections, as arrays by the peer's names."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(variables).items()}
    return {name: leaves[place.path][place.index] for name, place in places.items() if place.path in leaves}


def load(peer: nn.Module, places: Places, variables: Any) -> None:
    """Copies our variables {"params", "batch_stats", …} into the peer.

    Raises:
      KeyError: if the two do not have the same leaves.
    """
    values, own = split(places, variables), tensors(peer)
    if unknown := own.keys() ^ values.keys():
        raise KeyError(f"not in both networks: {sorted(unknown)}")
    for name, tensor in own.items():
        tensor.copy_(torch.from_numpy(values[name].copy()).reshape(tensor.shape))


def gather(places: Places, values: Mapping[str, torch.Tensor], shapes: Any) -> Any:
    """Inverse of `split` for tensors by the peer's names, such as gradients: a tree like `shapes`.

    Entries that no tensor of the peer fills are NaN, so that a comparison finds them.
    """
    leaves = {path: np.full(leaf.shape, np.nan) for path, leaf in flatten(shapes).items()}
    for name, place in places.items():
        if place.path in leaves:
            slot = leaves[place.path][place.index]
            leaves[place.path][place.index] = values[name].numpy().reshape(slot.shape)
    return unflatten(leaves)
