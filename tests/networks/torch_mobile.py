"""DSO-NAS' mobile network and supernet in PyTorch, operation by operation and NCHW. Source: Zhang et al., TPAMI 2020;
the layout of ProxylessNAS.

It shares no code with `dass_jax`. Values have our names: "params/block_0/k3e6/expand/conv/conv/weight" and so on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

STRIDES = (2, 2, 2, 1, 2, 1)


class Net:
    """images [N, C, H, W] → outputs [N, O].

    `values`: our variables by path, as tensors of our shapes. `stages`: blocks of each; `blocks`: for each block its
    operations; `factor`: (block, operation) → λ. `moved`: the running statistics afterwards.
    """

    def __init__(self, values: dict[str, torch.Tensor], train: bool):
        self.values, self.train, self.moved = values, train, dict[str, torch.Tensor]()

    def conv_norm(self, x: torch.Tensor, path: str, stride: int = 1, depthwise: bool = False) -> torch.Tensor:
        w = self.values[f"params/{path}/conv/conv/weight"]
        w = w[:, None] if depthwise else w if w.ndim == 4 else w[:, :, None, None]
        x = functional.conv2d(x, w, None, stride, w.shape[-1] // 2, groups=len(w) if depthwise else 1)
        mean, var = (self.values[f"batch_stats/{path}/norm/{name}"] for name in ("mean", "var"))
        scale = self.values.get(f"params/{path}/norm/scale")
        y = functional.batch_norm(x, None, None, scale, self.values[f"params/{path}/norm/bias"], True, 0.1, 1e-3)
        if self.train:
            now = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            for name, old, new in zip(("mean", "var"), (mean, var), now, strict=True):
                self.moved[f"batch_stats/{path}/norm/{name}"] = (0.9 * old + 0.1 * new).detach()
            return y
        return functional.batch_norm(x, mean, var, scale, self.values[f"params/{path}/norm/bias"], False, 0.1, 1e-3)

    def operation(self, x: torch.Tensor, path: str, stride: int) -> torch.Tensor:
        x = functional.relu6(self.conv_norm(x, f"{path}/expand"))
        x = functional.relu6(self.conv_norm(x, f"{path}/depthwise", stride, depthwise=True))
        return self.conv_norm(x, f"{path}/project")

    def __call__(
        self,
        images: torch.Tensor,
        stages: Sequence[int],
        blocks: Sequence[Sequence[str]],
        factor: Callable[[int, str], Any],
        stem: int = 2,
    ) -> torch.Tensor:
        x = functional.relu6(self.conv_norm(images, "stem", stem))
        x = functional.relu6(self.conv_norm(x, "first_depthwise", depthwise=True))
        x, number = self.conv_norm(x, "first_project"), 0
        for repeats, first in zip(stages, STRIDES, strict=False):
            for place in range(repeats):
                stride = first if place == 0 else 1
                maps = [
                    factor(number, name) * self.operation(x, f"block_{number}/{name}", stride)
                    for name in blocks[number]
                ]
                y = torch.stack(maps).sum(0)
                x, number = (y + x if y.shape == x.shape else y), number + 1
        x = functional.relu6(self.conv_norm(x, "last")).mean((2, 3))
        head = "params/head/classifier"
        return functional.linear(x, self.values[f"{head}/linear/weight"], self.values[f"{head}/bias"])
