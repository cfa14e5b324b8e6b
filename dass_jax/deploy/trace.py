"""From a network's own definition to a graph: its layers are recorded while JAX traces it for inference.

The layers of `nn.layers` are intercepted, so that each is one equation of the jaxpr whatever kernel it would run; what
stands between them (activations, sums, concatenations, means) are a few primitives of JAX. Any network built from these
layers can be traced; an equation with no place in a graph is an error.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from dass_jax.deploy.graph import (
    Activation,
    Add,
    Concat,
    Constant,
    Conv,
    Graph,
    Halve,
    Input,
    Mean,
    Multiply,
    Node,
    Pool,
    Resize,
    Shape,
    Subsample,
    Take,
    append,
    scale,
)
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


def trace(
    forward: Callable[[Any, Any, jax.Array], jax.Array], params: Any, batch_stats: Any, image_shape: Shape
) -> Graph:
    """The graph of a network in evaluation.

    Args:
      forward: (params, batch_stats, images [C, H, W, N]) → outputs [N, O] or [O, H, W, N], calling Flax modules.
      params: with masks multiplied in.
      image_shape: [H, W, C], as `Model.init` takes it.

    Raises:
      ValueError: if the network does something that a graph cannot say.
    """
    height, width, channels = image_shape
    images = jax.ShapeDtypeStruct((channels, height, width, 1), jnp.float32)
    with nn.intercept_methods(_intercept):
        traced = jax.make_jaxpr(forward)(params, batch_stats, images)
    nodes = [Node(Input((channels, height, width)), (), (channels, height, width))]
    known = [np.asarray(leaf) for leaf in jax.tree.leaves((params, batch_stats))]
    [outputs] = _run(nodes, traced.jaxpr, traced.consts, [*known, Symbol(0)])
    return Graph(tuple(nodes), _node(nodes, outputs))


# Recording: each function binds one equation for one layer.


def _intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
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


# Reading: the jaxpr is evaluated with a graph's nodes in the place of what depends on the image.


class Symbol(NamedTuple):
    """A value that depends on the image: `factor` times that of a node; [C, H, W, N], [C, N] or, at the end, [N, C]."""

    node: int
    factor: float = 1.0


def _run(nodes: list[Node], jaxpr: Any, consts: Any, arguments: list[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs, inner = [read(atom) for atom in equation.invars], _inner(equation)
        if inner is not None:
            outputs = _run(nodes, inner.jaxpr, inner.consts, inputs)
        elif equation.primitive is layer_p:
            outputs = [_layer_of(nodes, equation, *inputs)]
        elif not any(isinstance(value, Symbol) for value in inputs):
            found = equation.primitive.bind(*inputs, **equation.params)
            outputs = list(found) if equation.primitive.multiple_results else [found]
        else:
            outputs = _read_equation(nodes, equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _inner(equation: Any) -> Any:
    """The jaxpr of an equation that only calls it."""
    if equation.primitive.name in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"):
        return equation.params["jaxpr" if "jaxpr" in equation.params else "call_jaxpr"]
    return None


def _read_equation(nodes: list[Node], equation: Any, inputs: list[Any]) -> list[Any]:
    """The outputs of one equation, at least one of whose inputs is a Symbol."""
    name, params, x = equation.primitive.name, equation.params, inputs[0]
    shape = equation.outvars[0].aval.shape
    if name == "optimization_barrier":
        return inputs
    if name in ("convert_element_type", "copy", "copy_p"):
        return [x]
    if name in ("reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose"):
        channels, height, width = nodes[x.node].shape
        is_map = len(shape) == 4 and shape[0] == channels and (height, width) in ((1, 1), shape[1:3])
        if is_map or (height == width == 1 and sorted(shape) == sorted((channels, 1))):
            return [x]
    if name == "concatenate" and params["dimension"] == 0 and len(shape) == 4:
        parts = (_wide(nodes, _node(nodes, _symbol(nodes, value)), shape[1:3]) for value in inputs)
        return [Symbol(append(nodes, Concat(), *parts))]
    if name == "slice" and shape[1:] == equation.invars[0].aval.shape[1:] and params["strides"] is None:
        channels = np.arange(params["start_indices"][0], params["limit_indices"][0])
        return [Symbol(append(nodes, Take(channels), _node(nodes, x)))]
    if name == "reduce_sum" and tuple(params["axes"]) == (1, 2):
        return [_summed(nodes, x)]
    if name == "logistic":
        return [Symbol(append(nodes, Activation("sigmoid"), _node(nodes, x)))]
    if name in ("add", "add_any", "mul", "div", "max", "min"):
        found = _elementwise(nodes, name, *inputs)
        if found is not None:
            return [found]
    raise ValueError(
        f"it uses {name} from {[v.aval.shape for v in equation.invars]} to {shape}, which is not in a graph"
    )


def _wide(nodes: list[Node], node: int, size: tuple[int, ...]) -> int:
    """The node with [C, 1, 1] at every pixel."""
    channels, *own = nodes[node].shape
    if tuple(own) == tuple(size):
        return node
    return append(nodes, Multiply(), node, append(nodes, Constant(np.ones((channels, *size)))))


def _layer_of(nodes: list[Node], equation: Any, x: Any, *weights: Any) -> Symbol:
    """The output of a layer; one that no image reaches (as behind an operation none) reads a constant."""
    expected = (*equation.invars[0].aval.shape[:-1], 1, 1)[:3]
    if not isinstance(x, Symbol):
        x = Symbol(append(nodes, Constant(np.asarray(x, np.float64).reshape(expected))))
    if expected != nodes[x.node].shape:
        raise ValueError(f"a layer reads {expected}, broadcast from {nodes[x.node].shape}")
    arrays = [np.asarray(weight, np.float64) for weight in weights]
    return Symbol(_layer(nodes, equation.params["layer"], _node(nodes, x), arrays))


def _summed(nodes: list[Node], x: Symbol) -> Symbol:
    _, height, width = nodes[x.node].shape
    return Symbol(append(nodes, Mean(), x.node), x.factor * height * width)


def _elementwise(nodes: list[Node], name: str, x: Any, y: Any) -> Symbol | None:
    if isinstance(x, Symbol) and isinstance(y, Symbol):
        operation = {"add": Add(), "add_any": Add(), "mul": Multiply()}.get(name)
        return None if operation is None else Symbol(append(nodes, operation, _node(nodes, x), _node(nodes, y)))
    if not isinstance(x, Symbol):
        if name == "div":
            return None
        x, y = y, x
    values = np.unique(np.asarray(y))
    if values.size != 1:
        return _offset(nodes, x, np.asarray(y)) if name == "add" else None
    value = float(values[0])
    if name in ("mul", "div"):
        return x._replace(factor=x.factor * value if name == "mul" else x.factor / value)
    if name == "add" and value == 0:
        return x
    if name == "max" and value == 0:
        return Symbol(append(nodes, Activation("relu"), _node(nodes, x)))
    before = nodes[x.node]
    if name == "min" and value == 6 and before.operation == Activation("relu") and x.factor == 1:
        return Symbol(append(nodes, Activation("relu6"), *before.inputs))
    return None


def _offset(nodes: list[Node], x: Symbol, y: np.ndarray) -> Symbol | None:
    """The sum with a number for each channel."""
    if y.ndim != 4 or len(y) != nodes[x.node].shape[0] or (y != y[:, :1, :1, :1]).any():
        return None
    return Symbol(append(nodes, scale(np.ones(len(y)), np.asarray(y[:, 0, 0, 0], np.float64)), _node(nodes, x)))


def _symbol(nodes: list[Node], value: Any) -> Symbol:
    """A map [C, H, W, 1], also of one that no image reaches (a bank that nothing was written into)."""
    if isinstance(value, Symbol):
        return value
    return Symbol(append(nodes, Constant(np.asarray(value, np.float64)[..., 0])))


def _node(nodes: list[Node], symbol: Symbol) -> int:
    """The node with a symbol's value."""
    if abs(symbol.factor - 1) < 1e-12:
        return symbol.node
    channels = nodes[symbol.node].shape[0]
    return append(nodes, scale(np.full(channels, symbol.factor), np.zeros(channels)), symbol.node)


