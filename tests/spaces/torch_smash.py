"""The networks of the SMASH space in PyTorch, each built without masks from its architecture, as functions of the
parameters by their paths: for comparison, in plain loops."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from dass_jax.architectures.smash import Architecture, Op
from dass_jax.architectures.smash_sizes import mid_channels
from dass_jax.spaces.smash_codes import Fields, ranges

Tensors = Mapping[str, torch.Tensor]


def encoding(c: Fields, a: Architecture, noise: np.ndarray) -> torch.Tensor:
    """[1, 1 + channels, k, slices in use + 1]; noise [k, all slices]."""
    r = ranges(c)
    banks, k, kernels, dilations = r.sizes.banks, r.sizes.most, len(r.kernels), max(r.dilations)
    slices = sum(len(op.read) * block.bank_size // 2 for block in a.blocks for op in block.ops)
    image = -np.ones((1 + 2 * banks + 3 + k + 2 * dilations + 2 * kernels + len(r.groups), k, slices + 1))
    image[0] = noise[:, : slices + 1]
    marks, start = image[1:], 0
    for number, block in enumerate(a.blocks):
        for op in block.ops:
            end = start + len(op.read) * block.bank_size // 2
            height = op.filters // r.sizes.unit
            for j, bank in enumerate(op.read):
                first, last = j * block.bank_size // 2, -(-(j + 1) * block.bank_size // 2)
                marks[bank, :height, start + first : start + last] = 1
            places = [banks + bank for bank in op.write] + [2 * banks + number, 2 * banks + 3 + height - 1]
            base = 2 * banks + 3 + k
            places += [base + op.dilation[0] - 1, base + dilations + op.dilation[1] - 1]
            base += 2 * dilations
            places += [base + r.kernels.index(op.kernel[0]), base + kernels + r.kernels.index(op.kernel[1])]
            places += [base + 2 * kernels + r.groups.index(op.groups) - c.legacy]
            marks[places, :height, start:end] = 1
            start = end
    return torch.from_numpy(image)[None]


def generated(c: Fields, params: Tensors, image: torch.Tensor) -> torch.Tensor:
    """The weights [input channels, output channels] of all operations, one after another."""

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = params[f"hyper/{name}/weight"]
        return functional.conv2d(x, weight / weight.norm(), padding=weight.shape[-1] // 2)

    x = torch.cat([image, conv(image, "first")], 1)
    for number, count in enumerate((c.hyper_first, c.hyper_second, c.hyper_third)):
        for layer in range(count):
            x = torch.cat([x, conv(functional.leaky_relu(x, 0.02), f"dense_{number}_{layer}")], 1)
        x = conv(functional.leaky_relu(x, 0.02), f"transition_{number}")
    inner, slices = 2 * c.unit, x.shape[-1]
    p, r = np.indices((inner * slices, c.filters))
    return x[0, (r % c.unit) * inner + p % inner, r // c.unit, p // inner]


def outputs(c: Fields, a: Architecture, p: Tensors, stats: Tensors, noise: Any, x: torch.Tensor, train: bool,
            keep: float = 1.0) -> torch.Tensor:  # fmt: skip
    """[N, O] of images [N, C, H, W]."""
    sizes, start = ranges(c).sizes, 0
    weights = generated(c, p, encoding(c, a, noise))
    x = functional.conv2d(x, p["stem/conv/weight"], padding=c.stem // 2).relu()
    for number, block in enumerate(a.blocks, 1):
        if number > 1:
            transition = p[f"transition_{number - 1}/conv/weight"][:, : x.shape[1], None, None]
            x = functional.avg_pool2d(functional.conv2d(x, transition), 2)
        size = block.bank_size * c.unit
        banks = dict(enumerate(x.split(size, 1)))
        if x.shape[1] % size:
            del banks[max(banks)]
        for op in block.ops:
            inputs = len(op.read) * size
            mid = min(mid_channels(sizes, inputs, op.filters), c.filters)
            own = weights[start : start + inputs, :mid]
            start += inputs
            y = torch.cat([banks[bank] for bank in op.read], 1)
            y = operation(op, y, pruned(own, keep), p[f"block_{number}/kernel/weight"])
            parts = y.split(size, 1)
            for place, bank in enumerate(op.write):
                part = parts[place % len(parts)]
                banks[bank] = banks[bank] + part if bank in banks else part
        x = torch.cat([banks[bank] for bank in range(len(banks))], 1)
        x = norm(x, p, stats, f"norm_{number}", train).relu()
    head = p["head/classifier/linear/weight"][:, : x.shape[1]]
    return x.mean((2, 3)) @ head.T + p["head/classifier/bias"]


def pruned(weight: torch.Tensor, keep: float) -> torch.Tensor:
    count = weight.numel() - int((1 - keep) * weight.numel())
    least = weight.detach().abs().flatten().sort(descending=True).values[count - 1]
    kept = weight * (weight.detach().abs() >= least)
    return kept / kept.norm()


def operation(op: Op, x: torch.Tensor, pointwise: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    x = functional.conv2d(x, pointwise.T[..., None, None]).relu()
    high, wide = ((shared.shape[-1] - side) // 2 for side in op.kernel)
    window = shared[: op.filters, : x.shape[1] // op.groups]
    window = window[:, :, high : shared.shape[-1] - high, wide : shared.shape[-1] - wide]
    padding = [side // 2 * step for side, step in zip(op.kernel, op.dilation, strict=True)]
    return functional.conv2d(x, window, padding=padding, dilation=op.dilation, groups=op.groups)


def norm(x: torch.Tensor, p: Tensors, stats: Tensors, name: str, train: bool) -> torch.Tensor:
    used = x.shape[1]
    mean, var, scale, bias = (
        tree[f"{name}/{leaf}"][:used] for tree, leaf in ((stats, "mean"), (stats, "var"), (p, "scale"), (p, "bias"))
    )
    return functional.batch_norm(x, mean.clone(), var.clone(), scale, bias, training=train)
