"""ENAS' networks are traced and compacted exactly: joined maps, reductions without ReLU, a classifier without bias."""

from typing import Any

import jax
import numpy as np
import pytest

from dass_jax.architectures import enas_macro as macro_arcs
from dass_jax.architectures import enas_micro as micro_arcs
from dass_jax.deploy import compact, evaluate, rewrite, trace
from dass_jax.networks import enas_macro, enas_micro
from tests.deploy import networks

IMAGE = (8, 12, 3)
MICRO = micro_arcs.Arc((0, 4, 1, 3, 1, 2, 2, 1, 3, 0, 0, 4, 4, 4, 2, 3, 5, 1, 1, 0), (0, 4, 0, 2, *(0, 0, 2, 3) * 4))
MODELS = {
    "macro": enas_macro.enas_macro(macro_arcs.from_text("1 4:1 3:01 5:101"), enas_macro.Fields(4), 3),
    "micro": enas_micro.enas_micro(MICRO, enas_micro.Fields(layers=1, channels=4, auxiliary=False), 3),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_networks(name: str) -> None:
    model: Any = MODELS[name]
    forward, params, statistics = networks.logits(model), *networks.sparse_values(model, IMAGE, 0.6, 0)
    traced = trace.trace(forward, params, statistics, IMAGE)
    images = networks.images(traced)
    wanted = jax.jit(forward)(params, statistics, images.transpose(1, 2, 3, 0))
    assert np.ptp(wanted, axis=0).min() > 1e-3, "each output depends on the image"
    for one in (traced, compact.compact(rewrite.simplified(traced))):
        np.testing.assert_allclose(evaluate.evaluate(one, images), wanted, rtol=1e-9, atol=1e-9)
