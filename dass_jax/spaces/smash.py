"""The SMASH space (arXiv 1708.05344): one program for the networks of all architectures, of maximal shapes and masks.
Source: the paper and the authors' public code.

The weights of an operation's 1×1 convolution are written by a hyper-network that sees the architecture, divided by
their norm; k×k windows are cut from one weight for each block. A block's memory is one array, zero where nothing was
written; what is not part of an architecture is masked, and operations that it lacks are not computed.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import sparsity, variables
from dass_jax.architectures import smash_sizes
from dass_jax.architectures.smash import Architecture
from dass_jax.architectures.smash_sizes import COMPRESSION, Memory
from dass_jax.nn import kernels, layers
from dass_jax.nn.heads import head
from dass_jax.nn.initial import initialise
from dass_jax.spaces import smash_codes, smash_draws
from dass_jax.spaces.smash_codes import BANK_SIZE, BLOCK_NAMES, NOISE, Fields, Ranges, Rows, rows_of
from dass_jax.spaces.smash_hyper import HyperNet, encoding, layout, matrix, unit_norm
from dass_jax.spaces.space import Choice, Space, Written
from dass_jax.tasks import Outputs

HYPER = "hyper"
"""The hyper-network's part of the parameters."""
KEPT = "kept"
"""In a choice, where it is there: the share of each operation's generated weights that are kept, by magnitude, before
they are divided by their norm. Source: SCAS (Yeshwanth et al. 2020) Algorithm 3."""
RULES: variables.Rules = ((rf"{HYPER}/.*", None), (r".*/weight", 0), (r".*/(scale|bias)", None))
WINDOWS: variables.Rules = (("block_[1-3]/kernel/weight", 0), (".*", None))
_DRAWN: variables.Rules = ((r".*/weight", 0), (r".*/(scale|bias)", None))


class MaskedNorm(nn.Module):
    """BN, ReLU and a mask over channels; only what it leaves moves the running statistics."""

    train: bool
    average: layers.Average

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[:1])
        bias = self.param("bias", nn.initializers.zeros, x.shape[:1])
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[:1])
        var = self.variable("batch_stats", "var", jnp.ones, x.shape[:1])
        epsilon, momentum = layers.BatchNorm.epsilon, layers.BatchNorm.momentum
        if not self.train:
            inverse = kernels.inverse_deviation(var.value, epsilon)
            y = kernels.scaled(x, *kernels.scale_and_shift(mean.value, inverse, (scale, bias)))
        else:
            average = layers.one_device if self.is_initializing() else self.average
            y, now = kernels.normalised(x, (scale, bias), average, epsilon)
            if not self.is_initializing():
                for old, new in zip((mean, var), now, strict=True):
                    moved = momentum * old.value + (1 - momentum) * new
                    old.value = jnp.where(mask > 0, moved, old.value).astype(old.value.dtype)
        return kernels.relu(y) * kernels.spread(mask.astype(y.dtype))


class MemoryBlock(nn.Module):
    """What comes in [inputs, H, W, N] to the memory after all operations [width, H, W, N].

    Operations are one loop, and those that an architecture lacks are not computed (`lax.cond`).
    """

    ranges: Ranges
    memory: Memory

    @nn.compact
    def __call__(self, x: jax.Array, size: Any, rows: Rows, starts: jax.Array, weights: jax.Array, kept: Any) -> Any:
        r, window = self.ranges, (max(self.ranges.kernels),) * 2
        shape = r.sizes.filters, r.sizes.max_bottleneck * r.sizes.filters, *window
        shared = layers.SparseWeight(shape, name="kernel")()
        filled = jnp.arange(self.memory.inputs) < input_banks(r, self.memory, size) * size * r.sizes.unit
        x = x * kernels.spread(filled.astype(x.dtype))
        memory = jnp.pad(x, ((0, self.memory.width - len(x)), *[(0, 0)] * 3))
        if self.is_initializing():
            return memory

        def step(memory: jax.Array, own: Any) -> Any:
            row, start = own
            added = functools.partial(operation, r, size, row, start, Weights(weights, shared, kept))
            return jax.lax.cond(row.units > 0, added, lambda memory: memory, memory), None

        return jax.lax.scan(step, memory, (rows, starts))[0]


class Weights(NamedTuple):
    """What an operation takes its own from."""

    generated: jax.Array
    """[input channels of all operations, N_max]."""
    shared: jax.Array
    """[N_max, most mid channels, k, k]."""
    kept: Any
    """The share of the generated ones that is kept; None: all."""


