"""ENAS' child networks and final networks in PyTorch, on our variables by their paths. Images [N, C, H, W]."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

Tensor = torch.Tensor


class Variables:
    """`params/…` and `batch_stats/…`; records which were read. Without statistics BN uses the batch's."""

    def __init__(self, leaves: Mapping[str, Tensor], train: bool = True, prefix: str = "") -> None:
        self.leaves, self.train, self.prefix = leaves, train, prefix

    def __truediv__(self, name: str) -> "Variables":
        return Variables(self.leaves, self.train, f"{self.prefix}/{name}")

    def __call__(self, name: str, source: int | None = None) -> Tensor:
        leaf = self.leaves[f"params{self.prefix}/{name}"]
        return leaf if source is None else leaf[source]

    def norm(self, x: Tensor, name: str, eps: float = 1e-5, source: int | None = None) -> Tensor:
        scale, bias = (self(f"{name}/{part}", source) for part in ("scale", "bias"))
        if self.train:
            return F.batch_norm(x, None, None, scale, bias, training=True, eps=eps)
        mean, var = (self.leaves[f"batch_stats{self.prefix}/{name}/{part}"] for part in ("mean", "var"))
        return F.batch_norm(x, mean, var, scale, bias, training=False, eps=eps)

    def conv(self, x: Tensor, name: str, source: int | None = None, stride: int = 1) -> Tensor:
        w = self(f"{name}/weight", source)
        if w.dim() == 2:
            return F.conv2d(x, w[:, :, None, None], stride=stride)
        if w.dim() == 3:
            return F.conv2d(x, w[:, None], stride=stride, padding=w.shape[-1] // 2, groups=len(w))
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

    def conv_norm(self, x: Tensor, name: str) -> Tensor:
        return (self / name).norm((self / name).conv(x, "conv/conv"), "norm")

    def relu_conv_norm(self, x: Tensor, name: str) -> Tensor:
        return (self / name).norm((self / name).conv(F.relu(x), "pointwise/conv"), "norm")

    def reduced(self, x: Tensor, name: str) -> Tensor:
        return (self / name).norm(halves(x, (self / name)("factorized/weight")), "norm")

    def reduced_of(self, x: Tensor, source: int) -> Tensor:
        return self.norm(halves(x, self("factorized/weight", source)), "norms", source=source)

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), self("head/classifier/linear/weight"))


def halves(x: Tensor, weight: Tensor) -> Tensor:
    shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
    parts = [F.conv2d(y[:, :, ::2, ::2], w[:, :, None, None]) for y, w in zip((x, shifted), weight, strict=True)]
    return torch.cat(parts, 1)


def pool(x: Tensor, operation: str, stride: int = 1) -> Tensor:
    if operation.startswith("max"):
        return F.max_pool2d(x, 3, stride, 1)
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


MACRO = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
MICRO = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "identity")


def macro_child(v: Variables, operations: Any, skips: Any, pools: Any, x: Tensor) -> Tensor:
    maps, stage, row = [v.conv_norm(x, "stem")], 0, 0
    for layer, (number, bits) in enumerate(zip(operations, skips, strict=True)):
        name, own = MACRO[number], v / f"stage_{stage}"
        y = F.relu(own.norm(own.conv(maps[-1], f"{name}_inputs", row), f"{name}_norm_inputs", source=row))
        if number < 4:
            y = own.conv(y, f"{name}_kernel", row)
            y = own.conv(y, f"{name}_pointwise", row) if "sep" in name else y
            y = F.relu(own.norm(y, f"{name}_norm", 1e-3, row))
        else:
            y = pool(y, name)
        if layer:
            y = y + sum(m for m, bit in zip(maps, bits, strict=False) if bit)
            y = own.norm(y, "norms", source=row - (stage == 0))
        maps.append(y)
        row += 1
        if layer in pools:
            stage, row = stage + 1, 0
            maps = [(v / f"halving_{stage}").reduced_of(m, i) for i, m in enumerate(maps)]
    return v.logits(maps[-1])


def macro_network(v: Variables, operations: Any, skips: Any, pools: Any, separable: bool, x: Tensor) -> Tensor:
    maps: list[Any] = [v.conv_norm(x, "stem")]
    for layer, (number, bits) in enumerate(zip(operations, skips, strict=True)):
        own = v / f"layer_{layer}"
        y = F.relu(own.conv_norm(F.relu(maps[-1]), "inputs"))
        if number < 4:
            y = own.conv(y, "kernel/conv")
            y = own.conv(y, "pointwise/conv") if separable and number in (1, 3) else y
            y = own.norm(y, "norm")
        else:
            y = pool(y, MACRO[number])
        if layer:
            y = torch.cat([*(m for m, bit in zip(maps, bits, strict=False) if bit), y], 1)
            y = v.relu_conv_norm(y, f"join_{layer}")
        maps.append(y)
        if layer in pools:
            names = [f"pool_{layer}_{i}" for i in range(len(maps))]
            there = [f"params/{name}/factorized/weight" in v.leaves for name in names]
            maps = [v.reduced(m, n) if here else None for m, n, here in zip(maps, names, there, strict=True)]
    return v.logits(maps[-1])