def _layer(nodes: list[Node], layer: Layer, x: int, weights: list[np.ndarray]) -> int:
    if layer.kind == "pool" and layer.option == "padded_avg":  # a depthwise convolution with constant weights
        channels = nodes[x].shape[0]
        window = Conv(np.full((channels, 1, 3, 3), 1 / 9), np.zeros((channels, 1, 1)), layer.stride, 1)
        return append(nodes, window._replace(groups=channels), x)
    if layer.kind == "pool":
        return append(nodes, Pool(layer.option, layer.stride), x)
    if layer.kind == "resize":
        return append(nodes, Resize(*layer.option), x)
    if layer.kind == "halve":
        return append(nodes, Halve(), x)
    if layer.kind == "norm":
        gamma, beta, mean, var = weights
        factor = gamma / np.sqrt(var + layer.option)
        return append(nodes, scale(factor, beta - mean * factor), x)
    if layer.kind == "linear":
        return append(nodes, Conv(weights[0][:, :, None, None], weights[1][:, None, None]), x)
    if layer.kind == "factorized":
        parts = [
            append(
                nodes, Conv(half[:, :, None, None], np.zeros((len(half), 1, 1))), append(nodes, Subsample(offset), x)
            )
            for offset, half in enumerate(weights[0])
        ]
        return append(nodes, Concat(), *parts)
    [weight] = weights
    if layer.groups > 1 or weight.ndim == 3:  # depthwise [C, k, k]
        weight = weight[:, None]
    elif weight.ndim == 2:  # pointwise [O, I]
        weight = weight[:, :, None, None]
    k = weight.shape[-1]
    conv = Conv(weight, np.zeros((len(weight), 1, 1)), layer.stride, layer.padding, layer.dilation if k > 1 else 1)
    return append(nodes, conv._replace(groups=layer.groups), x)
