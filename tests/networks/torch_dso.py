"""DSO-NAS' network and supernet in PyTorch, connection by connection and NCHW. Source: Zhang et al., TPAMI 2020.

It shares no code with `dass_jax`. Values have our names: "params/block_0/op_2_1/norm/bias" and so on.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional


class Net:
    """images [N, C, H, W] → outputs [N, O].

    `values`: our variables by path, as tensors of our shapes. `blocks`: for each block its connections; `factor`:
    (block, source, target) → λ; `branches`: for each reduction its branches, with λ. `moved`: the running statistics
    afterwards.
    """

    def __init__(self, values: dict[str, torch.Tensor], train: bool):
        self.values, self.train, self.moved = values, train, dict[str, torch.Tensor]()

    def norm(self, x: torch.Tensor, path: str) -> torch.Tensor:
        mean, var = (self.values[f"batch_stats/{path}/{name}"] for name in ("mean", "var"))
        if self.train:
            now = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            for name, old, new in zip(("mean", "var"), (mean, var), now, strict=True):
                self.moved[f"batch_stats/{path}/{name}"] = (0.9 * old + 0.1 * new).detach()
            mean, var = now
        y = (x - mean[:, None, None]) / torch.sqrt(var + 2e-5)[:, None, None]
        if f"params/{path}/scale" in self.values:
            y = y * self.values[f"params/{path}/scale"][:, None, None]
        return y + self.values[f"params/{path}/bias"][:, None, None]

    def conv(self, x: torch.Tensor, path: str, stride: int = 1, depthwise: bool = False) -> torch.Tensor:
        w = self.values[f"params/{path}/conv/weight"]
        w = w[:, None] if depthwise else w if w.ndim == 4 else w[:, :, None, None]
        return functional.conv2d(x, w, None, stride, w.shape[-1] // 2, groups=len(w) if depthwise else 1)

    def conv_norm_relu(self, x: torch.Tensor, path: str, stride: int = 1) -> torch.Tensor:
        return functional.relu(self.norm(self.conv(x, f"{path}/conv", stride), f"{path}/norm"))

    def operation(self, x: torch.Tensor, name: str, path: str) -> torch.Tensor:
        if name.startswith("sep"):
            x = self.conv(self.conv(x, f"{path}/depthwise", depthwise=True), f"{path}/pointwise")
        elif name == "max3":
            x = functional.max_pool2d(x, 3, 1, 1)
        else:
            x = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=True)
        return functional.relu(self.norm(x, f"{path}/norm"))

    def block(
        self, x: torch.Tensor, number: int, operations: tuple[str, ...], found: Any, factor: Callable[..., Any]
    ) -> torch.Tensor:
        path, shortcut = f"block_{number}", x
        if f"params/{path}/shortcut/conv/conv/weight" in self.values:
            shortcut = self.conv_norm_relu(x, f"{path}/shortcut")
        nodes = {"in": x}
        for level in range(1, 9):
            for place, operation in enumerate(operations):
                node = f"{level}.{place}"
                if f"batch_stats/{path}/op_{level}_{place}/norm/mean" not in self.values:
                    continue
                y = x if level == 1 else torch.zeros_like(x)
                for source, target in found:
                    if target == node:
                        y = y + factor(number, source, target) * nodes[source]
                nodes[node] = self.operation(y, operation, f"{path}/op_{level}_{place}")
        ends = [source for source, target in found if target == "out"]
        if not ends:
            return shortcut
        weights = self.values[f"params/{path}/outputs/conv/weight"].split(x.shape[1], 1)
        y = torch.zeros_like(x)
        for source, w in zip(ends, weights, strict=True):
            y = y + functional.conv2d(factor(number, source, "out") * nodes[source], w[:, :, None, None])
        return functional.relu(self.norm(y, f"{path}/norm")) + shortcut

    def __call__(
        self, images: torch.Tensor, stages: tuple[int, ...], operations: tuple[str, ...], blocks: Any,
        factor: Callable[..., Any], branches: Any
    ) -> torch.Tensor:  # fmt: skip
        if "params/stem/conv/conv/weight" in self.values:
            x = self.conv_norm_relu(images, "stem")
        else:
            x = self.conv_norm_relu(self.conv_norm_relu(images, "stem_1", 2), "stem_2", 2)
        number = 0
        for stage, count in enumerate(stages):
            for _ in range(count):
                x = self.block(x, number, operations, blocks[number], factor)
                number += 1
            if stage + 1 < len(stages):
                parts = [weight * self.conv_norm_relu(x, f"reduction_{stage}/conv_{name}", 2)
                         for name, weight in branches[stage]]  # fmt: skip
                x = torch.stack(parts).sum(0)
        x = functional.relu(self.norm(x, "norm")).mean((2, 3))
        head = "params/head/classifier"
        return functional.linear(x, self.values[f"{head}/linear/weight"], self.values[f"{head}/bias"])
