"""The DARTS supernet and its first order search step in PyTorch: the peer that the JAX step is measured against.

Written from the papers (DARTS, arXiv 1806.09055, Section 3.1; DASS, arXiv 2207.06968, Section 4.1) the plain way: every
edge and every primitive is a module of its own, images are NCHW. It shares no code with `dass_jax.nn` but the names of
the primitives and the sizes (`SupernetConfig`), so it is also an independent oracle for values and gradients.
"""

import itertools
import math
from typing import NamedTuple

from dass_jax.architectures.darts import edges, reductions
from dass_jax.errors import UserError
from dass_jax.spaces.darts import SupernetConfig

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as error:
    raise UserError("PyTorch is missing; pip install torch==2.13.0") from error


def batch_norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    """BN of the cells: without scale and offset while searching, with both in a derived network."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1, affine=affine)


class Zero(nn.Module):
    """`none`: zeros in the shape of the edge's output."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def pool(operation: str, stride: int) -> nn.Module:
    """3×3 pooling."""
    if operation == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


class Pool(nn.Module):
    """3×3 pooling, then BN."""

    def __init__(self, operation: str, channels: int, stride: int):
        super().__init__()
        self.pool = pool(operation, stride)
        self.norm = batch_norm(channels, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.pool(x))


class FactorizedReduce(nn.Module):
    """ReLU, two stride-2 1×1 convolutions to half the channels, the second one pixel further, BN."""

    def __init__(self, inputs: int, outputs: int, affine: bool = False):
        super().__init__()
        self.conv_1 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = batch_norm(outputs, affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(x)
        height, width = x.shape[2:]
        # At an odd size the second convolution would see one row or column less than the first.
        further = functional.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
        return self.norm(torch.cat([self.conv_1(x), self.conv_2(further[:, :, 1:, 1:])], dim=1))


class ReLUConvNorm(nn.Module):
    """ReLU, 1×1 convolution, BN."""

    def __init__(self, inputs: int, outputs: int, affine: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = batch_norm(outputs, affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(functional.relu(x)))


class DepthwiseSeparable(nn.Module):
    """ReLU, depthwise k×k, 1×1, BN: all of a dilated convolution and half of a separable one."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int, affine: bool):
        super().__init__()
        padding = (kernel - 1) // 2 * dilation
        self.depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = batch_norm(channels, affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.pointwise(self.depthwise(functional.relu(x))))


def primitive(operation: str, channels: int, stride: int, affine: bool = False) -> nn.Module:
    """The module of one operation of one edge; `affine` is that of its BN."""
    if operation == "none":
        return Zero(stride)
    if operation == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    if operation in ("max_pool_3x3", "avg_pool_3x3"):
        return Pool(operation, channels, stride)
    kernel = int(operation[-1])
    if operation.startswith("dil_conv"):
        return nn.Sequential(DepthwiseSeparable(channels, kernel, stride, 2, affine))
    return nn.Sequential(*(DepthwiseSeparable(channels, kernel, s, 1, affine) for s in (stride, 1)))


class MixedEdge(nn.Module):
    """One edge: the sum of all operations, each times its weight (DARTS Eq. 2)."""

    def __init__(self, operations: tuple[str, ...], channels: int, stride: int):
        super().__init__()
        self.operations = nn.ModuleDict({name: primitive(name, channels, stride) for name in operations})

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return sum(weight * operation(x) for weight, operation in zip(weights, self.operations.values(), strict=True))


class Cell(nn.Module):
    """Two inputs, `nodes` sums of mixed edges, their concatenation."""

    def __init__(self, config: SupernetConfig, inputs: tuple[int, int], channels: int, reduction: bool, reduced: bool):
        super().__init__()
        align = FactorizedReduce if reduced else ReLUConvNorm
        self.preprocess_0 = align(inputs[0], channels)
        self.preprocess_1 = ReLUConvNorm(inputs[1], channels)
        self.nodes = config.nodes
        self.edges = nn.ModuleList(
            MixedEdge(config.operations, channels, 2 if reduction and source < 2 else 1)
            for source, _ in edges(config.nodes)
        )

    def forward(self, before: torch.Tensor, previous: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        states = [self.preprocess_0(before), self.preprocess_1(previous)]
        edge_and_weights = iter(zip(self.edges, weights, strict=True))
        for _ in range(self.nodes):  # each takes as many edges as there are states before it
            incoming = zip(states, edge_and_weights, strict=False)
            states.append(sum(edge(state, weight) for state, (edge, weight) in incoming))
        return torch.cat(states[2:], dim=1)


class Stem(nn.Module):
    """Convolutions and BN before the first cell; returns the first cell's two inputs."""

    def __init__(self, kind: str, images: int, channels: int):
        super().__init__()
        imagenet = kind == "imagenet"
        sizes = (images, channels // 2, channels, channels) if imagenet else (images, 3 * channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2 if imagenet else 1, padding=1, bias=False) for i, o in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in sizes[1:])
        self.outputs = sizes[-1]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(functional.relu(x) if index else x))
            found.append(x)
        return found[-2 if len(found) > 1 else -1], x


class Supernet(nn.Module):
    """The network of all mixed operations with its α: images [N, C, H, W] → logits [N, classes]."""

    def __init__(self, config: SupernetConfig, image_channels: int):
        super().__init__()
        shape = (len(edges(config.nodes)), len(config.operations))
        self.alpha = nn.ParameterDict({name: nn.Parameter(1e-3 * torch.randn(shape)) for name in ("normal", "reduce")})
        self.stem = Stem(config.stem, image_channels, config.channels)
        self.reductions = reductions(config.cells)
        channels, inputs, reduced = config.channels, (self.stem.outputs,) * 2, config.stem == "imagenet"
        cells = []
        for index in range(config.cells):
            reduction = index in self.reductions
            channels *= 2 if reduction else 1
            cells.append(Cell(config, inputs, channels, reduction, reduced))
            inputs, reduced = (inputs[1], config.nodes * channels), reduction
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(inputs[1], config.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weights = {name: functional.softmax(alpha, dim=-1) for name, alpha in self.alpha.items()}
        before, previous = self.stem(images)
        for index, cell in enumerate(self.cells):
            kind = "reduce" if index in self.reductions else "normal"
            before, previous = previous, cell(before, previous, weights[kind])
        return self.classifier(previous.mean((2, 3)))

    def theta(self) -> list[nn.Parameter]:
        """All parameters but α."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alpha.")]


def supernet(config: SupernetConfig, image_channels: int, channels_last: bool = False) -> Supernet:
    """The peer with PyTorch's own initial values; with `channels_last` its images must have that layout too."""
    network = Supernet(config, image_channels)
    return network.to(memory_format=torch.channels_last) if channels_last else network


class Optimizers(NamedTuple):
    """One for each level."""

    alpha: torch.optim.Optimizer
    theta: torch.optim.Optimizer


def optimizers(peer: Supernet, learning_rate: float = 0.025) -> Optimizers:
    """The optimizers of the paper."""
    return Optimizers(
        torch.optim.Adam(list(peer.alpha.values()), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
        torch.optim.SGD(peer.theta(), lr=learning_rate, momentum=0.9, weight_decay=3e-4),
    )


Batch = tuple[torch.Tensor, torch.Tensor]
"""Images [N, C, H, W] and labels [N]."""


def search_step(
    peer: Supernet, optimizers: Optimizers, validation: Batch, training: Batch, clip: float = 5.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """α by Adam on the validation batch, then θ by SGD on the training batch; each level's gradient is that of its own
    parameters only. Returns both losses."""
    losses = []
    levels = (
        (list(peer.alpha.values()), optimizers.alpha, validation, math.inf),
        (peer.theta(), optimizers.theta, training, clip),
    )
    for parameters, optimizer, (images, labels), largest in levels:
        loss = functional.cross_entropy(peer(images), labels)
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        if largest < math.inf:
            nn.utils.clip_grad_norm_(parameters, largest)
        optimizer.step()
        losses.append(loss.detach())
    return losses[0], losses[1]
