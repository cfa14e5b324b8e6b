"""Dense networks and chains of single operations with random weights, as calls that run them on one image."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dass_jax.deploy import files, has_package, rewrite, trace, xla
from dass_jax.deploy.formats import onnx_file
from dass_jax.deploy.graph import Graph, Shape
from dass_jax.networks import Model
from dass_jax.variables import BATCH_STATS, PARAMS


class Chain(nn.Module):
    """So many operations in a row, then a mean, so that the output is small."""

    make: Callable[[str], nn.Module]
    """Name → the operation's module."""
    length: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(self.length):
            x = self.make(f"number_{index}")(x)
        return x.mean((1, 2)).T


def chain(make: Callable[[str], nn.Module], length: int, image: Shape) -> Graph:
    """The graph of a `Chain` on [H, W, C]."""
    module, (height, width, channels) = Chain(make, length), image
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros((channels, height, width, 1), np.float32)))

    def forward(params: Any, batch_stats: Any, images: jax.Array) -> Any:
        return module.apply({PARAMS: params, BATCH_STATS: batch_stats}, images)

    return _graph(forward, shapes, image)


def network(model: Model, image: Shape) -> Graph:
    """The graph of a dense network on [H, W, C]."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    return _graph(lambda params, stats, images: model.apply(params, stats, images, False)[0], shapes, image)


def _graph(forward: Callable[..., Any], shapes: Any, image: Shape) -> Graph:
    """With positive weights, so that no activation is off everywhere; times do not depend on them otherwise."""
    rng = np.random.default_rng(0)

    def leaf(shape: Any) -> np.ndarray:
        return (np.abs(rng.normal(size=shape.shape)) + 0.1).astype(np.float32) / max(1, int(np.prod(shape.shape[1:])))

    values = jax.tree.map(leaf, dict(shapes))
    return rewrite.simplified(trace.trace(forward, values.get(PARAMS, {}), values.get(BATCH_STATS, {}), image))


def runner(runtime: str | None, batch: int = 1) -> Callable[[Graph], Callable[[], Any]]:
    """A graph → a call that runs it on a batch of images; by "onnx", "xla", or None: by ONNX Runtime where it is
    installed.

    Raises:
      UserError: where a package that is asked for is missing.
    """
    if runtime == "onnx":
        files.need_onnx()
    by_onnx = runtime == "onnx" or (runtime is None and has_package("onnx") and has_package("onnxruntime"))

    def of(graph: Graph) -> Callable[[], Any]:
        image = np.zeros((batch, *graph.nodes[0].shape), np.float32)
        run = files.onnx_runner(onnx_file.to_onnx(graph)) if by_onnx else files.compiled(xla.function(graph))
        run(image)
        return lambda: run(image)

    return of
