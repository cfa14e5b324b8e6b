"""The network of a genotype at any size. Source: DARTS' published networks; DASS (arXiv 2207.06968) Section 5."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.architectures.darts import Cell, Genotype, connected, reductions
from dass_jax.errors import UserError
from dass_jax.networks.model import Model, check_auxiliary, check_square, of_module
from dass_jax.nn import heads, layers
from dass_jax.nn.kernels.windows import output_size
from dass_jax.nn.primitives import primitive
from dass_jax.nn.stems import STEMS, check_stem, first_is_reduced, stride_of
from dass_jax.schema import Decay, NotNegative, Range
from dass_jax.tasks import Outputs
from dass_jax.variables import AUXILIARY, BATCH_STATS, PARAMS


@dataclasses.dataclass(frozen=True)
class Fields:
    """A network of DARTS cells; it inherits nothing from the supernet."""

    cells: Annotated[int, Range(1, 200)] = 20
    """Number of cells. DASS Table 2, DASS-Small."""
    channels: Annotated[int, Range(1, 4096)] = 36
    """Channels of the first cells. DASS Table 2, DASS-Small."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """`cifar` (one 3×3 convolution) or `imagenet` (three, each of stride 2). DARTS."""
    auxiliary: bool = True
    """Train with an auxiliary classifier at two thirds of the depth. DARTS."""
    auxiliary_weight: NotNegative = 0.4
    """Weight of the auxiliary classifier's loss. DARTS."""
    drop_path: Decay = 0.2
    """Probability, reached linearly at the end of a phase, that an operation's output is dropped. DARTS."""


class NetworkConfig(NamedTuple):
    """Sizes of a derived network; the defaults are DASS-Small's."""

    classes: Outputs = 10
    cells: int = 20
    channels: int = 36
    stem: str = "cifar"
    auxiliary: bool = True


class DerivedCell(nn.Module):
    """One cell: [C0, H, W, N] and [C1, H', W', N] → [connected nodes·channels, …]. A cell without a connected node puts
    out zeros, in as many channels as one node has."""

    cell: Cell
    channels: int
    reduction: bool
    previous_reduced: bool
    norm: layers.Norm
    pool_norm: layers.Norm | None = None
    dilation: int = 1
    """Of convolutions, beside their own."""

    @nn.compact
    def __call__(self, before: jax.Array, previous: jax.Array, path_scale: jax.Array | None = None) -> jax.Array:
        align = layers.FactorizedReduce if self.previous_reduced else layers.ReLUConvNorm
        states: list[Any] = [
            align(self.channels, self.norm, name="preprocess_0")(before),
            layers.ReLUConvNorm(self.channels, self.norm, name="preprocess_1")(previous),
        ]
        for node, pairs in enumerate(self.cell):
            parts = []
            for pair, (operation, source) in enumerate(pairs):
                stride = 2 if self.reduction and source < 2 else 1
                name = f"node_{node}_{pair}_{operation}"
                module = primitive(operation, self.channels, stride, self.norm, self.pool_norm, name, self.dilation)
                part = module(states[source])
                # An identity is never dropped: it is the path that remains (DARTS).
                if path_scale is not None and not (operation == "skip_connect" and stride == 1):
                    part = part * path_scale[node, pair]
                parts.append(part)
            states.append(sum(parts).astype(previous.dtype) if parts else None)
        if nodes := [states[node] for node in connected(self.cell)]:
            return jnp.concatenate(nodes, axis=0)
        height, width = (output_size(size, 1 + self.reduction) for size in previous.shape[1:3])
        return jnp.zeros((self.channels, height, width, previous.shape[3]), previous.dtype)


class Network(nn.Module):
    """Stem, cells, classifier; the auxiliary head reads the cell at two thirds of the depth, in training only."""

    genotype: Genotype
    config: NetworkConfig
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: jax.Array | None = None) -> Any:
        c, size = self.config, x.shape[1:3]
        x = x if self.dtype is None else x.astype(self.dtype)
        norm = layers.batch_norm(train, affine=True, average=self.average)
        before, previous = STEMS[c.stem](c.channels, norm, name="stem")(x)
        channels, reduced, auxiliary = c.channels, first_is_reduced(c.stem), None
        at = heads.Scale(stride_of(c.stem))
        for index in range(c.cells):
            reduction = index in reductions(c.cells)
            channels *= 2 if reduction else 1
            nodes = self.genotype.reduce if reduction else self.genotype.normal
            then = heads.halved(c.classes, at) if reduction else at
            halves, name = then.stride > at.stride, f"cell_{index}"
            cell = DerivedCell(nodes, channels, halves, reduced, norm, dilation=at.dilation, name=name)
            scale = None if path_scale is None else path_scale[index]
            before, previous, reduced, at = previous, cell(before, previous, scale), halves, then
            if c.auxiliary and train and index == 2 * c.cells // 3:
                assert isinstance(c.classes, int)  # `check_auxiliary`
                auxiliary = heads.AuxiliaryHead(c.classes, c.stem, norm, name=AUXILIARY)(previous)
        return heads.head(c.classes, norm, size)(previous), auxiliary


def cell_maps(genotype: Genotype, config: NetworkConfig, dtype: Any = None) -> Callable[..., tuple[jax.Array, ...]]:
    """(params, batch_stats, images [C, H, W, N]) → what each cell puts out in evaluation, in their order, each
    [connected nodes·channels, H', W', N]; leaves of an auxiliary head may be among the variables."""
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


def sizes(c: Fields, outputs: Outputs, auxiliary: bool) -> NetworkConfig:
    """The sizes that a configuration names. Raises UserError for an auxiliary head where outputs are for pixels."""
    check_auxiliary(outputs, auxiliary and c.auxiliary)
    return NetworkConfig(outputs, c.cells, c.channels, c.stem, auxiliary and c.auxiliary)


def check(c: Fields, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError if a network of these fields cannot be made for such images [H, W, C]."""
    check_stem("network", c.stem, c.channels)
    if not c.auxiliary:
        return
    check_square(image_shape)
    size = -(-image_shape[0] // 8) if c.stem == "imagenet" else image_shape[0]
    for reduction in reductions(c.cells):
        size = -(-size // 2) if reduction <= 2 * c.cells // 3 else size
    if not heads.auxiliary_fits(size, c.stem):
        wanted = "8 to 10" if c.stem == "cifar" else "7 or 8"
        raise UserError(
            f"network.auxiliary = true on a feature map of {size} pixels; allowed: {wanted} pixels a side, "
            "or network.auxiliary = false"
        )
