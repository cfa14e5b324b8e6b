"""ResNet-18, MobileNet-v2 and EfficientNet-v2-S for small images in PyTorch, written from the papers' tables.

Modules have the names that our networks' variables have, so that `place` finds one from the other.
"""

import torch
from torch import nn
from torch.nn import functional

STAGES = {
    "resnet18": [("basic", 1, 64, 2, 1), ("basic", 1, 128, 2, 2), ("basic", 1, 256, 2, 2), ("basic", 1, 512, 2, 2)],
    "mobilenet_v2": [
        ("inverted", expansion, channels, repeats, stride)
        for expansion, channels, repeats, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 1),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
    ],
    "efficientnet_v2_s": [
        ("fused", 1, 24, 2, 1),
        ("fused", 4, 48, 4, 2),
        ("fused", 4, 64, 4, 2),
        ("mb", 4, 128, 6, 2),
        ("mb", 6, 160, 9, 1),
        ("mb", 6, 256, 15, 2),
    ],
}
"""(kind, expansion, channels, repeats, first stride) of each stage."""
STEM = {"resnet18": 64, "mobilenet_v2": 32, "efficientnet_v2_s": 24}
LAST = {"resnet18": None, "mobilenet_v2": 1280, "efficientnet_v2_s": 1280}


def unit(inputs: int, outputs: int, kernel: int, stride: int, act: str, eps: float, groups: int = 1) -> nn.Sequential:
    """Convolution, BN, activation."""
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False))
    layers.add_module("norm", nn.BatchNorm2d(outputs, eps))
    if act:
        layers.add_module("act", nn.SiLU() if act == "silu" else nn.ReLU())
    return layers


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.squeeze = nn.Linear(channels, inner)
        self.excite = nn.Linear(inner, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = torch.sigmoid(self.excite(functional.silu(self.squeeze(x.mean((2, 3))))))
        return x * factor[:, :, None, None]


class Block(nn.Module):
    """A branch of named units, and a shortcut where the kind has one."""

    def __init__(self, kind: str, expansion: int, inputs: int, outputs: int, stride: int):
        super().__init__()
        wide, same, silu = inputs * expansion, inputs == outputs and stride == 1, {"fused": "silu", "mb": "silu"}
        act, eps = silu.get(kind, "relu"), 1e-3 if kind in silu else 1e-5
        self.residual = kind == "basic" or (stride == 1 if kind == "inverted" else same)
        self.act_after, self.names = kind == "basic", []
        parts: dict[str, nn.Module] = {}
        if kind == "basic":
            parts["conv_1"] = unit(inputs, outputs, 3, stride, act, eps)
            parts["conv_2"] = unit(outputs, outputs, 3, 1, "", eps)
        elif kind == "fused" and expansion == 1:
            parts["conv"] = unit(inputs, outputs, 3, stride, act, eps)
        else:
            fused = kind == "fused"
            parts["expand"] = unit(inputs, wide, 3 if fused else 1, stride if fused else 1, act, eps)
            if not fused:
                parts["depthwise"] = unit(wide, wide, 3, stride, act, eps, groups=wide)
            if kind == "mb":
                parts["excitation"] = SqueezeExcite(wide, inputs // 4)
            parts["project"] = unit(wide, outputs, 1, 1, "", eps)
        for name, part in parts.items():
            self.add_module(name, part)
            self.names.append(name)
        self.shortcut = unit(inputs, outputs, 1, stride, "", eps) if self.residual and not same else nn.Identity()

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        y = x
        for name in self.names:
            y = getattr(self, name)(y)
        if self.residual:
            y = self.shortcut(x) + (y if scale is None else y * scale[:, None, None, None])
        return functional.relu(y) if self.act_after else y


class Head(nn.Module):
    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(x.mean((2, 3)))


class Network(nn.Module):
    """images [N, C, H, W], scale [blocks, N] or None → logits [N, classes]. `factor` divides all channels, `most` cuts
    the number of blocks of a stage."""

    def __init__(self, name: str, classes: int, images: int, factor: int = 1, most: int = 99):
        super().__init__()
        act, eps = ("silu", 1e-3) if name == "efficientnet_v2_s" else ("relu", 1e-5)
        channels = STEM[name] // factor
        self.stem = unit(images, channels, 3, 1, act, eps)
        self.blocks = 0
        for kind, expansion, outputs, repeats, stride in STAGES[name]:
            for index in range(min(repeats, most)):
                block = Block(kind, expansion, channels, outputs // factor, 1 if index else stride)
                self.add_module(f"block_{self.blocks}", block)
                channels, self.blocks = outputs // factor, self.blocks + 1
        self.last = unit(channels, LAST[name] // factor, 1, 1, act, eps) if LAST[name] else nn.Identity()
        self.head = Head(LAST[name] // factor if LAST[name] else channels, classes)

    def forward(self, images: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        x = self.stem(images)
        for index in range(self.blocks):
            x = getattr(self, f"block_{index}")(x, None if scale is None else scale[index])
        return self.head(self.last(x))


def place(name: str) -> str:
    """Where our variables hold what the peer calls `name`: "block_0.conv.norm.weight" → its path."""
    *path, leaf = name.split(".")
    owner = "/".join(path)
    if leaf.startswith("running_"):
        return f"batch_stats/{owner}/{leaf.removeprefix('running_')}"
    if path[-1] == "norm":
        return f"params/{owner}/{'scale' if leaf == 'weight' else 'bias'}"
    if leaf == "bias":
        return f"params/{owner}/bias"
    return f"params/{owner}/{'conv' if path[-1] == 'conv' else 'linear'}/weight"
