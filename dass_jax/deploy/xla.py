"""A graph as a JAX function, channels last, with its weights as constants; for `jax.jit` and `jax.export`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dass_jax.deploy.graph import (
    Activation,
    Add,
    Concat,
    Constant,
    Conv,
    Graph,
    Halve,
    Mean,
    Multiply,
    Pool,
    Resize,
    Subsample,
    Take,
    is_depthwise,
    is_pointwise,
    outputs_of,
)
from dass_jax.nn.kernels import channels_last

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "sigmoid": jax.nn.sigmoid,
}


def function(graph: Graph) -> Callable[[jax.Array], jax.Array]:
    """Images [N, C, H, W] → outputs [N, O] or [N, O, H, W], in the images' dtype."""

    def apply(images: jax.Array) -> jax.Array:
        values = [images.transpose(0, 2, 3, 1)]
        for node in graph.nodes[1:]:
            values.append(_apply(node.operation, [values[index] for index in node.inputs], images))
        return values[graph.output].transpose(0, 3, 1, 2).reshape(images.shape[0], *outputs_of(graph))

    return apply


def _constant(value: np.ndarray, dtype: Any) -> jax.Array:
    """[C, H, W] → [1, H, W, C]."""
    return jnp.asarray(value.transpose(1, 2, 0)[None], dtype)


def _apply(operation: Any, inputs: Sequence[jax.Array], images: jax.Array) -> jax.Array:
    x = inputs[0] if inputs else None
    match operation:
        case Constant():
            value = _constant(operation.value, images.dtype)
            return jnp.broadcast_to(value, (images.shape[0], *value.shape[1:]))
        case Conv():
            return _convolution(operation, inputs[0]) + _constant(operation.bias, images.dtype)
        case Pool():
            pool = channels_last.max_pool if operation.kind == "max" else channels_last.avg_pool
            return pool(inputs[0], operation.stride)
        case Activation():
            return ACTIVATIONS[operation.name](inputs[0])
        case Add():
            return inputs[0] + inputs[1]
        case Multiply():
            return inputs[0] * inputs[1]
        case Concat():
            return jnp.concatenate(inputs, axis=-1)
        case Take():
            return jnp.take(inputs[0], jnp.asarray(operation.channels), axis=-1)
        case Subsample():
            return _subsample(inputs[0], operation.offset)
        case Halve():
            return _halve(inputs[0])
        case Mean():
            return inputs[0].mean((1, 2), keepdims=True)
        case Resize(height, width):
            return jax.image.resize(inputs[0], (images.shape[0], height, width, inputs[0].shape[3]), "linear")
    raise ValueError(f"operation {operation!r} on {x} is not one of a graph's")


def _convolution(conv: Conv, x: jax.Array) -> jax.Array:
    k = conv.weight.shape[-1]
    weight = jnp.asarray(conv.weight.transpose(2, 3, 1, 0), x.dtype)  # [k, k, I, O]
    if is_pointwise(conv):
        return channels_last.pointwise(x, weight[0, 0])
    if is_depthwise(conv) and k % 2 and 2 * conv.padding == conv.dilation * (k - 1):
        return channels_last.depthwise(x, weight[:, :, 0], conv.stride, conv.dilation)
    return lax.conv_general_dilated(
        x,
        weight,
        (conv.stride, conv.stride),
        [(conv.padding, conv.padding)] * 2,
        rhs_dilation=(conv.dilation, conv.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=conv.groups,
    )


def _subsample(x: jax.Array, offset: int) -> jax.Array:
    further = jnp.pad(x, ((0, 0), (0, offset), (0, offset), (0, 0)))[:, offset:, offset:]
    return further[:, ::2, ::2]


def _halve(x: jax.Array) -> jax.Array:
    height, width = x.shape[1] // 2, x.shape[2] // 2
    pairs = x[:, : 2 * height, : 2 * width].reshape(x.shape[0], height, 2, width, 2, x.shape[3])
    return pairs.mean((2, 4))
