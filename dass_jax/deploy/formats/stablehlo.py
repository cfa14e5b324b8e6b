"""A graph as StableHLO with a symbolic batch, by `jax.export`: one blob for CPU, CUDA and TPU.

Its reader needs JAX and nothing of this package: `jax.export.deserialize(bytearray(data)).call(images)`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import export

from dass_jax.deploy import xla
from dass_jax.deploy.graph import Graph

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(graph: Graph, about: str = "") -> bytes:
    """Images [N, C, H, W] → outputs [N, O] or [N, O, H, W], float32, N free; `about` is kept as the function's name,
    `fun_name`."""
    [batch] = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((batch, *graph.nodes[0].shape), jnp.float32)
    found = export.export(jax.jit(xla.function(graph)), platforms=PLATFORMS)(images)
    return bytes((dataclasses.replace(found, fun_name=about) if about else found).serialize())
