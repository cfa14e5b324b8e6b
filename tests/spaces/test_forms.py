"""A whole supernet in the forms that accelerators take is the one in the forms for a CPU."""

from typing import Any

import chex
import jax
import numpy as np
import pytest

from dass_jax.nn import kernels
from dass_jax.spaces.darts import SupernetConfig
from tests import supernets

pytestmark = pytest.mark.usefixtures("x64")


def test_the_supernet_and_its_gradients_do_not_depend_on_the_form(
    monkeypatch: pytest.MonkeyPatch, random_like: Any
) -> None:
    """12 × 9 pixels: on a CPU the first cell takes the shifts and, after the reductions, the last one the matrix."""
    trained, loss = supernets.dense_loss(SupernetConfig(classes=3, cells=3, channels=2, nodes=1), (12, 9), random_like)
    images = np.random.default_rng(1).normal(size=(3, 12, 9, 4))

    form = kernels.form

    def on(backend: str) -> Any:
        taken = set()

        def chosen(x: jax.Array) -> Any:
            taken.add(form(x))
            return form(x)

        monkeypatch.setattr(kernels, "form", chosen)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        return taken, jax.jit(jax.value_and_grad(loss, has_aux=True))(trained, images)

    taken, wanted = on("cpu")
    assert taken == {kernels.shifts, kernels.matrix}
    for backend in ("gpu", "tpu"):
        taken, found = on(backend)
        assert taken == {kernels.library}
        chex.assert_trees_all_close(found, wanted, rtol=1e-8, atol=1e-8)
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(found[1]))
