"""The seven operations against their definition in NumPy, and the shapes that stems and heads promise."""

from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dass_jax.architectures.darts import OPERATIONS
from dass_jax.nn import heads, stems
from dass_jax.nn.layers import FactorizedReduce, ReLUConvNorm, batch_norm
from dass_jax.nn.primitives import primitive

C, N = 4, 3
NORM = batch_norm(train=True, affine=False)
AFFINE = batch_norm(train=True, affine=True)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def separable(plain: SimpleNamespace, x: np.ndarray, params: Any, part: int, k: int, stride: int, dilation: int) -> Any:
    """ReLU, depthwise, 1×1, BN."""
    depthwise, pointwise = (params[f"{kind}_{part}"]["conv"]["weight"] for kind in ("depthwise", "pointwise"))
    x = plain.convolve(relu(x), depthwise, stride, dilation, (k - 1) // 2 * dilation, depthwise=True)
    return plain.normalise(plain.convolve(x, pointwise[:, :, None, None]))


def reference(plain: SimpleNamespace, operation: str, stride: int, x: np.ndarray, params: Any) -> np.ndarray:
    if operation == "skip_connect":
        return x if stride == 1 else factorized_reduce(plain, x, params["factorized"]["weight"])
    if operation == "max_pool_3x3":
        return plain.pool(x, stride, np.max)
    if operation == "avg_pool_3x3":
        return plain.pool(x, stride, np.mean)
    k = int(operation[-1])
    if operation.startswith("dil"):
        return separable(plain, x, params, 1, k, stride, dilation=2)
    return separable(plain, separable(plain, x, params, 1, k, stride, dilation=1), params, 2, k, 1, dilation=1)


def factorized_reduce(plain: SimpleNamespace, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    x = relu(x)
    halves = [plain.convolve(part, w[:, :, None, None], 2) for part, w in zip((x, x[:, 1:, 1:]), weight, strict=True)]
    return plain.normalise(np.concatenate(halves))


def run(module: Any, x: np.ndarray, fill: Any) -> tuple[np.ndarray, Any]:
    """Output in training mode and the random parameters it was found with."""
    params = fill(jax.eval_shape(lambda: module.init(jax.random.key(0), x)).get("params", {}))
    apply = jax.jit(lambda params, x: module.apply({"params": params}, x, mutable=["batch_stats"])[0])
    return apply(params, x), params


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [(6, 6), (10, 8)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_equals_its_definition(
    plain: SimpleNamespace, random_like: Any, operation: str, stride: int, size: tuple[int, int]
) -> None:
    x = np.random.default_rng(1).normal(size=(C, *size, N)) - 0.2
    found, params = run(primitive(operation, C, stride, NORM, None, "edge"), x, random_like)
    chex.assert_shape(found, (C, size[0] // stride, size[1] // stride, N))
    chex.assert_trees_all_close(found, reference(plain, operation, stride, x, params), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("operation", ["max_pool_3x3", "avg_pool_3x3"])
def test_pool_norm_follows_the_pool(plain: SimpleNamespace, random_like: Any, operation: str) -> None:
    x = np.random.default_rng(1).normal(size=(C, 6, 6, N))
    found, params = run(primitive(operation, C, 2, AFFINE, NORM, "edge"), x, random_like)
    assert params == {}
    wanted = plain.normalise(reference(plain, operation, 2, x, params))
    chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_preprocessing_equals_its_definition_and_its_scale_and_offset_come_last(
    plain: SimpleNamespace, random_like: Any
) -> None:
    x = np.random.default_rng(1).normal(size=(3, 4, 4, N))
    for module in (ReLUConvNorm(C, AFFINE), FactorizedReduce(C, AFFINE)):
        found, params = run(module, x, random_like)
        if isinstance(module, FactorizedReduce):
            wanted = factorized_reduce(plain, x, params["factorized"]["weight"])
        else:
            wanted = plain.normalise(plain.convolve(relu(x), params["pointwise"]["conv"]["weight"][:, :, None, None]))
        scale, bias = (params["norm"][name][:, None, None, None] for name in ("scale", "bias"))
        chex.assert_trees_all_close(found, wanted * scale + bias, rtol=1e-9, atol=1e-9)


def test_primitive_names_an_unknown_operation_and_those_allowed() -> None:
    with pytest.raises(ValueError, match=r"operation 'none'; allowed: max_pool_3x3, .*, dil_conv_5x5"):
        primitive("none", C, 1, NORM, None, "edge")


@pytest.mark.usefixtures("x64")
def test_running_averages_keep_nine_tenths_and_are_what_evaluation_uses() -> None:
    x = np.random.default_rng(1).normal(2.0, 3.0, size=(C, 4, 4, N))
    start = {"mean": np.full(C, 5.0), "var": np.full(C, 7.0)}
    train = batch_norm(train=True, affine=False)()
    _, updates = train.apply({"batch_stats": start}, x, mutable=["batch_stats"])
    mean, var = x.mean((1, 2, 3)), x.var((1, 2, 3))
    wanted = {"mean": 0.9 * 5 + 0.1 * mean, "var": 0.9 * 7 + 0.1 * var}
    chex.assert_trees_all_close(updates["batch_stats"], wanted, rtol=1e-9)
    found = batch_norm(train=False, affine=False)().apply({"batch_stats": start}, x)
    chex.assert_trees_all_close(found, (x - 5) / np.sqrt(7 + 1e-5), rtol=1e-9)


def plain_norm(x: jax.Array) -> jax.Array:
    mean, variance = x.mean((-3, -2, -1), keepdims=True), x.var((-3, -2, -1), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5)


@pytest.mark.usefixtures("x64")
def test_norm_and_its_gradient_equal_the_definition_over_any_leading_axes() -> None:
    rng = np.random.default_rng(1)
    x, upstream = rng.normal(1.0, 2.0, size=(2, 3, C, 4, 3, N)), rng.normal(size=(2, 3, C, 4, 3, N))

    @jax.jit
    def values_and_gradients(x: jax.Array, g: jax.Array) -> Any:
        pulled = [jax.vjp(form, x) for form in (lambda x: NORM().apply({}, x, mutable=["batch_stats"])[0], plain_norm)]
        return [(y, back(g)) for y, back in pulled]

    chex.assert_trees_all_close(*values_and_gradients(x, upstream), rtol=1e-9, atol=1e-9)
    check_grads(lambda x: NORM().apply({}, x, mutable=["batch_stats"])[0], (x[0, 0],), order=1, modes=["rev"])


@pytest.mark.usefixtures("x64")
def test_norm_averaged_over_parts_of_a_batch_is_the_norm_of_the_whole_batch() -> None:
    rng = np.random.default_rng(1)
    parts, upstream = rng.normal(1.0, 2.0, size=(2, C, 4, 3, N)), rng.normal(size=(2, C, 4, 3, N))
    shared = batch_norm(train=True, affine=False, average=lambda tree: jax.lax.pmean(tree, "parts"))()

    def one_part(x: jax.Array, g: jax.Array) -> Any:
        y, back, updates = jax.vjp(lambda x: shared.apply({}, x, mutable=["batch_stats"]), x, has_aux=True)
        return (y, back(g)), updates

    def whole(x: jax.Array) -> jax.Array:
        return jnp.stack(jnp.split(plain_norm(jnp.concatenate(list(x), axis=-1)), 2, axis=-1))

    found, updates = jax.jit(jax.vmap(one_part, axis_name="parts"))(parts, upstream)
    wanted, back = jax.vjp(jax.jit(whole), parts)
    chex.assert_trees_all_close(found, (wanted, back(upstream)), rtol=1e-9, atol=1e-9)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_array_equal(leaf[0], leaf[1])


def shapes(module: Any, *image: int) -> Any:
    """Output shapes on an image [C, H, W, N], without computing anything."""
    key, x = jax.random.key(0), jax.ShapeDtypeStruct(image, jnp.float32)
    return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(lambda x: module.init_with_output(key, x)[0], x))


def test_stem_shapes() -> None:
    assert shapes(stems.CifarStem(5, AFFINE), 3, 32, 32, 2) == ((15, 32, 32, 2), (15, 32, 32, 2))
    assert shapes(stems.ImagenetStem(6, AFFINE), 3, 64, 64, 2) == ((6, 16, 16, 2), (6, 8, 8, 2))
    assert [stems.first_is_reduced(name) for name in stems.STEMS] == [False, True]


@pytest.mark.usefixtures("x64")
def test_stems_equal_their_definitions(plain: SimpleNamespace, random_like: Any) -> None:
    x = np.random.default_rng(1).normal(size=(3, 8, 8, N))

    def convolved(x: np.ndarray, params: Any, part: str, stride: int) -> np.ndarray:
        y = plain.normalise(plain.convolve(x, params[f"conv{part}"]["conv"]["weight"], stride, padding=1))
        scale, bias = (params[f"norm{part}"][name][:, None, None, None] for name in ("scale", "bias"))
        return y * scale + bias

    found, params = run(stems.CifarStem(2, AFFINE), x, random_like)
    wanted = convolved(x, params, "", 1)
    chex.assert_trees_all_close(found, (wanted, wanted), rtol=1e-9, atol=1e-9)
    found, params = run(stems.ImagenetStem(4, AFFINE), x, random_like)
    quarter = convolved(relu(convolved(x, params, "_1", 2)), params, "_2", 2)
    eighth = convolved(relu(quarter), params, "_3", 2)
    chex.assert_trees_all_close(found, (quarter, eighth), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("stem", "size"), [("cifar", 8), ("imagenet", 7)])
def test_heads_give_one_row_of_logits_per_image(stem: str, size: int) -> None:
    assert heads.auxiliary_fits(size, stem)
    assert shapes(heads.AuxiliaryHead(10, stem, AFFINE), C, size, size, 3) == (3, 10)
    assert shapes(heads.Classifier(10), C, size, size, 3) == (3, 10)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_auxiliary_head_fits_exactly_where_a_two_by_two_map_remains(stem: str) -> None:
    stride = {"cifar": 3, "imagenet": 2}[stem]
    for size in range(1, 20):
        remaining = len(range(0, size - 5 + 1, stride))
        assert heads.auxiliary_fits(size, stem) == (remaining == 2), size


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("stem", "size"), [("cifar", 8), ("imagenet", 7)])
def test_auxiliary_head_equals_its_definition(random_like: Any, stem: str, size: int) -> None:
    x = np.random.default_rng(1).normal(size=(2, size, size, N))
    found, params = run(heads.AuxiliaryHead(5, stem, AFFINE), x, random_like)

    def norm(y: np.ndarray, part: dict[str, np.ndarray]) -> np.ndarray:
        axes = tuple(range(1, y.ndim))
        y = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + 1e-5)
        return y * part["scale"].reshape(-1, *[1] * len(axes)) + part["bias"].reshape(-1, *[1] * len(axes))

    stride = {"cifar": 3, "imagenet": 2}[stem]
    corners = [(row, column) for row in (0, stride) for column in (0, stride)]
    pooled = np.stack([relu(x)[:, r : r + 5, c : c + 5].mean((1, 2)) for r, c in corners], axis=1)  # [I, 4, N]
    y = relu(norm(np.einsum("oi,ipn->opn", params["conv_1"]["conv"]["weight"], pooled), params["norm_1"]))
    y = np.einsum("oip,ipn->on", params["conv_2"]["conv"]["weight"].reshape(768, 128, 4), y)
    y = relu(norm(y, params["norm_2"]) if stem == "cifar" else y)
    assert ("norm_2" in params) == (stem == "cifar")
    last = params["classifier"]
    wanted = (last["linear"]["weight"] @ y + last["bias"][:, None]).T
    chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_classifier_is_linear_in_the_mean_over_the_image(random_like: Any) -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, 5, N))
    found, params = run(heads.Classifier(4), x, random_like)
    last = params["classifier"]
    wanted = x.mean((1, 2)).T @ last["linear"]["weight"].T + last["bias"]
    chex.assert_trees_all_close(found, wanted, rtol=1e-12)
