"""The network and the supernet of NAS-Bench-201 in PyTorch, edge by edge and NCHW. Source: arXiv 2001.00326 Section 2.

It shares no code with `dass_jax`; the names of its tensors are such that `place` finds ours.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("1_0", "2_0", "2_1", "3_0", "3_1", "3_2")


class ReLUConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, affine: bool):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(functional.relu(x)))


def operation(name: str, channels: int, affine: bool) -> nn.Module:
    if name.startswith("nor_conv"):
        return ReLUConvNorm(channels, channels, int(name[-1]), 1, affine)
    return nn.Identity() if name == "skip_connect" else nn.AvgPool2d(3, 1, 1, count_include_pad=False)


class Cell(nn.Module):
    """`operations`: for each edge those that it has."""

    def __init__(self, operations: list[tuple[str, ...]], channels: int, affine: bool):
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                edge: nn.ModuleDict({name: operation(name, channels, affine) for name in names if name != "none"})
                for edge, names in zip(EDGES, operations, strict=True)
            }
        )

    def forward(self, x: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            total = torch.zeros_like(x)
            for source in range(target):
                edge = f"{target}_{source}"
                for name, module in self.edges[edge].items():
                    y = module(nodes[source])
                    if weights is not None:
                        y = y * weights[EDGES.index(edge), OPERATIONS.index(name)]
                    total = total + y
            nodes.append(total)
        return nodes[3]


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv_1 = ReLUConvNorm(inputs, outputs, 3, 2, True)
        self.conv_2 = ReLUConvNorm(outputs, outputs, 3, 1, True)
        self.pool = nn.AvgPool2d(2, 2)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(self.pool(x)) + self.conv_2(self.conv_1(x))


class Network(nn.Module):
    """images [N, C, H, W], weights [edges, operations] or None → outputs [N, O]. `affine`: of the cells' BN and of the
    last one."""

    def __init__(
        self, operations: list[tuple[str, ...]], outputs: int, cells: int, channels: int, images: int, affine: bool
    ):
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(images, channels, 3, padding=1, bias=False))
        self.stem.add_module("norm", nn.BatchNorm2d(channels))
        self.cells, self.blocks, self.count = nn.ModuleList(), nn.ModuleList(), cells
        for stage in range(3):
            if stage:
                self.blocks.append(ResidualBlock(channels, 2 * channels))
                channels *= 2
            self.cells.extend(Cell(operations, channels, affine) for _ in range(cells))
        self.norm = nn.BatchNorm2d(channels, affine=affine)
        self.head = nn.Linear(channels, outputs)

    def forward(self, images: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        x = self.stem(images)
        for index, cell in enumerate(self.cells):
            if index and index % self.count == 0:
                x = self.blocks[index // self.count - 1](x)
            x = cell(x, weights)
        return self.head(functional.relu(self.norm(x)).mean((2, 3)))


def network(cell: tuple[str, ...], outputs: int, cells: int, channels: int, images: int) -> Network:
    """The network of one cell."""
    return Network([(name,) for name in cell], outputs, cells, channels, images, affine=True)


def supernet(outputs: int, cells: int, channels: int, images: int) -> Network:
    """The network of all operations."""
    return Network([OPERATIONS] * 6, outputs, cells, channels, images, affine=False)


LEAVES = {
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
}


def place(name: str, fused: bool) -> tuple[str, tuple[int, ...]]:
    """Where our variables hold a tensor: path, and index in that leaf. `fused`: in a supernet."""
    parts = name.replace("cells.", "cell_").replace("blocks.", "block_").split(".")
    owner, leaf, index = "/".join(parts[:-1]), parts[-1], ()
    if owner == "head":
        return f"params/head/classifier/{'linear/weight' if leaf == 'weight' else 'bias'}", index
    if parts[1] == "edges":
        cell, _, edge, op, part, _ = parts
        target, source = map(int, edge.split("_"))
        if fused:
            owner, index = f"{cell}/edges_{source}/{'norm_' if part == 'norm' else ''}{op}", (target - source - 1,)
            if part == "conv":
                return f"params/{owner}/weight", index
        else:
            owner = f"{cell}/edge_{edge}_{op}/{part}"
    if parts[-2] != "norm":
        return f"params/{owner}/conv/weight", index
    collection, own = LEAVES[leaf]
    return f"{collection}/{owner}/{own}", index


def tensors(peer: Network) -> dict[str, torch.Tensor]:
    """Parameters and running statistics by name."""
    return {name: value for name, value in peer.state_dict().items() if not name.endswith("num_batches_tracked")}


def at_place(name: str, ours: dict[str, np.ndarray], fused: bool) -> np.ndarray:
    """Our values of a tensor; `ours`: leaves by path."""
    path, index = place(name, fused)
    return np.asarray(ours[path])[index]


def load(peer: Network, ours: dict[str, np.ndarray], fused: bool) -> None:
    """Gives the peer our variables."""
    for name, tensor in tensors(peer).items():
        tensor.copy_(torch.from_numpy(at_place(name, ours, fused)).reshape(tensor.shape))


def count_values(peer: Network) -> dict[str, int]:
    """Values per channel that each running variance is of, filled by a forward pass. PyTorch's is that of a sample,
    n / (n − 1) times ours."""
    counts: dict[str, int] = {}
    for name, module in peer.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, inputs, y, name=name: counts.update({f"{name}.running_var": y.numel() // y.shape[1]})
            )
    return counts
