"""Every format gives back the network: its logits, or close ones where numbers were rounded on purpose."""

import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import deploy
from dass_jax.architectures.darts import PUBLISHED
from dass_jax.deploy import compact, evaluate, files, graph, rewrite, runtime, sparse, xla
from dass_jax.deploy.formats import bits, onnx_file, packed, stablehlo, unpack
from dass_jax.deploy.graph import Conv, Graph
from dass_jax.errors import UserError
from tests.deploy import networks

CELLS = networks.SMALL._replace(cells=2, channels=8)


@pytest.fixture(scope="module")
def small() -> Graph:
    return compact.compact(rewrite.simplified(networks.traced(PUBLISHED["dass_99"], 0.2, 0, CELLS)))


@pytest.fixture(scope="module")
def images(small: Graph) -> np.ndarray:
    return networks.images(small, 3).astype(np.float32)


@pytest.fixture(scope="module")
def wanted(small: Graph, images: np.ndarray) -> np.ndarray:
    return evaluate.evaluate(small, images.astype(np.float64))


def close(found: Any, wanted: np.ndarray, tolerance: float) -> None:
    assert np.ptp(wanted, axis=1).min() > 1e-2
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max()))


def test_each_format_has_a_writer_and_a_dtype() -> None:
    assert tuple(files.WRITERS) == deploy.FORMATS and tuple(packed.DTYPES) == deploy.VALUES


def test_stablehlo_has_the_logits_for_any_number_of_images(
    small: Graph, images: np.ndarray, wanted: np.ndarray, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "a.stablehlo"
    file.write_bytes(stablehlo.to_stablehlo(small))
    run = files.load(file)
    close(run(images), wanted, 1e-5)
    close(run(images[:1]), wanted[:1], 1e-5)
    # What its reader needs is JAX alone.
    assert jax.export.deserialize(bytearray(file.read_bytes())).platforms == stablehlo.PLATFORMS


def test_onnx_runtime_has_the_logits(small: Graph, images: np.ndarray, wanted: np.ndarray) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    run = files.onnx_runner(onnx_file.to_onnx(small), threads=1)
    close(run(images), wanted, 1e-4)
    close(run(images[:1]), wanted[:1], 1e-4)
    with pytest.raises(UserError, match="allowed: a whole"):
        files.onnx_runner(b"no model")


def test_onnx_says_the_rarer_operations_too() -> None:
    """Odd sizes, gates, constants, clipped activations."""
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    nodes = [graph.Node(graph.Input((2, 5, 7)), (), (2, 5, 7))]
    parts = [graph.append(nodes, graph.Subsample(offset), 0) for offset in (0, 1)]
    x = graph.append(nodes, graph.Take(np.array([2, 0, 3])), graph.append(nodes, graph.Concat(), *parts))
    x = graph.append(nodes, graph.Add(), x, graph.append(nodes, graph.Constant(networks.images(find(nodes, x), 1)[0])))
    x = graph.append(nodes, graph.Activation("relu6"), x)
    gate = graph.append(nodes, graph.Activation("sigmoid"), graph.append(nodes, graph.Mean(), x))
    x = graph.append(nodes, graph.Multiply(), x, gate)
    for operation in (graph.Pool("avg", 2), graph.Pool("max", 1), graph.Mean()):
        x = graph.append(nodes, operation, x)
    found = Graph(tuple(nodes), x)
    images = networks.images(found).astype(np.float32)
    close(files.onnx_runner(onnx_file.to_onnx(found), 1)(images), evaluate.evaluate(found, images), 1e-5)


def find(nodes: list[graph.Node], index: int) -> Graph:
    """A graph whose input has the shape of a node."""
    return Graph((graph.Node(graph.Input(nodes[index].shape), (), nodes[index].shape),), 0)


@pytest.mark.parametrize(("values", "tolerance"), [("float32", 1e-6), ("float16", 1e-2), ("int8", 5e-2)])
def test_packed_files_give_back_the_graph(
    small: Graph, images: np.ndarray, wanted: np.ndarray, values: str, tolerance: float
) -> None:
    found = unpack.load(packed.dump(small, values))
    close(evaluate.evaluate(found, images.astype(np.float64)), wanted, tolerance)
    assert [node.inputs for node in found.nodes] == [node.inputs for node in small.nodes]
    for one, other in zip(found.nodes, small.nodes, strict=True):
        if isinstance(other.operation, Conv):
            there = other.operation.weight != 0
            assert not one.operation.weight[~there].any()
            # Of int8, one step of the row's scale; zero is a value, too.
            row = np.abs(other.operation.weight).max((1, 2, 3), keepdims=True)
            off = np.abs(one.operation.weight - other.operation.weight)
            assert (
                off
                <= {"float32": 1e-7, "float16": 1e-3, "int8": 0.51 / 127 * 2 ** (1 / packed.STEPS) + 1e-9}[values] * row
            ).all()


def entropy(share: float) -> float:
    return -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) / share


@pytest.mark.parametrize("share", [0.003, 0.01, 0.05, 0.2])
def test_positions_take_little_more_than_the_masks_entropy(share: float) -> None:
    positions = np.flatnonzero(np.random.default_rng(0).random(400_000) < share)
    gaps = bits.to_gaps(positions)
    r = bits.best_r(gaps)
    unary, remainders = bits.write(gaps, r)
    assert (len(unary) + len(remainders)) / len(positions) < 1.05 * entropy(share)
    again, *taken = bits.read(unary, remainders, len(gaps), r)
    np.testing.assert_array_equal(bits.to_positions(again), positions)
    assert taken == [len(unary), len(remainders)]


