"""The fused edges equal the readable definition: per node the weighted sum of one primitive per edge and operation."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures.darts import OPERATIONS, PRIMITIVES
from dass_jax.nn.layers import batch_norm
from dass_jax.nn.mixed import MixedEdges
from dass_jax.nn.primitives import primitive
from dass_jax.variables import flatten

pytestmark = pytest.mark.usefixtures("x64")

SOURCES, TARGETS, C, N = 2, 2, 4, 3
NORM = batch_norm(train=True, affine=False)


def edge_params(fused: Any, operation: str, source: int, target: int) -> Any:
    """The parameters of one primitive, copied out of the fused leaves."""
    if operation == "skip_connect":
        found = fused.get("skip_connect")  # the identity at stride 1 has none
        return {} if found is None else {"factorized": {"weight": found["weight"][source, target]}}
    return {
        name.removeprefix(operation + "_"): {"conv": {"weight": leaf["weight"][source, target]}}
        for name, leaf in fused.items()
        if name.startswith(operation)
    }


def fuse(parts: dict[tuple[str, int, int], Any]) -> dict[str, np.ndarray]:
    """Inverse of `edge_params` for all edges: flat paths of the fused leaves, [sources, targets, *layer]."""
    leaves: dict[str, np.ndarray] = {}
    for (operation, source, target), params in parts.items():
        for path, value in flatten(params).items():
            part = path.split("/")[0]
            name = "skip_connect" if part == "factorized" else f"{operation}_{part}"
            whole = leaves.setdefault(f"{name}/weight", np.zeros((SOURCES, TARGETS, *value.shape)))
            whole[source, target] = value
    return leaves


@functools.partial(jax.jit, static_argnums=(0, 1))
def edge(operation: str, stride: int, params: Any, x: jax.Array, upstream: jax.Array) -> Any:
    """Output of one primitive (pools with BN), and the gradients of Σ upstream · output to its parameters and x."""
    module = primitive(operation, C, stride, NORM, NORM, "edge")

    def run(params: Any, x: jax.Array) -> Any:
        return module.apply({"params": params}, x, mutable=["batch_stats"])[0]

    output, back = jax.vjp(run, params, x)
    return output, *back(upstream)


@pytest.mark.parametrize(
    ("operations", "stride", "size", "backend"),
    [(PRIMITIVES, 1, (4, 3), "cpu"), (OPERATIONS, 2, (5, 4), "cpu"), (OPERATIONS, 2, (5, 4), "tpu")],
    ids=["with none, stride 1", "without none, stride 2", "without none, stride 2, as on a TPU"],
)
def test_fused_edges_and_all_their_gradients_equal_the_sum_of_primitives(
    monkeypatch: pytest.MonkeyPatch,
    random_like: Any,
    operations: tuple[str, ...],
    stride: int,
    size: tuple[int, int],
    backend: str,
) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(SOURCES, C, *size, N))
    weights = rng.uniform(-0.5, 1.0, size=(SOURCES, TARGETS, len(operations)))
    module = MixedEdges(TARGETS, stride, operations, NORM)
    params = random_like(jax.eval_shape(lambda: module.init(jax.random.key(0), x, weights))["params"])
    shape = (TARGETS, C, -(-size[0] // stride), -(-size[1] // stride), N)
    upstream = rng.normal(size=shape)

    @jax.jit
    def fused(params: Any, x: jax.Array, weights: jax.Array, upstream: jax.Array) -> Any:
        def apply(params: Any, *rest: jax.Array) -> Any:
            return module.apply({"params": params}, *rest, mutable=["batch_stats"])[0]

        output, back = jax.vjp(apply, params, x, weights)
        return output, *back(upstream)

    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: backend)
        output, params_gradient, x_gradient, weights_gradient = fused(params, x, weights, upstream)

    wanted, wanted_x, wanted_weights = np.zeros(shape), np.zeros(x.shape), np.zeros(weights.shape)
    wanted_params = {}
    for source, target, index in np.ndindex(weights.shape):
        operation, weight = operations[index], weights[source, target, index]
        if operation == "none":
            continue
        own = edge_params(params, operation, source, target)
        y, own_gradient, own_x = edge(operation, stride, own, x[source], weight * upstream[target])
        wanted[target] += weight * y
        wanted_weights[source, target, index] = np.sum(upstream[target] * y)
        wanted_x[source] += own_x
        wanted_params[operation, source, target] = own_gradient

    chex.assert_shape(output, shape)
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-7, atol=1e-7)
    close(output, wanted)
    close(weights_gradient, wanted_weights)
    close(x_gradient, wanted_x)
    close(flatten(params_gradient), fuse(wanted_params))


def test_with_running_averages_edges_are_the_same_on_a_tpu(monkeypatch: pytest.MonkeyPatch, random_like: Any) -> None:
    x, weights = (np.random.default_rng(2).normal(size=shape) for shape in ((1, C, 4, 3, N), (1, 2, len(PRIMITIVES))))
    module = MixedEdges(2, 1, PRIMITIVES, batch_norm(train=False, affine=False))
    v = random_like(jax.eval_shape(lambda: module.init(jax.random.key(0), x, weights)))
    v = {**v, "batch_stats": jax.tree.map(np.abs, v["batch_stats"])}
    found = []
    for backend in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert jax.tree.map(np.shape, module.init(jax.random.key(0), x, weights)) == jax.tree.map(np.shape, v)
        found.append(jax.jit(lambda *given: module.apply(*given))(v, x, weights))  # traced anew
    chex.assert_trees_all_close(*found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("stride", [1, 2])
def test_none_contributes_nothing_however_large_its_weight(random_like: Any, stride: int) -> None:
    x = np.random.default_rng(2).normal(size=(1, C, 4, 4, N))
    module = MixedEdges(1, stride, PRIMITIVES, NORM)
    weights = np.zeros((1, 1, len(PRIMITIVES)))
    weights[..., PRIMITIVES.index("none")] = 1e6
    params = random_like(jax.eval_shape(lambda: module.init(jax.random.key(0), x, weights))["params"])
    output = jax.jit(lambda *args: module.apply({"params": args[0]}, *args[1:], mutable=["batch_stats"])[0])
    assert not jnp.any(output(params, x, weights))


@pytest.mark.parametrize("stride", [1, 2])
def test_every_prunable_leaf_has_one_layer_per_edge(stride: int) -> None:
    """Leaf by leaf from the definition: [sources, targets, *layer], and the factorized reduce one half more."""
    x, weights = jnp.zeros((3, C, 4, 4, N)), jnp.zeros((3, 2, len(PRIMITIVES)))
    module = MixedEdges(2, stride, PRIMITIVES, NORM)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), x, weights))["params"]
    wanted = {"skip_connect/weight": (3, 2, 2, C // 2, C)} if stride == 2 else {}
    for family, parts in (("sep", (1, 2)), ("dil", (1,))):
        for k, part in ((k, part) for k in (3, 5) for part in parts):
            wanted[f"{family}_conv_{k}x{k}_depthwise_{part}/weight"] = (3, 2, C, k, k)
            wanted[f"{family}_conv_{k}x{k}_pointwise_{part}/weight"] = (3, 2, C, C)
    assert {path: leaf.shape for path, leaf in flatten(params).items()} == wanted
