"""The compiler options: what they are for is seen in the compiled program, and that they change no result; how programs
are traced."""

import collections
import gc
import os
import re
import subprocess
import sys
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures.darts import PUBLISHED
from dass_jax.networks import derived
from dass_jax.runtime import compilation
from dass_jax.spaces.darts import SupernetConfig
from tests import supernets

AS_SHIPPED: dict[str, Any] = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_parallel_codegen_split_count": 32,
}
if "fusion_emitters" in os.environ["XLA_FLAGS"]:
    AS_SHIPPED["xla_cpu_use_fusion_emitters"] = True
"""What `conftest` takes from XLA's CPU compiler."""


LATE = "--xla_backend_extra_options=xla_cpu_flatten_after_fusion"


def test_sums_are_not_library_calls() -> None:
    x = jnp.ones((64, 1000, 32))
    lowered = jax.jit(lambda x: (x * x).sum((1, 2))).lower(x)
    calls = lowered.compile(compiler_options={"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"})
    assert "ynn" in calls.as_text()
    assert "ynn" not in lowered.compile(compiler_options=compilation.options("cpu")).as_text()


def test_barriers_reach_the_compiled_program() -> None:
    lowered = jax.jit(lambda x: jax.lax.optimization_barrier(x * 2).reshape(-1)).lower(jnp.ones((8, 8)))
    assert "opt-barrier" not in lowered.compile().as_text()
    assert "opt-barrier" in lowered.compile(compiler_options=compilation.options("cpu")).as_text()


def test_barriers_are_known_in_loops_of_any_size() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.optimization_barrier(x * 2) + 1, x)

    for size in (2, 4096):
        lowered = jax.jit(loop).lower(jnp.ones(size))
        found = lowered.compile(compiler_options=compilation.options("cpu"))(jnp.ones(size))
        np.testing.assert_array_equal(found, np.full(size, 15.0))


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    compilation.options.cache_clear()
    known = compilation.options("cpu")
    monkeypatch.setitem(compilation._CPU, "xla_cpu_no_such_option", "1")
    compilation.options.cache_clear()
    assert compilation.options("cpu") == known != {}


@pytest.mark.parametrize("flags", ["", "--xla_cpu_max_isa=AVX2"])
def test_calls_are_copied_late_by_a_flag_beside_the_user_s(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    compilation.copy_calls_late()
    once = os.environ["XLA_FLAGS"]
    compilation.copy_calls_late()
    assert os.environ["XLA_FLAGS"] == once == f"{flags} {LATE}".strip()


def test_the_user_s_own_extra_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", own := "--xla_backend_extra_options=xla_cpu_optimize_for_size")
    compilation.copy_calls_late()
    assert os.environ["XLA_FLAGS"] == own


def test_xla_takes_the_flag_and_would_call_libraries_for_sums() -> None:
    """A function that is called twice is fused with what surrounds it only if its calls are copied before."""
    program = (
        "import jax, sys\nfrom dass_jax.runtime import compilation\n"
        "if sys.argv[1:]: compilation.copy_calls_late()\n"
        "inner, x = jax.jit(jax.numpy.tanh), jax.numpy.ones(999)\n"
        "lowered = jax.jit(lambda x: inner(inner(x) + 1) * 2).lower(x)\n"
        "print(lowered.compile().as_text().count(' fusion('))\n"
        "lowered = jax.jit(lambda x: (x * x).sum((1, 2))).lower(jax.numpy.ones((64, 1000, 32)))\n"
        "print(lowered.compile().as_text().count('ynn'))"
    )
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}

    def counted(*late: str) -> list[int]:
        argv = [sys.executable, "-c", program, *late]
        return [int(line) for line in subprocess.run(argv, env=environment, stdout=subprocess.PIPE).stdout.split()]

    (early, calls), (late, _) = counted(), counted("late")
    assert early < late
    assert calls > 0


@pytest.mark.parametrize("name", ["supernet", "derived"])
def test_what_is_called_several_times_is_marked_for_it_or_inlined(x64: None, name: str, random_like: Any) -> None:
    """Else `copy_calls_late` would leave it apart from what surrounds it."""
    if name == "supernet":
        sizes = SupernetConfig(classes=3, cells=2, channels=4, nodes=2)
        trained, loss = supernets.dense_loss(sizes, (16, 16), random_like)
        arguments = trained, np.ones((3, 16, 16, 4))
    else:
        model = derived.derived(PUBLISHED["darts_v2"], derived.NetworkConfig(cells=3, channels=4, auxiliary=False))
        v = jax.eval_shape(lambda: model.init(jax.random.key(0), (16, 16, 3)))
        arguments = v["params"], v["batch_stats"], np.ones((3, 16, 16, 2))

        def loss(params: Any, batch_stats: Any, x: jax.Array) -> Any:
            logits, *others = model.apply(params, batch_stats, x, True)
            return logits.sum(), others

    text = jax.jit(jax.grad(loss, has_aux=True)).lower(*arguments).as_text()
    calls = [line for line in text.splitlines() if " call @" in line]
    plain = collections.Counter(re.search(r"@([\w.]+)", line)[1] for line in calls if "inlineable" not in line)
    assert len(calls) > 20
    assert not {function: count for function, count in plain.items() if count > 1}


def test_a_tpu_gets_the_least_effort_unless_the_user_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compilation.options("gpu") == {}
    compilation.options.cache_clear()
    assert compilation.options("tpu") == {"exec_time_optimization_effort": -1.0}
    compilation.options.cache_clear()
    monkeypatch.setenv("JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "0.5")
    assert compilation.options("tpu") == {}
    compilation.options.cache_clear()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_a_program_is_traced_and_no_longer(enabled: bool) -> None:
    found, was = [], gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(OSError), compilation.without_collector():
            found.append(gc.isenabled())
            raise OSError
        assert (found, gc.isenabled()) == ([False], enabled)
    finally:
        (gc.enable if was else gc.disable)()


def test_a_run_s_compiler_computes_what_the_quick_one_of_these_tests_does(x64: None, random_like: Any) -> None:
    """Loss, gradients of α and θ and the running statistics of a cell, in the two forms for a CPU."""
    sizes = SupernetConfig(classes=3, cells=1, channels=2, nodes=1)
    trained, loss = supernets.dense_loss(sizes, (12, 9), random_like, supernets.EACH_KIND)
    for height, width in ((12, 9), (6, 7)):
        arguments = trained, np.random.default_rng(1).normal(size=(3, height, width, 4))
        lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*arguments)
        quick = lowered.compile()
        shipped = lowered.compile(compiler_options={**AS_SHIPPED, **compilation.options("cpu")})
        assert quick.as_text() != shipped.as_text()
        chex.assert_trees_all_close(shipped(*arguments), quick(*arguments), rtol=1e-9, atol=1e-11)
