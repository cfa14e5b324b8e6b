"""Several seeds in one program: one after another is what `vmap` does at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.runtime import seeds


def power(x: dict[str, jax.Array], base: jax.Array, y: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    return x["a"] * base + y.sum(), {"b": x["a"] ** 2}


def test_in_turn_equals_vmap() -> None:
    x, base, y = {"a": jnp.arange(6.0).reshape(3, 2)}, jnp.array([2.0, 5.0]), jnp.arange(12.0).reshape(3, 4)
    axes = (0, None, 0)
    found, wanted = (jax.jit(way(power, axes))(x, base, y) for way in (seeds.in_turn, jax.vmap))
    jax.tree.map(np.testing.assert_allclose, found, wanted)


@pytest.mark.parametrize(("backend", "loops"), [("cpu", True), ("gpu", False)])
def test_only_a_cpu_takes_them_one_after_another(monkeypatch: pytest.MonkeyPatch, backend: str, loops: bool) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    program = jax.make_jaxpr(seeds.over(jnp.sin, 2, (0,)))(jnp.zeros(2))
    assert ("scan" in str(program)) == loops


def test_one_seed_has_no_axis() -> None:
    assert seeds.over(jnp.sin, 1, (0,)) is jnp.sin