def operation(r: Ranges, size: Any, row: Rows, start: Any, weights: Weights, memory: jax.Array) -> jax.Array:
    """The memory [width, H, W, N] after one operation.

    Args:
      size: units of a bank.
      row: of the operation.
      start: its first slice of generated weights.
    """
    channel, bank_channels = jnp.arange(len(memory)), size * r.sizes.unit
    bank, offset = jnp.minimum(channel // bank_channels, r.sizes.banks - 1), channel % bank_channels
    filters = row.units * r.sizes.unit
    inputs = row.read.sum() * bank_channels
    mid = jnp.minimum(mid_channels(inputs, filters), r.sizes.filters)
    source = (jnp.cumsum(row.read) - 1)[bank] * bank_channels + offset
    part = (row.read[bank] > 0)[:, None] & (jnp.arange(r.sizes.filters) < mid)
    own = jax.lax.dynamic_slice_in_dim(weights.generated, start * COMPRESSION * r.sizes.unit, len(memory))
    pointwise = jnp.where(part, taken(source, len(memory), own.dtype) @ own, 0)
    if weights.kept is not None:
        pointwise = pruned(pointwise, part, inputs * mid, weights.kept)
    y = kernels.relu(kernels.pointwise(memory, unit_norm(pointwise).T))
    y = kernels.convolution_by_taps(y, placed(r, row, weights.shared, mid, filters))
    group = (jnp.cumsum(row.write) - 1)[bank] % jnp.maximum(row.units // size, 1)
    # Products, as the gradient of a gather is a scatter, which takes longer than all the rest.
    target = taken(group * bank_channels + offset, r.sizes.filters, y.dtype) * (row.write[bank] > 0)[:, None]
    return memory + kernels.pointwise(y, target)


def taken(places: jax.Array, count: int, dtype: Any) -> jax.Array:
    """The matrix [n, count] that takes from a column of `count` entries those at the places [n]."""
    return (places[:, None] == jnp.arange(count)).astype(dtype)


def mid_channels(inputs: Any, filters: Any) -> Any:
    """`smash_sizes.mid_channels` of arrays; the most that weights are generated for is not yet taken off."""
    bottleneck = jnp.clip(inputs // jnp.maximum(filters, 1), 1, smash_sizes.BOTTLENECK)
    return jnp.minimum(bottleneck * filters, inputs)


def pruned(weight: jax.Array, part: jax.Array, size: Any, keep: Any) -> jax.Array:
    """A weight whose largest entries are kept, `size` of them being its own (`part`); what is not has no gradient."""
    magnitudes = jnp.where(part, jnp.abs(jax.lax.stop_gradient(weight)), -1).reshape(1, -1)
    kept = size - ((1 - jnp.asarray(keep)) * size).astype(jnp.int32)
    mask = sparsity.masks.largest(magnitudes, kept.reshape(1, 1)).reshape(weight.shape)
    return jnp.where(mask, weight, 0)


def placed(r: Ranges, row: Rows, shared: jax.Array, mid: Any, filters: Any) -> jax.Array:
    """An operation's window, cut from the middle of the shared one and laid out with its groups and its dilation:
    [N_max, N_max, e, e], zero beyond its filters and mid channels."""
    source, target = jnp.arange(r.sizes.filters), jnp.arange(r.sizes.filters)
    groups = jnp.asarray(r.groups, jnp.int32)[row.groups]
    of_group, to_group = jnp.maximum(mid // groups, 1), jnp.maximum(filters // groups, 1)
    same = (target // to_group)[:, None] == source // of_group
    same &= (target < filters)[:, None] & (source < mid)
    high, wide = (
        taps(r, kernel, dilation, shared.dtype)
        for kernel, dilation in ((row.kernel_h, row.dilation_h), (row.kernel_w, row.dilation_w))
    )
    within = taken(source % of_group, shared.shape[1], shared.dtype)
    window = jnp.einsum("oshw,ah,bw->osab", shared, high, wide)
    return jnp.einsum("osab,is->oiab", window, within) * same[:, :, None, None].astype(shared.dtype)


def taps(r: Ranges, kernel: Any, dilation: Any, dtype: Any) -> jax.Array:
    """[e, k]: 1 where a pixel of the window reads a row of the shared weight."""
    most = max(r.kernels)
    extent = max((k - 1) * d + 1 for k, d in zip(r.kernels, r.dilations, strict=True))
    side = jnp.asarray(r.kernels, jnp.int32)[kernel]
    offset = jnp.arange(most) - most // 2
    inside = jnp.abs(offset) <= side // 2
    return ((jnp.arange(extent)[:, None] - extent // 2 == offset * dilation) & inside).astype(dtype)


def input_banks(r: Ranges, memory: Memory, size: Any) -> Any:
    """Banks that a block's input fills."""
    return memory.inputs // (r.sizes.unit * size)


class Supernet(nn.Module):
    """Images [C, H, W, N] and a choice to outputs [N, O]."""

    ranges: Ranges
    fields: Fields
    outputs: Outputs
    average: layers.Average = layers.one_device
    dtype: Any = None
    """Of the activations (`nn.precision`); None: as the images."""

    @nn.compact
    def __call__(self, x: jax.Array, choice: Any, train: bool) -> jax.Array:
        image, x = x.shape[1:3], x if self.dtype is None else x.astype(self.dtype)
        r, stem = self.ranges, self.fields.stem
        memories, weights = smash_sizes.memories(r.sizes), self._weights(choice)
        starts = jnp.split(layout(r, choice).start, np.cumsum(r.rows)[:-1])
        x = kernels.relu(layers.SparseConv(memories[0].inputs, stem, padding=stem // 2, name="stem")(x))
        for number, (name, memory) in enumerate(zip(BLOCK_NAMES, memories, strict=True)):
            if number:
                x = layers.Halved()(layers.SparseConv(memory.inputs, name=f"transition_{number}")(x))
            size, rows = jnp.asarray(choice[BANK_SIZE])[number], rows_of(r, jnp.asarray(choice[name]))
            x = MemoryBlock(r, memory, name=name)(x, size, rows, starts[number], weights, choice.get(KEPT))
            last = jnp.max(rows.write * jnp.arange(1, r.sizes.banks + 1))
            used = jnp.maximum(last, input_banks(r, memory, size)) * size * r.sizes.unit
            mask = (jnp.arange(memory.width) < used).astype(jnp.float32)
            x = MaskedNorm(train, self.average, name=f"norm_{number + 1}")(x, mask)
        norm = layers.batch_norm(train, affine=True, average=self.average)
        return head(self.outputs, norm, image)(x)

    def _weights(self, choice: Any) -> jax.Array:
        c, r = self.fields, self.ranges
        depths = c.hyper_first, c.hyper_second, c.hyper_third
        net = HyperNet(COMPRESSION * r.sizes.unit**2, c.hyper_growth, depths, name=HYPER)
        generated = matrix(r, net(*encoding(r, choice, c.legacy)))
        # So that a piece of a memory's width can be cut out anywhere.
        return jnp.pad(generated, ((0, smash_sizes.memories(r.sizes)[-1].width), (0, 0)))


def smash(c: Fields, outputs: Outputs, average: layers.Average = layers.one_device, dtype: Any = None) -> Space:
    """The space of the given sizes.

    Args:
      average: averages BN statistics over devices.
      dtype: of the activations; None: as the images. All variables and outputs are float32 at least.

    Raises:
      UserError: for fields that do not go together.
    """
    r = smash_codes.ranges(c)
    network, labels = Supernet(r, c, outputs, average, dtype), choices(r)

    def init(key: jax.Array, image_shape: tuple[int, int, int]) -> variables.Variables:
        height, width, channels = image_shape
        images = jnp.zeros((channels, height, width, 2))
        nothing = {name: label.zeros for name, label in labels.items()}
        return initialise(key, jax.eval_shape(lambda: network.init(key, images, nothing, train=True)), _DRAWN)

    def apply(params: Any, batch_stats: Any, choice: Any, images: jax.Array, train: bool) -> Any:
        given = {variables.PARAMS: params, variables.BATCH_STATS: batch_stats}
        outputs, updates = network.apply(given, images, choice, train, mutable=[variables.BATCH_STATS])
        return outputs, updates[variables.BATCH_STATS]

    def decode(choice: Any) -> Architecture:
        return smash_codes.decode(r, choice)

    def sample(generator: np.random.Generator) -> Architecture:
        key = jax.random.key(int(generator.integers(2**31)))
        return decode(jax.jit(smash_draws.draw, static_argnums=0)(r, key, key, 1.0))

    return Space(
        init=init,
        apply=apply,
        encode=lambda a: smash_codes.encode(r, a),
        decode=decode,
        sample=sample,
        choices=labels,
        rules=RULES,
        settle=decode,
        written=Written(
            draw=functools.partial(smash_draws.draw, r),
            perturb=functools.partial(smash_draws.perturb, r),
            decays=decays,
            kept=lambda choice, share: {**choice, KEPT: share},
            beside=(NOISE, KEPT),
            windows=WINDOWS,
        ),
    )


def decays(params: Any) -> Any:
    """Of each leaf whether it is learned as it is, not by the hyper-network."""
    leaves = variables.flatten(params)
    return variables.unflatten({path: not path.startswith(f"{HYPER}/") for path in leaves})


def choices(r: Ranges) -> dict[str, Choice]:
    """What the integers of a choice are called."""
    banks = [f"{what} bank {bank}" for what in ("reads", "writes") for bank in range(r.sizes.banks)]
    names, k = [*banks, *smash_codes.FIELDS], len(r.kernels)
    values = [2] * len(banks) + [r.sizes.most + 1, k, k, max(r.dilations) + 1, max(r.dilations) + 1, len(r.groups)]

    def choice(title: str, rows: Iterable[str], allowed: tuple[int, ...]) -> Choice:
        return Choice(title, tuple(rows), tuple(map(str, range(max(allowed)))), allowed=allowed)

    blocks = {
        name: choice(
            name.replace("_", " "), (f"op {op}: {field}" for op in range(rows) for field in names), tuple(values) * rows
        )
        for name, rows in zip(BLOCK_NAMES, r.rows, strict=True)
    }
    count = r.sizes.most * r.slices
    noise = choice("noise, not integers", map(str, range(count)), (1,) * count)
    return {BANK_SIZE: choice("bank sizes", BLOCK_NAMES, (r.sizes.most + 1,) * 3), **blocks, NOISE: noise}


def from_fields(c: Fields, outputs: Outputs, average: layers.Average, dtype: Any) -> Space:
    """The space that a configuration describes."""
    return smash(c, outputs, average, dtype)


def check(c: Fields) -> None:
    """Raises UserError for fields that do not go together."""
    smash_codes.ranges(c)
