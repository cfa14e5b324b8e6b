"""A graph as a program over planes: one instruction computes one channel from the few that its live weights name.

A channel of a linear operation is a bias and a list of terms, each a weight times another plane, shifted or every
second pixel. Only live weights become terms, whatever the layer: pointwise, linear, depthwise or dense. Concatenations
and choices of channels cost nothing, sums and single taps go into what reads them, and activations are applied where a
channel is computed; a ReLU of one that is there is applied by who reads it. `runtime` carries the program out.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    Node,
    Pool,
    Resize,
    Subsample,
    Take,
    is_pointwise,
)

LINEAR, MAX_POOL, AVG_POOL, MEAN, MULTIPLY, RESIZE = range(6)
"""Kinds of instructions."""
FUNCTIONS = ("", "relu", "relu6", "sigmoid")
"""What is applied to a linear instruction's sum, by its number."""


class Term(NamedTuple):
    """weight · max(plane[h·stride + dy, w·stride + dx], low), zero outside of the plane."""

    plane: int
    weight: float
    dy: int = 0
    dx: int = 0
    stride: int = 1
    low: float = -math.inf


class Form(NamedTuple):
    """A channel that is not computed yet, or, as one unshifted term of weight 1, one that is."""

    bias: Any
    """A number, or a map [H, W]."""
    terms: tuple[Term, ...]


class Instruction(NamedTuple):
    """Computes the plane `out`."""

    kind: int
    out: int
    form: Form
    """Its terms' planes are the inputs of every kind."""
    option: int = 0
    """Of LINEAR the number of its function, of a pool its stride."""


class Program(NamedTuple):
    """What `runtime` runs; planes are numbered, the image's channels first."""

    shapes: tuple[tuple[int, int], ...]
    """(height, width) of each plane."""
    instructions: tuple[Instruction, ...]
    inputs: int
    """Channels of the image."""
    outputs: tuple[int, ...]
    """Planes of the outputs, 1×1 each, or one of all pixels each."""


class _Draft(NamedTuple):
    """A program that is being written."""

    shapes: list[tuple[int, int]]
    instructions: list[Instruction]


def lower(graph: Graph) -> Program:
    """The program of a graph; faster after `compact.compact`, but right for any graph."""
    channels, height, width = graph.nodes[0].shape
    draft = _Draft([(height, width)] * channels, [])
    readers, forms = _readers(graph), [[_computed(plane) for plane in range(channels)]]
    for index, node in enumerate(graph.nodes[1:], start=1):
        inputs = [forms[source] for source in node.inputs]
        shapes = [graph.nodes[source].shape for source in node.inputs]
        made = _forms(draft, node, inputs, shapes, readers[index])
        forms.append(
            [_settled(draft, form, node.shape[1:], *use) for form, use in zip(made, readers[index], strict=True)]
        )
    size = graph.nodes[graph.output].shape[1:]
    outputs = [_plane(draft, form, size) for form in forms[graph.output]]
    return Program(tuple(draft.shapes), tuple(draft.instructions), channels, tuple(outputs))


Reader = tuple[int, bool]
"""How many terms or instructions read a channel, and whether one of them needs it as a plane."""


def _readers(graph: Graph) -> list[list[Reader]]:
    counts = [np.zeros(node.shape[0], int) for node in graph.nodes]
    planes = [np.zeros(node.shape[0], bool) for node in graph.nodes]
    counts[graph.output][:] = 1
    for index in range(len(graph.nodes) - 1, -1, -1):
        node, start = graph.nodes[index], 0
        operation, read = node.operation, counts[index] > 0
        for source in node.inputs:
            size = graph.nodes[source].shape[0]
            part = slice(start, start + size) if isinstance(operation, Concat) else slice(None)
            start += size
            if isinstance(operation, Concat):  # hands on its readers
                counts[source] += counts[index][part]
                planes[source] |= planes[index][part]
            elif isinstance(operation, Take):
                np.add.at(counts[source], operation.channels, counts[index])
                np.logical_or.at(planes[source], operation.channels, planes[index])
            elif isinstance(operation, Conv) and operation.groups == 1:
                nonzero = (operation.weight[read] != 0).sum((0, 2, 3))
                counts[source] += nonzero
                if not is_pointwise(operation):
                    planes[source] |= nonzero > 0
            else:
                counts[source] += read
                planes[source] |= read & (not isinstance(operation, Add | Activation))
    return [list(zip(count.tolist(), plane.tolist(), strict=True)) for count, plane in zip(counts, planes, strict=True)]


def _computed(plane: int) -> Form:
    return Form(0.0, (Term(plane, 1.0),))


def _is_view(form: Form) -> bool:
    """Whether it is a plane that is there, as it is or after a ReLU."""
    return len(form.terms) == 1 and form.terms[0][1:5] == (1.0, 0, 0, 1) and np.ndim(form.bias) == 0 and form.bias == 0


def _is_computed(form: Form) -> bool:
    return _is_view(form) and form.terms[0].low == -math.inf


def _emit(draft: _Draft, kind: int, form: Form, shape: Sequence[int], option: int = 0) -> int:
    draft.shapes.append((shape[0], shape[1]))
    draft.instructions.append(Instruction(kind, len(draft.shapes) - 1, form, option))
    return len(draft.shapes) - 1