def sep_conv(v: Variables, x: Tensor, before: str, after: str, source: int | None, stride: int) -> Tensor:
    for part, own in ((1, stride), (2, 1)):
        x = v.conv(F.relu(x), f"{before}depthwise_{part}{after}", source, own)
        x = v.conv(x, f"{before}pointwise_{part}{after}", source)
        x = v.norm(x, f"{before}norm_{part}", source=source)
    return x


def calibrated(v: Variables, before: Tensor, previous: Tensor, channels: int) -> list[Tensor]:
    if before.shape[2] != previous.shape[2]:
        before = v.reduced(F.relu(before), "preprocess_0")
    elif before.shape[1] != channels:
        before = v.relu_conv_norm(before, "preprocess_0")
    if previous.shape[1] != channels:
        previous = v.relu_conv_norm(previous, "preprocess_1")
    return [before, previous]


def micro_child(v: Variables, arc: Any, layers: int, reductions: Any, channels: int, x: Tensor) -> Tensor:
    before = previous = v.conv_norm(x, "stem")
    for index in range(layers + 2):
        cell = arc[index in reductions]
        if index in reductions:
            channels *= 2
            before, previous = previous, v.reduced(previous, f"reduce_{index}")
        own = v / f"cell_{index}"
        nodes = calibrated(own, before, previous, channels)
        for block in range(5):
            total: Any = 0
            for side in range(2):
                source, number = cell[4 * block + 2 * side :][:2]
                y, name = nodes[source], MICRO[number]
                if number < 2:
                    row = sum(b + 2 for b in range(block)) * 2 + side * (block + 2) + source
                    y = sep_conv(own, y, f"{name}_", "", row, 1)
                elif number < 4:
                    y = pool(y, name)
                total = total + y
            nodes.append(total)
        unused = [n for n in range(7) if n not in cell[::2]]
        weight = (own / "joined")("output/weight")
        y = torch.cat([F.relu(nodes[n]) for n in unused], 1)
        y = F.conv2d(y, torch.cat([weight[n] for n in unused], 1)[:, :, None, None])
        before, previous = previous, own.norm(y, "norm")
    return v.logits(F.relu(previous))


def micro_network(
    v: Variables, arc: Any, layers: int, reductions: Any, channels: int, scale: Any, x: Tensor
) -> tuple[Tensor, Any]:
    before = previous = v.conv_norm(x, "stem")
    auxiliary = None
    for index in range(layers + 2):
        reduction = index in reductions
        cell = arc[reduction]
        channels *= 1 + reduction
        own = v / f"cell_{index}"
        first, second = calibrated(own, before, previous, channels)
        nodes = [first, own.relu_conv_norm(second, "base")]
        for block in range(5):
            total: Any = 0
            for side in range(2):
                source, number = cell[4 * block + 2 * side :][:2]
                y, name, edge = nodes[source], MICRO[number], own / f"edge_{block}_{side}"
                stride = 2 if reduction and source < 2 else 1
                if number < 2:
                    y = sep_conv(edge / "sep_conv", y, "", "/conv", None, stride)
                elif number < 4:
                    y = pool(y, name, stride)
                elif stride == 2:
                    y = edge.reduced(y, "reduce")
                if scale is not None and number < 4:
                    y = y * scale[index, block, side][:, None, None, None]
                total = total + y
            nodes.append(total)
        out = [
            own.reduced(y, f"reduce_{n}") if reduction and n < 2 else y
            for n, y in enumerate(nodes)
            if n not in cell[::2]
        ]
        before, previous = previous, torch.cat(out, 1)
        if v.train and "params/auxiliary/conv_2/conv/weight" in v.leaves and index == reductions[1] + 1:
            auxiliary = _auxiliary(v / "auxiliary", previous)
    return v.logits(F.relu(previous)), auxiliary


def _auxiliary(v: Variables, x: Tensor) -> Tensor:
    x = F.relu(v.norm(v.conv(F.avg_pool2d(F.relu(x), 5, 3), "conv_1/conv"), "norm_1"))
    x = F.conv2d(F.pad(x, (0, 1, 0, 1)), v("conv_2/conv/weight"))
    return v.logits(F.relu(v.norm(x, "norm_2")))
