"""The derived network in PyTorch: what ours is compared with and, through ONNX, measured against.

Written from the papers (DARTS, arXiv 1806.09055, Section 3.2 and its published cells) the plain way, of the modules of
`peer`. It has no auxiliary head, which is of no use after training.
"""

from benchmarks import peer
from benchmarks.peer import nn, torch
from benchmarks.peer_variables import Place, affine_norm, ends, halves, preprocessing
from dass_jax.architectures import darts as genotype
from dass_jax.networks.derived import NetworkConfig


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """The module of one edge; unlike in the supernet, no BN follows a pooling."""
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        return peer.pool(name, stride)
    return peer.primitive(name, channels, stride, affine=True)


class Cell(nn.Module):
    """Two inputs, the genotype's nodes, their concatenation."""

    def __init__(self, cell: genotype.Cell, inputs: tuple[int, int], channels: int, reduction: bool, reduced: bool):
        super().__init__()
        align = peer.FactorizedReduce if reduced else peer.ReLUConvNorm
        self.preprocess_0 = align(inputs[0], channels, affine=True)
        self.preprocess_1 = peer.ReLUConvNorm(inputs[1], channels, affine=True)
        self.sources = [[source for _, source in node] for node in cell]
        self.nodes = nn.ModuleList(
            nn.ModuleList(operation(name, channels, 2 if reduction and source < 2 else 1) for name, source in node)
            for node in cell
        )

    def forward(self, before: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        states = [self.preprocess_0(before), self.preprocess_1(previous)]
        for node, sources in zip(self.nodes, self.sources, strict=True):
            states.append(sum(edge(states[source]) for edge, source in zip(node, sources, strict=True)))
        return torch.cat(states[2:], dim=1)


class Derived(nn.Module):
    """The network of a genotype: images [N, C, H, W] → logits [N, classes]."""

    def __init__(self, found: genotype.Genotype, config: NetworkConfig, image_channels: int):
        super().__init__()
        self.stem = peer.Stem(config.stem, image_channels, config.channels)
        channels, inputs, reduced = config.channels, (self.stem.outputs,) * 2, config.stem == "imagenet"
        cells = []
        for index in range(config.cells):
            reduction = index in genotype.reductions(config.cells)
            channels *= 2 if reduction else 1
            cell = found.reduce if reduction else found.normal
            cells.append(Cell(cell, inputs, channels, reduction, reduced))
            inputs, reduced = (inputs[1], len(cell) * channels), reduction
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(inputs[1], config.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        before, previous = self.stem(images)
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return self.classifier(previous.mean((2, 3)))


def places(found: genotype.Genotype, config: NetworkConfig) -> dict[str, Place]:
    """For each tensor of the peer its place in our variables, see `peer_variables.places`."""
    named = ends(config.stem)
    reduced = config.stem == "imagenet"
    for index in range(config.cells):
        reduction = index in genotype.reductions(config.cells)
        cell = found.reduce if reduction else found.normal
        named.update(_cell(cell, f"cells.{index}", f"cell_{index}", reduction, reduced))
        reduced = reduction
    return named


def _cell(cell: genotype.Cell, theirs: str, ours: str, reduction: bool, reduced: bool) -> dict[str, Place]:
    named = preprocessing(theirs, ours, reduced, affine_norm)
    for node, pairs in enumerate(cell):
        for pair, (kind, source) in enumerate(pairs):
            stride = 2 if reduction and source < 2 else 1
            named.update(_edge(kind, stride, f"{theirs}.nodes.{node}.{pair}", f"{ours}/node_{node}_{pair}_{kind}"))
    return named


def _edge(kind: str, stride: int, theirs: str, ours: str) -> dict[str, Place]:
    if kind == "skip_connect" and stride == 2:
        return halves(theirs, f"{ours}/factorized") | affine_norm(f"{theirs}.norm", f"{ours}/norm")
    named = {}
    for part in {"sep": (1, 2), "dil": (1,)}.get(kind[:3], ()):
        for layer in ("depthwise", "pointwise"):
            named[f"{theirs}.{part - 1}.{layer}.weight"] = Place(f"params/{ours}/{layer}_{part}/conv/weight")
        named.update(affine_norm(f"{theirs}.{part - 1}.norm", f"{ours}/norm_{part}"))
    return named
