"""Networks of blocks of levels are traced, compacted and written exactly: means with zeros outside of the image."""

from typing import Any

import jax
import numpy as np
import pytest

from dass_jax.architectures.dso import connections, whole
from dass_jax.deploy import compact, evaluate, files, rewrite, trace, xla
from dass_jax.deploy.formats import packed, unpack
from dass_jax.networks.dso import Fields, dso
from tests.deploy import networks

IMAGE = (8, 6, 3)
BLOCKS = whole("full", 2, ("sep3", "avg3", "max3"), 2, 1)._replace(blocks=(connections(2, 3), ()))


def made(keep: float) -> tuple[Any, Any, Any]:
    """Forward, params and statistics of a random sparse network, whose second block is its shortcut."""
    model = dso(BLOCKS, Fields(stages=(1, 1), channels=4), 4)
    return networks.logits(model), *networks.sparse_values(model, IMAGE, keep, 0)


@pytest.mark.usefixtures("x64")
def test_logits_are_the_networks() -> None:
    forward, params, statistics = made(0.6)
    traced = trace.trace(forward, params, statistics, IMAGE)
    images = networks.images(traced)
    wanted = jax.jit(forward)(params, statistics, images.transpose(1, 2, 3, 0))
    assert np.ptp(wanted, axis=0).min() > 1e-3, "each output depends on the image"
    simple = rewrite.simplified(traced)
    for one in (traced, simple, compact.compact(simple)):
        np.testing.assert_allclose(evaluate.evaluate(one, images), wanted, rtol=1e-9, atol=1e-9)


def test_formats_have_the_logits() -> None:
    found = trace.trace(*made(0.3), IMAGE)
    small = compact.compact(rewrite.simplified(found))
    images = networks.images(small, 3).astype(np.float32)
    wanted = evaluate.evaluate(found, images.astype(np.float64))
    again = unpack.load(packed.dump(small, "float32"))
    runs = {"xla": files.compiled(xla.function(small)), "packed": lambda x: evaluate.evaluate(again, x)}
    for name, run in runs.items():
        np.testing.assert_allclose(run(images), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=name)
