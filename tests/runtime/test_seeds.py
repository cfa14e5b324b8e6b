"""The axis of the seeds: one after another is what `vmap` does at once; what belongs to a seed, and which are alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.runtime import parallel, seeds


def power(x: dict[str, jax.Array], base: jax.Array, y: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    return x["a"] * base + y.sum(), {"b": x["a"] ** 2}


@pytest.mark.parametrize("count", [1, 3])
def test_in_turn_equals_vmap(count: int) -> None:
    x, base = {"a": jnp.arange(2.0 * count).reshape(count, 2)}, jnp.array([2.0, 5.0])
    y, axes = jnp.arange(4.0 * count).reshape(count, 4), (0, None, 0)
    in_turn = parallel.over_seeds(count, power, axes)
    found, wanted = (jax.jit(way)(x, base, y) for way in (in_turn, jax.vmap(power, axes)))
    jax.tree.map(np.testing.assert_allclose, found, wanted)


@pytest.mark.parametrize(("backend", "loops"), [("cpu", True), ("gpu", False)])
def test_only_a_cpu_takes_them_one_after_another(monkeypatch: pytest.MonkeyPatch, backend: str, loops: bool) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    program = jax.make_jaxpr(parallel.over_seeds(2, jnp.sin, (0,)))(jnp.zeros(2))
    assert ("scan" in str(program)) == loops


def test_one_seed_s_program_is_that_of_the_function_itself() -> None:
    """But for the axis, which is taken off and put on."""
    program = str(jax.make_jaxpr(parallel.over_seeds(1, jnp.sin, (0,)))(jnp.zeros((1, 3))))
    assert "scan" not in program and "f32[3] = sin" in program


def test_the_parts_of_seeds_are_theirs_and_make_the_whole() -> None:
    tree = {"a": np.arange(6).reshape(3, 2), "b": (np.arange(3.0),)}
    parts = seeds.members(tree, 3)
    np.testing.assert_array_equal(parts[1]["a"], [2, 3])
    jax.tree.map(np.testing.assert_array_equal, seeds.stacked(parts), tree)


def test_seeds_are_named_and_grouped_in_their_order() -> None:
    assert [seeds.named(s) for s in ((3,), (0, 1), (0, 2, 5), (4, 5, 6))] == [
        "seed 3",
        "seeds 0, 1",
        "seeds 0, 2, 5",
        "seeds 4 to 6",
    ]
    assert seeds.alike([(5, "b"), (6, "a"), (7, "b")]) == [("b", (5, 7)), ("a", (6,))]
