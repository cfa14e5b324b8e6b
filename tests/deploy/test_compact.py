"""Compaction changes nothing but rounding, and leaves only channels that depend on the image."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dass_jax.architectures.darts import PUBLISHED
from dass_jax.deploy import analysis, compact, evaluate, graph, rewrite
from dass_jax.deploy.graph import Constant, Conv, Graph, Mean
from tests.deploy import networks


def same_logits(found: Graph, small: Graph) -> None:
    images = networks.images(found)
    wanted = evaluate.evaluate(found, images)
    np.testing.assert_allclose(evaluate.evaluate(small, images), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [0.5, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("name", ["dass_99", "dass_90", "darts_v2"])
def test_logits_are_the_masked_networks(name: str, keep: float) -> None:
    config = networks.SMALL._replace(channels=16)
    found = networks.traced(PUBLISHED[name], keep, 1, config)
    small = compact.compact(rewrite.simplified(found))
    same_logits(found, small)
    assert graph.size(small).macs_nonzero <= graph.size(found).macs_nonzero
    if keep <= 0.05:
        assert graph.size(small).macs < graph.size(found).macs / 2


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from((0.4, 0.2, 0.1)), st.sampled_from(("cifar", "imagenet")))
def test_random_networks(seed: int, keep: float, stem: Any) -> None:
    image = networks.IMAGE if stem == "cifar" else (27, 33, 2)
    found = networks.traced(networks.random_genotype(seed), keep, seed, networks.SMALL._replace(stem=stem), image)
    same_logits(found, compact.compact(found))
    small = compact.compact(rewrite.simplified(found))
    same_logits(found, small)
    assert graph.size(compact.compact(small)) == graph.size(small)


def values_of(found: Graph, images: np.ndarray) -> list[np.ndarray]:
    values = [images]
    for node in found.nodes[1:]:
        values.append(np.asarray(evaluate.apply(node.operation, [values[index] for index in node.inputs])))
    return values


def test_a_channel_that_is_said_to_be_fixed_has_its_value_for_every_image() -> None:
    found = rewrite.simplified(networks.traced(PUBLISHED["dass_90"], 0.1, 3))
    fixed = maps = 0
    for value, channels in zip(values_of(found, networks.images(found, 3)), analysis.forward(found), strict=True):
        still = ~channels.dynamic
        wanted = np.broadcast_to(channels.offset[still], value[0, still].shape)
        for one in value:
            np.testing.assert_allclose(one[still], wanted, rtol=1e-10, atol=1e-12)
        fixed, maps = fixed + still.sum(), maps + (channels.offset.shape[1:] != (1, 1))
    assert fixed > 100 and maps > 3


def test_what_is_left_depends_on_the_image() -> None:
    # Without ReLUs, which may be off for all of a few images, every channel left must differ between two.
    found = rewrite.simplified(networks.traced(PUBLISHED["darts_v2"], 0.15, 5))
    linear = [
        node._replace(operation=graph.Activation("sigmoid")) if isinstance(node.operation, graph.Activation) else node
        for node in found.nodes
    ]
    small = compact.compact(found._replace(nodes=tuple(linear)))
    for node, value in zip(small.nodes, values_of(small, networks.images(small)), strict=True):
        if not isinstance(node.operation, Constant) and node is not small.nodes[small.output]:
            assert (np.abs(value[0] - value[1]).max((1, 2)) > 0).all(), node


def single(*steps: Any) -> Graph:
    """A chain of operations on a 2×4×4 image, then the mean."""
    nodes = [graph.Node(graph.Input((2, 4, 4)), (), (2, 4, 4))]
    index = 0
    for step in (*steps, Mean()):
        index = graph.append(nodes, step, index)
    return Graph(tuple(nodes), index)


def test_zero_padding_of_a_constant_becomes_a_map() -> None:
    first = Conv(np.array([[1.0, 1.0], [0.0, 0.0]])[:, :, None, None], np.array([0.0, 5.0])[:, None, None])
    deep = Conv(np.ones((2, 1, 3, 3)), np.zeros((2, 1, 1)), padding=1, groups=2)
    mixing = Conv(np.ones((2, 2, 1, 1)), np.zeros((2, 1, 1)))
    found = single(first, deep, mixing)
    [last] = [node.operation for node in compact.compact(found).nodes if node.shape == (2, 4, 4)][-1:]
    edge, inside = [20.0, 30, 30, 20], [30.0, 45, 45, 30]
    np.testing.assert_allclose(last.bias, [[edge, inside, inside, edge]] * 2)
    assert last.weight.shape == (2, 1, 1, 1)
    same_logits(found, compact.compact(found))


def test_taps_that_meet_only_padding_are_dead() -> None:
    weight = np.zeros((2, 2, 5, 5))
    weight[:, :, 0, 0] = weight[:, :, 4, 2] = 1  # four pixels away in an image of four: outside
    found = single(Conv(weight, np.ones((2, 1, 1)), padding=4, dilation=2))
    assert not analysis.forward(found)[1].dynamic.any()
    same_logits(found, compact.compact(found))


def test_a_network_without_a_live_path_has_constant_logits() -> None:
    found = single(Conv(np.zeros((3, 2, 1, 1)), np.array([1.0, 2, 3])[:, None, None]))
    small = compact.compact(found)
    same_logits(found, small)
    assert graph.size(small).weights == 0 and len(small.nodes) == 3


def test_gates_that_are_fixed_or_zero() -> None:
    nodes = [graph.Node(graph.Input((3, 4, 4)), (), (3, 4, 4))]
    pooled = graph.append(nodes, Mean(), 0)
    gate = graph.append(
        nodes, Conv(np.diag([1.0, 0, 0])[:, :, None, None], np.array([0.0, 2, 0])[:, None, None]), pooled
    )
    both = graph.append(nodes, graph.Multiply(), 0, gate)
    found = Graph(tuple(nodes), graph.append(nodes, Mean(), both))
    found = found._replace(nodes=tuple(nodes))
    small = compact.compact(found)
    same_logits(found, small)
    assert max(node.shape[0] for node in small.nodes[1:] if node.shape[1:] == (4, 4)) <= 2
