"""Sparse networks of no particular value, small enough to be compared number by number."""

import functools
from typing import Any

import jax
import numpy as np

from dass_jax import variables
from dass_jax.architectures.darts import OPERATIONS, Genotype
from dass_jax.deploy import trace
from dass_jax.deploy.graph import Graph
from dass_jax.networks.derived import Model, NetworkConfig, derived

SMALL = NetworkConfig(classes=3, cells=3, channels=6, auxiliary=False)
IMAGE = (9, 10, 3)


def random_genotype(seed: int) -> Genotype:
    """Two cells of two nodes with random operations and inputs."""
    rng = np.random.default_rng(seed)

    def cell() -> Any:
        nodes = range(2, 4)
        return tuple(tuple((str(rng.choice(OPERATIONS)), int(rng.integers(node))) for _ in range(2)) for node in nodes)

    return Genotype(cell(), cell())


@functools.cache
def shapes_of(model: Model, image: tuple[int, int, int]) -> Any:
    """Of the variables; to trace a network takes longer than all that is done with it here."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image))


made = functools.cache(derived)


def sparse_values(model: Model, image: tuple[int, int, int], keep: float, seed: int) -> tuple[Any, Any]:
    """Random parameters and statistics in float64; of each layer's weights the share `keep`, one at least, is not 0."""
    rng, shapes = np.random.default_rng(seed), shapes_of(model, image)
    stacks = variables.flatten(variables.prunable(shapes["params"], model.rules))

    def leaf(path: str, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.normal(size=shape)
        if path in stacks:
            _, layer = variables.layer_shape(shape, stacks[path])
            rows = values.reshape(-1, int(np.prod(layer)))
            kept = max(1, round(keep * rows.shape[1]))
            for row in rows:
                row[rng.permutation(row.size)[kept:]] = 0
            return rows.reshape(shape) / np.sqrt(max(1, keep * np.prod(layer[1:])))
        return np.abs(values) + 0.1 if path.endswith("/var") else values / 2 + path.endswith("/scale")

    def fill(tree: Any) -> Any:
        return variables.unflatten({path: leaf(path, value.shape) for path, value in variables.flatten(tree).items()})

    return fill(shapes["params"]), fill(shapes["batch_stats"])


def logits(model: Model) -> Any:
    """(params, batch_stats, images [C, H, W, N]) → logits, in evaluation."""
    return lambda params, batch_stats, images: model.apply(params, batch_stats, images, False)[0]


def traced(genotype: Genotype, keep: float, seed: int, config: NetworkConfig = SMALL, image: Any = IMAGE) -> Graph:
    """The graph of a random sparse network."""
    model = made(genotype, config)
    return trace.trace(logits(model), *sparse_values(model, image, keep, seed), image)


def images(graph: Graph, count: int = 2, seed: int = 7) -> np.ndarray:
    """Random ones, [count, C, H, W] in float64."""
    return np.random.default_rng(seed).normal(size=(count, *graph.nodes[0].shape))
