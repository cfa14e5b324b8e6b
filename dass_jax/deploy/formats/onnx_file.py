"""A graph as an ONNX model, for ONNX Runtime and everything else that reads ONNX.

It is written with the `onnx` package's own helpers: a graph has a dozen operations, each of which is one or two of
ONNX's, so a converter of whole JAX programs (jax2onnx) would only add to what has to be installed, and could not keep
the convolutions that the graph is made of. Needs the extra `onnx`: `pip install dass_jax[onnx]`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

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
    outputs_of,
)
from dass_jax.errors import UserError

OPSET = 17
IR_VERSION = 8
"""Both from 2022, so that older runtimes read the file."""
INPUT, OUTPUT = "images", "logits"
"""Names within the model, whatever the task."""
METADATA = "dass_jax"
MESSAGE = "the package onnx is missing; allowed: pip install 'dass_jax[onnx]'"


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise UserError(MESSAGE) from error
    return onnx


def to_onnx(graph: Graph, about: str = "") -> bytes:
    """The model in ONNX's binary form: "images" [N, C, H, W] → "logits" [N, O] or [N, O, H, W], float32, N free;
    `about` is kept in its metadata, as `METADATA`.

    Raises:
      UserError: where the package onnx is missing.
    """
    onnx = _onnx()
    helper, arrays = onnx.helper, []
    made = []

    def constant(name: str, value: np.ndarray) -> str:
        arrays.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def step(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        made.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    names, counted = [INPUT], _read_alone(graph)
    for index, node in enumerate(graph.nodes[1:], start=1):
        inputs = [names[source] for source in node.inputs]
        operation, name = node.operation, f"n{index}"
        match operation:
            case Constant():
                value = constant(name, operation.value[None].astype(np.float32))
                names.append(_for_each_image(value, constant, step) if index in counted else value)
            case Conv():
                names.append(_conv(operation, inputs[0], name, constant, step))
            case Pool():
                kind = {"max": "MaxPool", "avg": "AveragePool"}[operation.kind]
                window = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [operation.stride] * 2}
                names.append(step(kind, inputs, name, **window))
            case Activation("relu6"):
                low, high = (constant(f"{name}_{bound}", np.array(bound, np.float32)) for bound in (0, 6))
                names.append(step("Clip", [*inputs, low, high], name))
            case Activation():
                names.append(step({"relu": "Relu", "sigmoid": "Sigmoid"}[operation.name], inputs, name))
            case Add() | Multiply():
                names.append(step("Add" if isinstance(operation, Add) else "Mul", inputs, name))
            case Concat():
                names.append(step("Concat", inputs, name, axis=1))
            case Take():
                names.append(step("Gather", [*inputs, constant(f"{name}_c", operation.channels)], name, axis=1))
            case Subsample():
                height, width = graph.nodes[node.inputs[0]].shape[1:]
                names.append(_subsample(operation, inputs[0], (height, width), name, constant, step))
            case Halve():
                names.append(step("AveragePool", inputs, name, kernel_shape=[2, 2], strides=[2, 2]))
            case Mean():
                names.append(step("GlobalAveragePool", inputs, name))
            case Resize():
                names.append(_resize(inputs[0], node.shape, name, constant, step))
    shape = outputs_of(graph)
    step("Identity" if len(shape) > 1 else "Flatten", [names[graph.output]], OUTPUT, **_axis(shape))
    value = helper.make_tensor_value_info
    ends = [
        [value(INPUT, onnx.TensorProto.FLOAT, ["N", *graph.nodes[0].shape])],
        [value(OUTPUT, onnx.TensorProto.FLOAT, ["N", *shape])],
    ]
    model = helper.make_model(
        helper.make_graph(made, "dass_jax", *ends, arrays),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="dass_jax",
    )
    if about:
        helper.set_model_props(model, {METADATA: about})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _read_alone(graph: Graph) -> set[int]:
    """The nodes that something reads without broadcasting them to what depends on the image."""
    depends: list[bool] = []
    for place, node in enumerate(graph.nodes):
        depends.append(place == 0 or any(depends[index] for index in node.inputs))
    alone = {graph.output}
    for node, is_dynamic in zip(graph.nodes, depends, strict=True):
        if not (isinstance(node.operation, Add | Multiply) and is_dynamic):
            alone.update(node.inputs)
    return alone


def _axis(shape: tuple[int, ...]) -> dict[str, int]:
    """Of what vectors are flattened by."""
    return {} if len(shape) > 1 else {"axis": 1}


def _shape(name: str, rest: np.ndarray, constant: Any, step: Any) -> str:
    """[N, …] of the batch."""
    count = step("Shape", [INPUT], f"{name}_n", start=0, end=1)
    return str(step("Concat", [count, constant(f"{name}_s", rest.astype(np.int64))], f"{name}_shape", axis=0))


def _for_each_image(value: str, constant: Any, step: Any) -> str:
    """A constant [1, C, H, W] as [N, C, H, W]."""
    return str(step("Expand", [value, _shape(value, np.ones(3), constant, step)], f"{value}_each"))


def _resize(x: str, shape: tuple[int, int, int], name: str, constant: Any, step: Any) -> str:
    """By its output's sizes: the product of a size and a scale may be a hair too small."""
    sizes = _shape(name, np.array(shape), constant, step)
    settings = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return str(step("Resize", [x, "", "", sizes], name, **settings))


def _conv(conv: Conv, x: str, name: str, constant: Any, step: Any) -> str:
    """A bias that is a map is added by itself."""
    k, is_map = conv.weight.shape[-1], conv.bias.shape[1:] != (1, 1)
    inputs = [x, constant(f"{name}_w", conv.weight.astype(np.float32))]
    if not is_map:
        inputs.append(constant(f"{name}_b", conv.bias[:, 0, 0].astype(np.float32)))
    output = step(
        "Conv",
        inputs,
        f"{name}_y" if is_map else name,
        kernel_shape=[k, k],
        strides=[conv.stride] * 2,
        pads=[conv.padding] * 4,
        dilations=[conv.dilation] * 2,
        group=conv.groups,
    )
    return step("Add", [output, constant(f"{name}_b", conv.bias[None].astype(np.float32))], name) if is_map else output


def _subsample(operation: Subsample, x: str, size: tuple[int, int], name: str, constant: Any, step: Any) -> str:
    if operation.offset and any(length % 2 for length in size):
        further = [0, 0, 0, 0, 0, 0, *(length % 2 for length in size)]
        x = step("Pad", [x, constant(f"{name}_p", np.array(further, np.int64))], f"{name}_x")
    numbers: Iterator[tuple[str, list[int]]] = iter(
        (("from", [operation.offset] * 2), ("to", [length + 1 for length in size]), ("axes", [2, 3]), ("by", [2, 2]))
    )
    return step("Slice", [x, *(constant(f"{name}_{key}", np.array(value)) for key, value in numbers)], name)