def test_a_whole_file_is_near_the_entropy_and_the_values() -> None:
    weight = np.random.default_rng(0).normal(size=(256, 256, 1, 1))
    weight[np.random.default_rng(1).random(weight.shape) >= 0.01] = 0
    nodes = [graph.Node(graph.Input((256, 2, 2)), (), (256, 2, 2))]
    x = graph.append(nodes, Conv(weight, np.zeros((256, 1, 1))), 0)
    output = graph.append(nodes, graph.Mean(), x)
    found = Graph(tuple(nodes), output)
    kept = np.count_nonzero(weight)
    for values, width in (("float32", 4), ("float16", 2), ("int8", 1)):
        biases = 256 * {"float32": 4, "float16": 2, "int8": 2 + 1}[values]  # and scales
        bound = kept * (width + entropy(0.01) / 8) + biases
        assert bound < len(packed.dump(found, values)) < 1.05 * bound + 250


def test_damaged_packed_files_are_refused(small: Graph) -> None:
    data = packed.dump(small)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 20):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(UserError, match=r"'it' .*allowed: "):
            unpack.load(bytes(broken), "'it'")
    for size in (0, 5, 20, len(data) - 1):
        with pytest.raises(UserError, match="allowed: "):
            unpack.load(data[:size])
    with pytest.raises(UserError, match="allowed: 'float32'"):
        packed.dump(small._replace(nodes=tuple(map(larger, small.nodes))))
    with pytest.raises(UserError, match="allowed: float32, float16, int8"):
        packed.dump(small, "int4")


def larger(node: graph.Node) -> graph.Node:
    if isinstance(node.operation, Conv):
        return node._replace(operation=node.operation._replace(weight=node.operation.weight * 1e6))
    return node


def test_files_that_are_none(tmp_path: pathlib.Path) -> None:
    for name, said in (("a.txt", "allowed: .stablehlo, .packed, .onnx"), ("b.stablehlo", "is damaged")):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(UserError, match=said):
            files.load(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        files.load(tmp_path / "absent.onnx")


def test_the_sparse_program_has_the_logits(small: Graph, images: np.ndarray, wanted: np.ndarray) -> None:
    pytest.importorskip("numba", reason="the extra sparse is not installed")
    close(files.sparse_runner(small)(images), wanted, 1e-5)
    program = sparse.lower(small)
    assert sparse.work(program).macs < graph.size(small).macs
    code = runtime.assemble(program)
    read = sum(len(one.form.terms) + (np.ndim(one.form.bias) > 0) for one in program.instructions)
    assert len(code.terms) + len(code.taps) == read


def test_a_relu_of_a_channel_that_is_there_is_applied_by_its_readers() -> None:
    pytest.importorskip("numba", reason="the extra sparse is not installed")
    rng = np.random.default_rng(0)
    shape = (2, 5, 6)
    nodes = [graph.Node(graph.Input(shape), (), shape)]
    once = graph.append(nodes, graph.Activation("relu"), 0)
    twice = graph.append(nodes, graph.Activation("relu"), once)
    taps = Conv(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=(2, 1, 1)), padding=1, groups=2)
    parts = [
        graph.append(nodes, taps, twice),
        graph.append(nodes, Conv(rng.normal(size=(2, 2, 1, 1)), np.zeros((2, 1, 1))), once),
        graph.append(nodes, graph.Pool("max", 1), once),
    ]
    output = graph.append(nodes, graph.Mean(), graph.append(nodes, graph.Concat(), *parts))
    found = Graph(tuple(nodes), output)
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    close(files.sparse_runner(found)(x), evaluate.evaluate(found, x.astype(np.float64)), 1e-6)
    kinds = [one.kind for one in sparse.lower(found).instructions]
    # Two channels each of the two convolutions and, for the pool, which reads planes, of one ReLU.
    assert kinds.count(sparse.LINEAR) == 6


def test_a_packed_file_runs_without_numba_too(
    small: Graph, images: np.ndarray, wanted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "has_package", lambda name: name != "numba")
    close(files.load_bytes(packed.dump(small, "float32"), "a.packed")(images), wanted, 1e-5)
    close(files.compiled(xla.function(small))(images), wanted, 1e-5)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("stride", [1, 2])
def test_sparse_pools_see_only_the_image(kind: str, stride: int) -> None:
    pytest.importorskip("numba", reason="the extra sparse is not installed")
    for height, width in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 5), (3, 8), (7, 5)):
        nodes = [graph.Node(graph.Input((2, height, width)), (), (2, height, width))]
        pooled = graph.append(nodes, graph.Pool(kind, stride), 0)
        weights = np.arange(1.0, 1 + np.prod(nodes[pooled].shape)).reshape(nodes[pooled].shape)
        scaled = graph.append(nodes, graph.Multiply(), pooled, graph.append(nodes, graph.Constant(weights)))
        output = graph.append(nodes, graph.Mean(), scaled)
        found = Graph(tuple(nodes), output)
        images = networks.images(found).astype(np.float32)
        wanted = evaluate.evaluate(found, images.astype(np.float64))
        np.testing.assert_allclose(files.sparse_runner(found)(images), wanted, rtol=1e-5, atol=1e-5)
