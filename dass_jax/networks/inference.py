"""A trained derived network for inference: BN folded into the weights before it, and kernels that suit a few images.

In evaluation BN is y = (x − mean)·f + bias with f = scale / √(var + ε), and x is linear in the weight of the layer
before it. So f goes into that weight's output channels, and bias − mean·f is all that is left of BN.

`derived.Network` is the readable definition of the network; the tests hold this one equal to it.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax import variables
from dass_jax.architectures.darts import Cell, Genotype, connected, reductions
from dass_jax.networks.derived import NetworkConfig
from dass_jax.nn.kernels import channels_last as kernels
from dass_jax.nn.kernels import relu
from dass_jax.nn.layers import BatchNorm

BEFORE_NORM = re.compile(r"(.*)/(?:(?:pointwise|conv)(_\d)?/conv|factorized)/weight")
"""Weights that a norm follows: module and suffix of the norm's name."""


def fold(params: Any, batch_stats: Any) -> Any:
    """The parameters of the folded network, under the paths of `params`.

    Of a norm only "bias" is left, and a weight has its output channels on its last axis: depthwise [k, k, C], pointwise
    and factorized [I, O], dense [I, k, k, O], linear [I, O]. What was pruned stays zero. The auxiliary head, which is
    for training, is left out.

    Args:
      params, batch_stats: of a network made by `derived.derived`.
    """
    leaves, statistics = variables.flatten(params), variables.flatten(batch_stats)
    folded = {path: leaf for path, leaf in leaves.items() if path == "head/classifier/bias"}
    for path, weight in leaves.items():
        if path.startswith("auxiliary/") or not path.endswith("/weight"):
            continue
        if path.endswith("/factorized/weight"):  # the output channels are on two axes
            weight = weight.reshape(-1, weight.shape[-1])
        weight = jnp.moveaxis(weight, 0, -1)
        if found := BEFORE_NORM.fullmatch(path):
            norm = f"{found[1]}/norm{found[2] or ''}"
            factor = leaves[f"{norm}/scale"] * jax.lax.rsqrt(statistics[f"{norm}/var"] + BatchNorm.epsilon)
            folded[f"{norm}/bias"] = leaves[f"{norm}/bias"] - statistics[f"{norm}/mean"] * factor
            weight = weight * factor
        folded[path] = weight
    return variables.unflatten(folded)


def inference(genotype: Genotype, config: NetworkConfig) -> Callable[[Any, jax.Array], jax.Array]:
    """The network of the given genotype and sizes: (what `fold` returns, images [C, H, W, N]) → logits [N, classes]."""

    def apply(folded: Any, images: jax.Array) -> jax.Array:
        before, previous = _stem(folded["stem"], images.transpose(3, 1, 2, 0))
        for index in range(config.cells):
            reduction = index in reductions(config.cells)
            cell = genotype.reduce if reduction else genotype.normal
            before, previous = previous, _cell(folded[f"cell_{index}"], cell, reduction, before, previous)
        classifier = folded["head"]["classifier"]
        return previous.mean((1, 2)) @ classifier["linear"]["weight"] + classifier["bias"]

    return apply


def _stem(p: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    if "conv" in p:  # the CIFAR stem
        x = kernels.convolution(x, p["conv"]["conv"]["weight"], stride=1) + p["norm"]["bias"]
        return x, x
    for part in (1, 2, 3):
        previous = x
        x = x if part == 1 else relu(x)
        x = kernels.convolution(x, p[f"conv_{part}"]["conv"]["weight"], stride=2) + p[f"norm_{part}"]["bias"]
    return previous, x


def _cell(p: Any, cell: Cell, reduction: bool, before: jax.Array, previous: jax.Array) -> jax.Array:
    states: list[Any] = [_align(p["preprocess_0"], before), _align(p["preprocess_1"], previous)]
    for node, pairs in enumerate(cell):
        parts = [
            _edge(p.get(f"node_{node}_{pair}_{operation}"), operation, states[source], 1 + (reduction and source < 2))
            for pair, (operation, source) in enumerate(pairs)
        ]
        states.append(functools.reduce(jnp.add, parts) if parts else None)
    if nodes := [states[node] for node in connected(cell)]:
        return jnp.concatenate(nodes, axis=-1)
    return jnp.zeros_like(states[1][:, :: 1 + reduction, :: 1 + reduction])  # without a connected node


def _align(p: Any, x: jax.Array) -> jax.Array:
    """`layers.ReLUConvNorm` or, where its weight is there, `layers.FactorizedReduce`."""
    x = relu(x)
    if "factorized" in p:
        return kernels.factorized(x, p["factorized"]["weight"]) + p["norm"]["bias"]
    return kernels.pointwise(x, p["pointwise"]["conv"]["weight"]) + p["norm"]["bias"]


def _edge(p: Any, operation: str, x: jax.Array, stride: int) -> jax.Array:
    """One of `primitives`; p: its parameters, if it has any."""
    if operation == "skip_connect":
        return x if stride == 1 else _align(p, x)
    if operation in ("max_pool_3x3", "avg_pool_3x3"):
        return {"max": kernels.max_pool, "avg": kernels.avg_pool}[operation[:3]](x, stride)
    dilation = 2 if operation.startswith("dil_conv") else 1
    for part in (1, 2):
        if f"depthwise_{part}" in p:
            depthwise, pointwise = (p[f"{layer}_{part}"]["conv"]["weight"] for layer in ("depthwise", "pointwise"))
            x = kernels.depthwise(relu(x), depthwise, stride if part == 1 else 1, dilation)
            x = kernels.pointwise(x, pointwise) + p[f"norm_{part}"]["bias"]
    return x
