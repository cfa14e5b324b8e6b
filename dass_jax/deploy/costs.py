"""What each layer would cost as a dense kernel and as its live weights alone: a model, and the form that it favours.

The constants are fitted to chains of single layers at batch 1, dense by ONNX Runtime on 2 cores and sparse by `runtime`
on one (Intel Xeon, AVX-512). On another machine the numbers differ, their order hardly: where both forms are within a
third of each other, `python -m dass_jax.latency` decides.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dass_jax.deploy.graph import Conv, Graph, is_depthwise, is_pointwise

CALL = 3000.0
"""Nanoseconds for starting one dense kernel."""
DENSE_MAC, DEPTHWISE_MAC = 0.015, 0.035
"""Nanoseconds for a multiply-accumulate of a dense kernel."""
WHOLE_TERM, WHOLE_MAC = 3.0, 0.06
"""Nanoseconds for a live weight of a 1×1 convolution: once, and for every output pixel."""
SHIFTED_TERM, SHIFTED_MAC = 80.0, 0.17
"""The same for a live tap of a larger window."""
CHANNEL, CHANNEL_PIXEL = 20.0, 0.05
"""Nanoseconds for every output channel, and for each of its pixels: bias and activation."""


class Layer(NamedTuple):
    """One convolution or linear layer of a graph."""

    kind: str
    inputs: int
    outputs: int
    pixels: int
    """Of the output."""
    weights: int
    live: int
    dense_us: float
    """Microseconds of the dense form, of the channels that are there."""
    sparse_us: float

    @property
    def form(self) -> str:
        """Which form is faster."""
        return "sparse" if self.sparse_us < self.dense_us else "dense"


def layers(graph: Graph) -> list[Layer]:
    """All layers of a graph in the order of evaluation."""
    return [
        _layer(node.operation, graph.nodes[node.inputs[0]].shape[0], node.shape[1] * node.shape[2])
        for node in graph.nodes
        if isinstance(node.operation, Conv)
    ]


def _layer(conv: Conv, inputs: int, pixels: int) -> Layer:
    outputs, k = len(conv.weight), conv.weight.shape[-1]
    live, depthwise = int(np.count_nonzero(conv.weight)), is_depthwise(conv) and k > 1
    name = "linear" if pixels == 1 and k == 1 else "pointwise" if is_pointwise(conv) else f"{k}×{k}"
    each = DEPTHWISE_MAC if depthwise else DENSE_MAC
    term, mac = (WHOLE_TERM, WHOLE_MAC) if is_pointwise(conv) else (SHIFTED_TERM, SHIFTED_MAC)
    sparse = live * (term + mac * pixels) + outputs * (CHANNEL + CHANNEL_PIXEL * pixels)
    dense = CALL + conv.weight.size * pixels * each
    return Layer(
        kind=f"depthwise {name}" if depthwise else name,
        inputs=inputs,
        outputs=outputs,
        pixels=pixels,
        weights=conv.weight.size,
        live=live,
        dense_us=dense / 1e3,
        sparse_us=sparse / 1e3,
    )


class Choice(NamedTuple):
    """Milliseconds of all layers, by the model."""

    dense: float
    sparse: float
    mixed: float
    """If each layer had its faster form: what no program here does, as the forms keep their channels differently."""

    @property
    def form(self) -> str:
        """The faster of the two that there are: "dense" (StableHLO, ONNX) or "sparse" (the packed file's program)."""
        return "sparse" if self.sparse < self.dense else "dense"


def choice(found: Sequence[Layer]) -> Choice:
    """One form for the whole network."""
    dense, sparse = (sum(getattr(layer, name) for layer in found) / 1e3 for name in ("dense_us", "sparse_us"))
    return Choice(dense, sparse, sum(min(layer.dense_us, layer.sparse_us) for layer in found) / 1e3)
