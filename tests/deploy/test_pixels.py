"""Outputs for each pixel are traced, compacted and written exactly, in every format: interpolation to the image's size,
dilated convolutions, a mean that every pixel sees."""

from typing import Any

import jax
import numpy as np
import pytest

from dass_jax.architectures.dso import whole
from dass_jax.deploy import compact, evaluate, files, graph, has_package, rewrite, trace, xla
from dass_jax.deploy.formats import onnx_file, packed, stablehlo, unpack
from dass_jax.deploy.graph import Graph, Resize
from dass_jax.networks.dso import Fields, dso
from dass_jax.tasks import Pixels
from tests.deploy import networks

IMAGE = (18, 13, 3)
OUTPUTS = Pixels(5, 4, (1, 2), 6)
"""Maps of 5×4 pixels, by dilation in the second stage; 13 pixels are no multiple of theirs."""


def made(keep: float) -> tuple[Any, Any, Any]:
    """Forward, params and statistics of a random sparse network."""
    model = dso(whole("share", 1, ("sep3", "max3"), 1, 1), Fields(stages=(1, 1), channels=4, stem="imagenet"), OUTPUTS)
    return networks.logits(model), *networks.sparse_values(model, IMAGE, keep, 0)


@pytest.fixture(scope="module")
def small() -> Graph:
    return compact.compact(rewrite.simplified(trace.trace(*made(0.3), IMAGE)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("keep", [1.0, 0.1])
def test_outputs_are_the_networks(keep: float) -> None:
    forward, params, stats = made(keep)
    found = trace.trace(forward, params, stats, IMAGE)
    assert graph.outputs_of(found) == (5, 18, 13)
    assert [node.operation for node in found.nodes if isinstance(node.operation, Resize)] == [Resize(18, 13)]
    assert 2 in {node.operation.dilation for node in found.nodes if isinstance(node.operation, graph.Conv)}
    images = networks.images(found, 3)
    wanted = np.moveaxis(np.asarray(forward(params, stats, images.transpose(1, 2, 3, 0))), -1, 0)
    assert (np.ptp(wanted, axis=(2, 3)) > 1e-3).all() == (keep == 1)  # of few weights some outputs see no image
    simple = rewrite.simplified(found)
    for one in (found, simple, compact.compact(simple)):
        np.testing.assert_allclose(evaluate.evaluate(one, images), wanted, rtol=1e-9, atol=1e-9)


def test_every_format_has_the_outputs(small: Graph) -> None:
    images = networks.images(small, 3).astype(np.float32)
    wanted = evaluate.evaluate(small, images.astype(np.float64))
    assert wanted.shape == (3, 5, 18, 13)
    runs = {
        "xla": files.compiled(xla.function(small)),
        "stablehlo": files.load_bytes(stablehlo.to_stablehlo(small), "a.stablehlo"),
        "packed": files.compiled(xla.function(unpack.load(packed.dump(small, "float32")))),
    }
    if has_package("numba"):
        runs["sparse"] = files.sparse_runner(small)
    if has_package("onnx") and has_package("onnxruntime"):
        runs["onnx"] = files.onnx_runner(onnx_file.to_onnx(small))
    for name, run in runs.items():
        for number in (3, 1):
            found = run(images[:number])
            np.testing.assert_allclose(found, wanted[:number], rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [(4, 5), (7, 5), (16, 20), (9, 31)])
def test_interpolation_is_jax_own(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    found = evaluate.apply(Resize(*size), [x])
    np.testing.assert_allclose(found, jax.image.resize(x, (2, 3, *size), "linear"), rtol=1e-12, atol=1e-12)


def test_interpolation_to_fewer_pixels_is_no_node() -> None:
    nodes = [graph.Node(graph.Input((1, 4, 4)), (), (1, 4, 4))]
    with pytest.raises(ValueError, match=r"interpolation of \(1, 4, 4\) to 3×4: it is smaller"):
        graph.append(nodes, Resize(3, 4), 0)


def test_outputs_that_no_pixel_of_the_image_reaches_are_a_map() -> None:
    """As of a head that is pruned whole."""
    forward, params, stats = made(0.5)
    params["head"]["classifier"]["conv"]["weight"] = np.zeros_like(params["head"]["classifier"]["conv"]["weight"])
    small = compact.compact(rewrite.simplified(trace.trace(forward, params, stats, IMAGE)))
    images = networks.images(small, 2).astype(np.float32)
    wanted = np.broadcast_to(params["head"]["bias"][:, None, None], (2, 5, 18, 13))
    for run in (lambda x: evaluate.evaluate(small, x), files.compiled(xla.function(small))):
        np.testing.assert_allclose(run(images), wanted, rtol=1e-5)
    if has_package("numba"):
        np.testing.assert_allclose(files.sparse_runner(small)(images), wanted, rtol=1e-5)
    if has_package("onnx") and has_package("onnxruntime"):
        np.testing.assert_allclose(files.onnx_runner(onnx_file.to_onnx(small))(images), wanted, rtol=1e-5)
