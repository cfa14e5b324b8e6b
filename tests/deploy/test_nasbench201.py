"""Networks of equal cells are traced, compacted and written exactly: dense windows, halving means, operations none."""

from typing import Any

import jax
import numpy as np
import pytest

from dass_jax.architectures.nasbench201 import Cell
from dass_jax.deploy import compact, evaluate, files, graph, rewrite, sparse, trace, xla
from dass_jax.deploy.formats import onnx_file, packed, unpack
from dass_jax.deploy.graph import Graph, Halve
from dass_jax.networks.nasbench201 import nasbench201
from dass_jax.nn.skeletons import Sizes
from tests.deploy import networks

IMAGE = (8, 12, 3)
EVERY = Cell("nor_conv_3x3", "avg_pool_3x3", "nor_conv_1x1", "skip_connect", "none", "nor_conv_3x3")
# Node 1 has no input: what reads it sees only zeros, of which a convolution and its norm make a constant.
BEHIND_NONE = Cell("none", "nor_conv_1x1", "nor_conv_3x3", "none", "avg_pool_3x3", "skip_connect")
NOTHING = Cell("nor_conv_3x3", "none", "none", "none", "none", "none")


def made(cell: Cell, keep: float, channels: int = 3) -> tuple[Any, Any, Any]:
    """Forward, params and statistics of a random sparse network."""
    model = nasbench201(cell, Sizes(4, 1, channels))
    return networks.logits(model), *networks.sparse_values(model, IMAGE, keep, 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", [EVERY, BEHIND_NONE])
def test_logits_are_the_networks(cell: Cell) -> None:
    forward, params, statistics = made(cell, 0.6)
    traced = trace.trace(forward, params, statistics, IMAGE)
    simple = rewrite.simplified(traced)
    images = networks.images(traced)
    wanted = jax.jit(forward)(params, statistics, images.transpose(1, 2, 3, 0))
    assert np.ptp(wanted, axis=0).min() > 1e-3, "each output depends on the image"
    for one in (traced, simple, compact.compact(simple)):
        np.testing.assert_allclose(evaluate.evaluate(one, images), wanted, rtol=1e-9, atol=1e-9)
    assert sum(isinstance(node.operation, Halve) for node in traced.nodes) == 2


def test_a_cell_without_a_path_leaves_a_constant() -> None:
    traced = trace.trace(*made(NOTHING, 0.5), IMAGE)
    small = compact.compact(rewrite.simplified(traced))
    images = networks.images(traced)
    wanted = evaluate.evaluate(traced, images)
    np.testing.assert_array_equal(wanted[0], wanted[1])
    np.testing.assert_allclose(evaluate.evaluate(small, images), wanted, rtol=1e-9)
    assert graph.size(small).weights == 0


def test_norms_are_folded_and_dead_channels_go() -> None:
    simple = rewrite.simplified(trace.trace(*made(EVERY, 0.05, 8), IMAGE))
    # What stands alone is the norm after the last cell, a sum: no convolution can take it.
    assert sum(rewrite.is_scale(node.operation) for node in simple.nodes) == 1
    small = compact.compact(simple)
    assert graph.size(small).macs < 0.75 * graph.size(simple).macs


@pytest.mark.parametrize("cell", [EVERY, BEHIND_NONE, NOTHING])
def test_every_format_has_the_logits(cell: Cell) -> None:
    """Of EVERY compacted; of the others as they are, so that constants are read by themselves."""
    found = trace.trace(*made(cell, 0.3), IMAGE)
    small = compact.compact(rewrite.simplified(found)) if cell == EVERY else found
    images = networks.images(small, 3).astype(np.float32)
    wanted = evaluate.evaluate(found, images.astype(np.float64))
    again = unpack.load(packed.dump(small, "float32"))
    runs = {"xla": files.compiled(xla.function(small)), "packed": lambda x: evaluate.evaluate(again, x)}
    if files.has_package("onnx") and files.has_package("onnxruntime"):
        runs["onnx"] = files.onnx_runner(onnx_file.to_onnx(small), threads=1)
    if files.has_package("numba"):
        runs["sparse"] = files.sparse_runner(small)
    for name, run in runs.items():
        np.testing.assert_allclose(run(images), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 2)])
def test_halving_by_every_form(size: tuple[int, int]) -> None:
    """Also of an odd size, of which the last row or column is left out, and of a ReLU that is applied by its reader."""
    nodes = [graph.Node(graph.Input((2, *size)), (), (2, *size))]
    halved = graph.append(nodes, Halve(), graph.append(nodes, graph.Activation("relu"), 0))
    weights = np.arange(1.0, 1 + np.prod(nodes[halved].shape)).reshape(nodes[halved].shape)
    scaled = graph.append(nodes, graph.Multiply(), halved, graph.append(nodes, graph.Constant(weights)))
    whole = Graph(tuple(nodes), graph.append(nodes, graph.Mean(), scaled))
    whole = whole._replace(nodes=tuple(nodes))
    images = networks.images(whole)
    parts = np.maximum(images, 0)[:, :, : size[0] // 2 * 2, : size[1] // 2 * 2]
    means = sum(parts[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)) / 4
    wanted = (means * weights).mean((2, 3))
    np.testing.assert_allclose(evaluate.evaluate(whole, images), wanted, rtol=1e-12)
    small = images.astype(np.float32)
    np.testing.assert_allclose(xla.function(whole)(small), wanted, rtol=1e-5)
    if files.has_package("numba"):
        np.testing.assert_allclose(files.sparse_runner(whole)(small), wanted, rtol=1e-5)
    if files.has_package("onnx") and files.has_package("onnxruntime"):
        np.testing.assert_allclose(files.onnx_runner(onnx_file.to_onnx(whole), 1)(small), wanted, rtol=1e-5)
    assert sparse.work(sparse.lower(whole)).terms == 8, "four pixels of each channel, without a program of their own"
