"""A network's layers as single equations: each function binds one for one layer, whatever kernel it would run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from dass_jax.nn import grouped, layers


class Layer(NamedTuple):
    """What an intercepted layer does, without its weights."""

    kind: str
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    option: Any = None


layer_p = core.Primitive("dass_jax_layer")
layer_p.def_abstract_eval(lambda x, *weights, layer, shape: jax.core.ShapedArray(shape, x.dtype))


def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """For `nn.intercept_methods`: layers are recorded, all other modules called."""
    record = RECORDS.get(type(context.module))
    if record is None or context.method_name != "__call__":
        return call(*args, **kwargs)
    return record(context.module, *args, **kwargs)


def _bind(layer: Layer, shape: tuple[int, ...], x: jax.Array, *weights: Any) -> jax.Array:
    [y] = [layer_p.bind(x, *weights, layer=layer, shape=shape)]
    return y


def _conv(module: Any, x: jax.Array) -> jax.Array:
    weight = module.variables["params"]["conv"]["weight"]
    k = module.kernel
    padding = (k - 1) // 2 * module.dilation if module.depthwise else module.padding
    reach = module.dilation * (k - 1)
    sizes = ((size + 2 * padding - reach - 1) // module.stride + 1 for size in x.shape[1:3])
    layer = Layer("conv", module.stride, padding, module.dilation, len(weight) if module.depthwise else 1)
    return _bind(layer, (module.features, *sizes, x.shape[3]), x, weight)


def _grouped(module: Any, x: jax.Array) -> jax.Array:
    weight = grouped.dense(module.variables["params"]["conv"]["weight"], module.groups, module.dilation)
    return _bind(Layer("conv", padding=weight.shape[-1] // 2), (module.features, *x.shape[1:]), x, weight)


def _linear(module: Any, x: jax.Array) -> jax.Array:
    values = module.variables["params"]
    weight = values["linear"]["weight"]
    bias = values.get("bias", jnp.zeros(len(weight), weight.dtype))
    return _bind(Layer("linear"), (module.features, x.shape[1]), x, weight, bias)


def _norm(module: Any, x: jax.Array) -> jax.Array:
    if module.train:
        raise ValueError("it is traced in training")
    statistics, params = module.variables["batch_stats"], module.variables.get("params", {})
    mean, var = statistics["mean"], statistics["var"]
    scale, bias = params.get("scale", jnp.ones_like(mean)), params.get("bias", jnp.zeros_like(mean))
    return _bind(Layer("norm", option=module.epsilon), x.shape, x, scale, bias, mean, var)


def _factorized(module: Any, x: jax.Array) -> jax.Array:
    params, statistics = module.variables["params"], module.variables["batch_stats"]["norm"]
    sizes = (-(-size // 2) for size in x.shape[1:3])
    shape = (module.channels, *sizes, x.shape[3])
    y = _bind(Layer("factorized"), shape, nn.relu(x) if module.relu else x, params["factorized"]["weight"])
    norm = params["norm"]
    arguments = norm["scale"], norm["bias"], statistics["mean"], statistics["var"]
    return _bind(Layer("norm", option=layers.BatchNorm.epsilon), shape, y, *arguments)


def _pool(module: Any, x: jax.Array) -> jax.Array:
    shape = (len(x), *(-(-size // module.stride) for size in x.shape[1:3]), x.shape[3])
    return _bind(Layer("pool", module.stride, option=module.kind), shape, x)


def _halved(module: Any, x: jax.Array) -> jax.Array:
    return _bind(Layer("halve"), (len(x), x.shape[1] // 2, x.shape[2] // 2, x.shape[3]), x)


def _resized(module: Any, x: jax.Array) -> jax.Array:
    return _bind(Layer("resize", option=tuple(module.size)), (len(x), *module.size, x.shape[3]), x)


RECORDS: dict[type, Callable[..., jax.Array]] = {
    layers.SparseConv: _conv,
    grouped.GroupedConv: _grouped,
    layers.SparseLinear: _linear,
    layers.BatchNorm: _norm,
    layers.FactorizedReduce: _factorized,
    layers.Pool: _pool,
    layers.Halved: _halved,
    layers.Resized: _resized,
}
