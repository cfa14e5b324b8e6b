"""A traced graph computes what the network's own definition does."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures.darts import PUBLISHED, Genotype
from dass_jax.deploy import evaluate, graph, rewrite, trace, xla
from dass_jax.deploy.graph import Add, Conv, Multiply
from dass_jax.networks.derived import derived
from dass_jax.nn import layers
from tests.deploy import networks

EVERY = Genotype(
    ((("max_pool_3x3", 0), ("sep_conv_5x5", 1)), (("dil_conv_5x5", 2), ("skip_connect", 0))),
    ((("skip_connect", 1), ("dil_conv_3x3", 0)), (("avg_pool_3x3", 1), ("sep_conv_3x3", 2))),
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("genotype", "config", "image"),
    [
        (EVERY, networks.SMALL, (9, 10, 3)),
        (PUBLISHED["dass_99"], networks.SMALL._replace(stem="imagenet", cells=2), (33, 40, 1)),
    ],
)
def test_logits_are_the_networks(genotype: Any, config: Any, image: Any) -> None:
    model = derived(genotype, config)
    params, statistics = networks.sparse_values(model, image, 0.6, 0)
    found = trace.trace(networks.logits(model), params, statistics, image)
    simple = rewrite.simplified(found)
    images = networks.images(found)
    wanted = jax.jit(networks.logits(model))(params, statistics, images.transpose(1, 2, 3, 0))
    assert np.ptp(wanted, axis=1).min() > 1e-3
    np.testing.assert_allclose(evaluate.evaluate(found, images), wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(evaluate.evaluate(simple, images), wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jax.jit(xla.function(simple))(images), wanted, rtol=1e-9, atol=1e-9)


class Residual(nn.Module):
    """What cells do not have: a norm before its convolution, a gate, swish, a clipped ReLU, a residual."""

    clip: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = layers.batch_norm(False, affine=True)
        y = layers.SparseConv(4, 3, 2, padding=1, name="stem")(x)
        z = nn.silu(norm(name="norm")(y))
        gate = layers.SparseLinear(4, name="gate")(z.mean((1, 2)))
        z = z * nn.sigmoid(gate)[:, None, None]
        z = layers.SparseConv(4, 5, 1, depthwise=True, name="deep")(z) + y
        z = jnp.clip(z, 0, 6) if not self.clip else jnp.minimum(nn.relu(z), 6.0)
        return layers.SparseLinear(3, name="end")(z.mean((1, 2))).T


def residual() -> tuple[Any, Any, Any]:
    module = Residual()
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((2, 7, 8, 1))))
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: np.abs(rng.normal(size=leaf.shape)) - 0.3 * (len(leaf.shape) > 1), shapes)

    def forward(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        return module.apply({"params": params, "batch_stats": batch_stats}, images)

    return forward, values["params"], values["batch_stats"]


@pytest.mark.usefixtures("x64")
def test_networks_of_other_shapes_are_traced_too() -> None:
    forward, params, statistics = residual()
    found = trace.trace(forward, params, statistics, (7, 8, 2))
    images = networks.images(found)
    wanted = jax.jit(forward)(params, statistics, images.transpose(1, 2, 3, 0))
    for one in (found, rewrite.simplified(found)):
        np.testing.assert_allclose(evaluate.evaluate(one, images), wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(jax.jit(xla.function(one))(images), wanted, rtol=1e-9, atol=1e-9)
    assert sum(isinstance(node.operation, Multiply) for node in found.nodes) == 2


def test_what_a_graph_cannot_say_is_an_error() -> None:
    def tangent(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        return jnp.tan(images).mean((1, 2)).T

    with pytest.raises(ValueError, match="uses tan"):
        trace.trace(tangent, {}, {}, (4, 4, 1))
    model = derived(EVERY, networks.SMALL)
    params, statistics = networks.sparse_values(model, networks.IMAGE, 1.0, 0)
    with pytest.raises(ValueError, match="in training"):
        trace.trace(lambda p, s, x: model.apply(p, s, x, True)[0], params, statistics, networks.IMAGE)


def test_norms_are_folded_and_sums_of_pointwise_layers_fused() -> None:
    cell = ((("sep_conv_3x3", 0), ("dil_conv_3x3", 1)),)  # both end in a 1×1 convolution and a norm
    found = networks.traced(Genotype(cell, cell), 1.0, 0)
    simple = rewrite.simplified(found)
    assert not any(rewrite.is_scale(node.operation) for node in simple.nodes)
    readers, before, after = graph.uses(simple), sums(found), sums(simple)
    for node in after:
        parts = [simple.nodes[index].operation for index in node.inputs if readers[index] == 1]
        assert sum(isinstance(part, Conv) and graph.is_pointwise(part) for part in parts) < 2
    assert len(after) < len(before)
    assert graph.size(simple).macs_nonzero < graph.size(found).macs_nonzero


def sums(found: graph.Graph) -> list[graph.Node]:
    return [node for node in found.nodes if isinstance(node.operation, Add)]


def test_a_scale_is_not_folded_into_a_convolution_that_something_else_reads() -> None:
    nodes = [graph.Node(graph.Input((2, 4, 4)), (), (2, 4, 4))]
    conv = graph.append(nodes, Conv(np.ones((2, 2, 1, 1)), np.zeros((2, 1, 1))), 0)
    scaled = graph.append(nodes, graph.scale(np.array([2.0, 3.0]), np.array([1.0, 0.0])), conv)
    both = graph.append(nodes, Add(), conv, scaled)
    found = graph.Graph(tuple(nodes), graph.append(nodes, graph.Mean(), both))
    found = found._replace(nodes=tuple(nodes))
    images = networks.images(found)
    np.testing.assert_allclose(
        evaluate.evaluate(rewrite.fold_scales(found), images), evaluate.evaluate(found, images), rtol=1e-12
    )
