"""Published networks, narrow and sparse, are traced and compacted exactly, residuals and gates included."""

import jax
import numpy as np
import pytest

from dass_jax.deploy import compact, evaluate, graph, rewrite, trace
from dass_jax.networks.baselines import PLANS, baseline
from tests.deploy import networks

IMAGE = (8, 8, 3)


@pytest.mark.parametrize("name", PLANS)
def test_compacted_baselines_have_the_same_logits(name: str) -> None:
    model = baseline(name, 3, 0.1)
    params, statistics = networks.sparse_values(model, IMAGE, 0.05, 0)
    found = trace.trace(networks.logits(model), params, statistics, IMAGE)
    small = compact.compact(rewrite.simplified(found))
    images = networks.images(found)
    wanted = evaluate.evaluate(found, images)
    np.testing.assert_allclose(evaluate.evaluate(small, images), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    assert graph.size(small).macs < graph.size(found).macs


@pytest.mark.usefixtures("x64")
def test_the_graph_of_a_baseline_is_its_definition() -> None:
    model = baseline("mobilenet_v2", 3, 0.1)
    params, statistics = networks.sparse_values(model, IMAGE, 0.5, 0)
    found = trace.trace(networks.logits(model), params, statistics, IMAGE)
    images = networks.images(found)
    wanted = jax.jit(networks.logits(model))(params, statistics, images.transpose(1, 2, 3, 0))
    np.testing.assert_allclose(evaluate.evaluate(found, images), wanted, rtol=1e-8, atol=1e-8)
