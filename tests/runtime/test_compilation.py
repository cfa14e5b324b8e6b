"""The compiler options: what they are for is seen in the compiled program."""

import jax
import jax.numpy as jnp
import pytest

from dass_jax.runtime import compilation


def test_sums_are_not_library_calls() -> None:
    x = jnp.ones((64, 1000, 32))
    lowered = jax.jit(lambda x: (x * x).sum((1, 2))).lower(x)
    assert "ynn" in lowered.compile().as_text()
    assert "ynn" not in lowered.compile(compiler_options=compilation.options("cpu")).as_text()


def test_barriers_reach_the_compiled_program() -> None:
    lowered = jax.jit(lambda x: jax.lax.optimization_barrier(x * 2).reshape(-1)).lower(jnp.ones((8, 8)))
    assert "opt-barrier" not in lowered.compile().as_text()
    assert "opt-barrier" in lowered.compile(compiler_options=compilation.options("cpu")).as_text()


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    compilation.options.cache_clear()
    known = compilation.options("cpu")
    monkeypatch.setitem(compilation._CPU, "xla_cpu_no_such_option", "1")
    compilation.options.cache_clear()
    assert compilation.options("cpu") == known != {}


def test_other_platforms_have_none() -> None:
    assert compilation.options("gpu") == compilation.options("tpu") == {}