def _plane(draft: _Draft, form: Form, shape: Sequence[int]) -> int:
    """The plane with a form's value, computed if it is not there."""
    return form.terms[0].plane if _is_computed(form) else _emit(draft, LINEAR, form, shape)


def _settled(draft: _Draft, form: Form, shape: Sequence[int], count: int, as_plane: bool) -> Form:
    """Computes a channel whose form would otherwise be worked through several times."""
    if count == 0 or _is_view(form) or not (as_plane or (count > 1 and len(form.terms) > 1)):
        return form
    return _computed(_plane(draft, form, shape))


def _forms(draft: _Draft, node: Node, inputs: Any, shapes: Any, readers: list[Reader]) -> list[Form]:
    """The channels of a node; those without a reader stay empty."""
    operation, [height, width] = node.operation, node.shape[1:]
    empty, read = Form(0.0, ()), [count > 0 for count, _ in readers]
    match operation:
        case Constant():
            return [_constant(value) for value in operation.value]
        case Concat():
            return [form for part in inputs for form in part]
        case Take():
            return [inputs[0][channel] for channel in operation.channels]
        case Conv():
            pointwise = is_pointwise(operation)
            return [
                _convolved(operation, channel, inputs[0], pointwise) if wanted else empty
                for channel, wanted in enumerate(read)
            ]
        case Add():
            pairs = zip(*inputs, read, strict=True)
            return [_sum([(1.0, a), (1.0, b)], 0.0) if wanted else empty for a, b, wanted in pairs]
        case Subsample(offset):
            view = {"dy": offset, "dx": offset, "stride": 2}
            pairs = zip(inputs[0], read, strict=True)
            return [Form(0.0, (form.terms[0]._replace(**view),)) if wanted else empty for form, wanted in pairs]
        case Halve():
            pairs = zip(inputs[0], read, strict=True)
            return [_halved(form.terms[0]) if wanted else empty for form, wanted in pairs]
    kind, option = _nonlinear(operation)
    made = []
    for channel, wanted in enumerate(read):
        parts = [part[channel] for part in inputs]
        if not wanted:
            made.append(empty)
        elif (kind, option) == (LINEAR, FUNCTIONS.index("relu")) and _is_view(parts[0]):
            made.append(Form(0.0, (parts[0].terms[0]._replace(low=0.0),)))
        elif kind == LINEAR:
            made.append(_computed(_emit(draft, LINEAR, parts[0], (height, width), option)))
        else:
            planes = [_plane(draft, form, shape[1:]) for form, shape in zip(parts, shapes, strict=True)]
            form = Form(0.0, tuple(Term(plane, 1.0) for plane in planes))
            made.append(_computed(_emit(draft, kind, form, (height, width), option)))
    return made


def _nonlinear(operation: Any) -> tuple[int, int]:
    match operation:
        case Activation(name):
            return LINEAR, FUNCTIONS.index(name)
        case Pool(kind, stride):
            return {"max": MAX_POOL, "avg": AVG_POOL}[kind], stride
        case Mean():
            return MEAN, 0
        case Multiply():
            return MULTIPLY, 0
        case Resize():
            return RESIZE, 0
    raise ValueError(f"operation {operation!r} is not one of a graph's")


def _halved(view: Term) -> Form:
    """The mean of each 2×2 pixels of a plane."""
    corners = itertools.product((0, 1), (0, 1))
    return Form(0.0, tuple(view._replace(weight=0.25, dy=dy, dx=dx, stride=2) for dy, dx in corners))


def _constant(value: np.ndarray) -> Form:
    """A map [H, W] that is a number if all its pixels are equal."""
    return Form(float(value.flat[0]) if (value == value.flat[0]).all() else value, ())


def _convolved(conv: Conv, channel: int, inputs: list[Form], pointwise: bool) -> Form:
    weight, bias = conv.weight[channel], _constant(conv.bias[channel]).bias
    parts = []
    for source, a, b in zip(*np.nonzero(weight), strict=True):
        form = inputs[channel if conv.groups > 1 else source]
        if not pointwise:  # whose inputs are views
            dy, dx = (int(place) * conv.dilation - conv.padding for place in (a, b))
            form = Form(0.0, (form.terms[0]._replace(dy=dy, dx=dx, stride=conv.stride),))
        parts.append((float(weight[source, a, b]), form))
    return _sum(parts, bias)


def _sum(parts: list[tuple[float, Form]], bias: Any) -> Form:
    """bias + Σ factor · form, equal terms brought together."""
    terms: dict[tuple, float] = {}
    for factor, form in parts:
        if np.ndim(form.bias) or form.bias:
            bias = bias + factor * form.bias
        for term in form.terms:
            key = (term.plane, *term[2:])
            terms[key] = terms.get(key, 0.0) + factor * term.weight
    return Form(bias, tuple(Term(plane, weight, *place) for (plane, *place), weight in terms.items()))


class Work(NamedTuple):
    """How much there is to do in a program."""

    instructions: int
    terms: int
    macs: int
    """Multiply-accumulates of all terms, at every output pixel."""


def work(program: Program) -> Work:
    """Counts a program."""
    linear = [(one.form.terms, program.shapes[one.out]) for one in program.instructions if one.kind == LINEAR]
    return Work(
        instructions=len(program.instructions),
        terms=sum(len(terms) for terms, _ in linear),
        macs=sum(len(terms) * height * width for terms, (height, width) in linear),
    )
