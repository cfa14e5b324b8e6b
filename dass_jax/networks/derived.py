"""The network of a genotype at any size. Source: DARTS' published networks; DASS (arXiv 2207.06968) Section 5."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.architectures.darts import Cell, Genotype, reductions
from dass_jax.networks.model import Model, of_module
from dass_jax.nn import heads, layers
from dass_jax.nn.primitives import primitive
from dass_jax.nn.stems import STEMS, first_is_reduced
from dass_jax.variables import BATCH_STATS, PARAMS


class NetworkConfig(NamedTuple):
    """Sizes of a derived network; the defaults are DASS-Small's."""

    classes: int = 10
    cells: int = 20
    channels: int = 36
    stem: str = "cifar"
    auxiliary: bool = True


class DerivedCell(nn.Module):
    """One cell: [C0, H, W, N] and [C1, H', W', N] → [nodes·channels, …]."""

    cell: Cell
    channels: int
    reduction: bool
    previous_reduced: bool
    norm: layers.Norm
    pool_norm: layers.Norm | None = None

    @nn.compact
    def __call__(self, before: jax.Array, previous: jax.Array, path_scale: jax.Array | None = None) -> jax.Array:
        align = layers.FactorizedReduce if self.previous_reduced else layers.ReLUConvNorm
        states = [
            align(self.channels, self.norm, name="preprocess_0")(before),
            layers.ReLUConvNorm(self.channels, self.norm, name="preprocess_1")(previous),
        ]
        for node, pairs in enumerate(self.cell):
            parts = []
            for pair, (operation, source) in enumerate(pairs):
                stride = 2 if self.reduction and source < 2 else 1
                name = f"node_{node}_{pair}_{operation}"
                module = primitive(operation, self.channels, stride, self.norm, self.pool_norm, name)
                part = module(states[source])
                # An identity is never dropped: it is the path that remains (DARTS).
                if path_scale is not None and not (operation == "skip_connect" and stride == 1):
                    part = part * path_scale[node, pair]
                parts.append(part)
            states.append(sum(parts).astype(previous.dtype))
        return jnp.concatenate(states[2:], axis=0)


class Network(nn.Module):
    """Stem, cells, classifier; the auxiliary head reads the cell at two thirds of the depth, in training only."""

    genotype: Genotype
    config: NetworkConfig
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> Any:
        c = self.config
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average)
        before, previous = STEMS[c.stem](c.channels, norm, name="stem")(x)
        channels, reduced, auxiliary = c.channels, first_is_reduced(c.stem), None
        for index in range(c.cells):
            reduction = index in reductions(c.cells)
            channels *= 2 if reduction else 1
            nodes = self.genotype.reduce if reduction else self.genotype.normal
            cell = DerivedCell(nodes, channels, reduction, reduced, norm, name=f"cell_{index}")
            scale = None if path_scale is None else path_scale[index]
            before, previous, reduced = previous, cell(before, previous, scale), reduction
            if c.auxiliary and train and index == 2 * c.cells // 3:
                auxiliary = heads.AuxiliaryHead(c.classes, c.stem, norm, name="auxiliary")(previous)
        return heads.Classifier(c.classes, name="head")(previous), auxiliary


def cell_maps(genotype: Genotype, config: NetworkConfig, dtype: Any = None) -> Callable[..., tuple[jax.Array, ...]]:
    """(params, batch_stats, images [C, H, W, N]) → what each cell puts out in evaluation, in their order, each
    [nodes·channels, H', W', N]; leaves of an auxiliary head may be among the variables."""
    network = Network(genotype, config._replace(auxiliary=False), dtype=dtype)

    def maps(params: Any, batch_stats: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        _, kept = network.apply(
            {PARAMS: params, BATCH_STATS: batch_stats},
            images,
            False,
            capture_intermediates=lambda module, _: isinstance(module, DerivedCell),
            mutable=["intermediates"],
        )
        return tuple(kept["intermediates"][f"cell_{index}"]["__call__"][0] for index in range(config.cells))

    return maps


def derived(
    genotype: Genotype, config: NetworkConfig, average: layers.Average = layers.one_device, dtype: Any = None
) -> Model:
    """The model of the given genotype and sizes; `average` and `dtype` as in `spaces.darts`."""
    network = Network(genotype, config, average, dtype)
    pairs = max(len(node) for cell in genotype for node in cell)
    return of_module(network, (config.cells, len(genotype.normal), pairs))
