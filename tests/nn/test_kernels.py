"""The fast forms of the kernels against plain loops, against XLA's own gradients and against numerical differences."""

from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from dass_jax.nn import kernels
from dass_jax.nn.kernels import channels_last, strips, windows, winograd

pytestmark = pytest.mark.usefixtures("x64")

SIZES = [(8, 8), (7, 7), (2, 2), (9, 8)]
"""Heights and widths: even, odd, smaller than any window, and above `SMALL_IMAGE`."""

STRIDES = [1, 2]
POOLS = {"max": kernels.max_pool, "max_by_views": kernels.max_pool_by_views, "avg": kernels.avg_pool}
FORMS = {"matrix": kernels.matrix, "shifts": kernels.shifts, "library": kernels.library}
DEPTHWISE = {name: form.depthwise for name, form in FORMS.items()}
RNG = np.random.default_rng(0)


def close(found: Any, wanted: Any) -> None:
    chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-10)


def xla_depthwise(x: jax.Array, w: jax.Array, stride: int, dilation: int) -> jax.Array:
    """x [C, H, W, N], w [C, k, k] by XLA's grouped convolution."""
    pad = (w.shape[-1] - 1) // 2 * dilation
    return lax.conv_general_dilated(
        x,
        w[:, None],
        (stride, stride),
        [(pad, pad)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("CHWN", "OIHW", "CHWN"),
        feature_group_count=len(x),
    )


def xla_pool(x: jax.Array, stride: int, kind: str) -> jax.Array:
    """x [C, H, W, N] by XLA's reduce_window."""

    def window(values: jax.Array, start: float, add: Any) -> jax.Array:
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(values, start, add, (1, 3, 3, 1), (1, stride, stride, 1), pads)

    if kind == "max":
        return window(x, -jnp.inf, lax.max)
    return window(x, 0.0, lax.add) / window(jnp.ones_like(x), 0.0, lax.add)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("k", "size"), [(3, (8, 8)), (3, (9, 8)), (5, (7, 7)), (5, (2, 2))])
def test_every_depthwise_form_and_its_gradients_equal_the_definition(
    plain: SimpleNamespace, k: int, dilation: int, stride: int, size: tuple[int, int]
) -> None:
    x, w = RNG.normal(size=(2, *size, 2)), RNG.normal(size=(2, k, k))
    wanted = plain.convolve(x, w, stride, dilation, (k - 1) // 2 * dilation, depthwise=True)
    upstream = RNG.normal(size=wanted.shape)

    @jax.jit
    def values_and_gradients(x: jax.Array, w: jax.Array, g: jax.Array) -> Any:
        forms = (xla_depthwise, *DEPTHWISE.values())
        pulled = [jax.vjp(lambda x, w, form=form: form(x, w, stride, dilation), x, w) for form in forms]
        return [(y, back(g)) for y, back in pulled]

    (_, gradients), *found = values_and_gradients(x, w, upstream)
    for value, own_gradients in found:
        close(value, wanted)
        close(own_gradients, gradients)


@pytest.mark.parametrize(("size", "form"), [((8, 8), "matrix"), ((2, 3), "matrix"), ((9, 8), "shifts")])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_depthwise_takes_the_form_that_the_number_of_pixels_asks_for(
    form: str, size: tuple[int, int], stride: int, dilation: int
) -> None:
    x, w = jnp.zeros((1, *size, 1)), jnp.zeros((1, 3, 3))

    def program(kernel: Any) -> str:
        return str(jax.make_jaxpr(lambda x, w: kernel(x, w, stride, dilation))(x, w))

    assert kernels.is_small(x) == (form == "matrix")
    assert program(kernels.depthwise) == program(DEPTHWISE[form])
    assert program(DEPTHWISE["matrix"]) != program(DEPTHWISE["shifts"])


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
@pytest.mark.parametrize("size", [(8, 8), (9, 8)])
def test_an_accelerator_takes_the_librarys_forms_at_every_size(
    monkeypatch: pytest.MonkeyPatch, backend: str, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert kernels.form(jnp.zeros((1, *size, 1))) is kernels.library


@pytest.mark.parametrize(("shared", "widest"), [(True, 512), (False, 512), (False, 8), (False, 1)])
@pytest.mark.parametrize(("stride", "dilation", "k"), [(1, 2, 3), (2, 1, 5)])
def test_a_separable_convolution_is_a_depthwise_and_a_pointwise_one_on_a_tpu_too(
    monkeypatch: pytest.MonkeyPatch, shared: bool, widest: int, stride: int, dilation: int, k: int
) -> None:
    """There the operations are side by side, all in one matrix, in two, or each in its own."""
    x = RNG.normal(size=(2, 1 if shared else 4, 4, 6, 5, 2))
    depthwise = [RNG.normal(size=(2, t, 4, k, k)) for t in (1, 3)]
    pointwise = [RNG.normal(size=(2, t, 5, 4)) for t in (1, 3)]
    programs = []

    def values_and_gradients() -> Any:
        def separable(*own: Any) -> jax.Array:
            y = kernels.separable(*own, stride, dilation)
            return y.reshape(2, 4, 5, *y.shape[-3:])

        programs.append(str(jax.make_jaxpr(separable)(x, depthwise, pointwise)))
        y, back = jax.vjp(separable, x, depthwise, pointwise)
        return y, back(jnp.cos(y))

    wanted = values_and_gradients()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(kernels.blocks, "_WIDEST", widest)
    close(values_and_gradients(), wanted)
    groups = 2 if shared else {512: 2, 8: 4, 1: 8}[widest]
    assert f"feature_group_count={groups}\n" in programs[1]
    assert programs[1].count("conv_general_dilated[") == 1 and "dot_general" not in programs[1]
    assert "dot_general" in programs[0]


@pytest.mark.parametrize("form", DEPTHWISE)
@pytest.mark.parametrize(("stride", "dilation", "k"), [(1, 2, 3), (2, 1, 5)])
def test_depthwise_gradients_agree_with_numerical_differences(form: str, stride: int, dilation: int, k: int) -> None:
    x, w = RNG.normal(size=(2, 5, 4, 2)), RNG.normal(size=(2, k, k))
    kernel = jax.jit(lambda x, w: DEPTHWISE[form](x, w, stride, dilation))
    check_grads(kernel, (x, w), order=1, modes=["rev"])


@pytest.mark.parametrize("form", DEPTHWISE)
@pytest.mark.parametrize(("x_lead", "w_lead"), [((2, 1), (2, 3)), ((1, 3), (2, 1)), ((1, 1), (2, 3)), ((2, 3), (2, 3))])
def test_depthwise_broadcasts_leading_axes_and_sums_their_gradients(
    form: str, x_lead: tuple[int, ...], w_lead: tuple[int, ...]
) -> None:
    x, w = RNG.normal(size=(*x_lead, 2, 4, 4, 2)), RNG.normal(size=(*w_lead, 2, 3, 3))
    lead = np.broadcast_shapes(x_lead, w_lead)
    upstream = RNG.normal(size=(*lead, 2, 2, 2, 2))

    def all_as_channels(x: jax.Array, w: jax.Array) -> jax.Array:
        x, w = jnp.broadcast_to(x, (*lead, *x.shape[-4:])), jnp.broadcast_to(w, (*lead, *w.shape[-3:]))
        channels = xla_depthwise(x.reshape(-1, *x.shape[-3:]), w.reshape(-1, *w.shape[-2:]), 2, 1)
        return channels.reshape(upstream.shape)

    @jax.jit
    def values_and_gradients(x: jax.Array, w: jax.Array, g: jax.Array) -> Any:
        pulled = [jax.vjp(kernel, x, w) for kernel in (lambda x, w: DEPTHWISE[form](x, w, 2, 1), all_as_channels)]
        return [(y, back(g)) for y, back in pulled]

    close(*values_and_gradients(x, w, upstream))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", STRIDES)
def test_pointwise_equals_the_definition(plain: SimpleNamespace, stride: int, size: tuple[int, int]) -> None:
    x, w = RNG.normal(size=(3, *size, 2)), RNG.normal(size=(4, 3))
    close(kernels.pointwise(x, w, stride), plain.convolve(x, w[:, :, None, None], stride))


def test_pointwise_with_leading_axes_is_one_product_per_entry_and_has_its_gradients() -> None:
    x, w = RNG.normal(size=(2, 1, 3, 4, 4, 2)), RNG.normal(size=(2, 2, 2, 3))
    pairs = np.broadcast_to(x, (2, 2, 3, 4, 4, 2))
    close(kernels.pointwise(pairs, w, 2), np.einsum("abihwn,aboi->abohwn", pairs[..., ::2, ::2, :], w))
    close(kernels.pointwise(x, w), np.einsum("abihwn,aboi->abohwn", pairs, w))
    check_grads(jax.jit(lambda x, w: kernels.pointwise(x, w, 2)), (x, w), order=1, modes=["rev"])


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
@pytest.mark.parametrize(("stride", "padding", "k"), [(1, 1, 3), (2, 1, 3), (1, 0, 2), (2, 2, 5)])
def test_convolution_equals_the_definition(
    plain: SimpleNamespace, stride: int, padding: int, k: int, size: tuple[int, int]
) -> None:
    x, w = RNG.normal(size=(2, *size, 2)), RNG.normal(size=(3, 2, k, k))
    close(kernels.convolution(x, w, stride, padding), plain.convolve(x, w, stride, padding=padding))


DENSE = {
    "patches": kernels.patches.convolution,
    "winograd": lambda x, w, stride, padding: kernels.winograd.convolution(x, w),
    "chosen": kernels.convolution,
    "taps": lambda x, w, stride, padding: kernels.convolution_by_taps(x, w),
}


@pytest.mark.parametrize(
    ("form", "k", "stride", "padding"),
    [
        ("winograd", 3, 1, 1),
        ("chosen", 3, 1, 1),
        ("taps", 5, 1, 2),
        *(
            ("patches", *sizes)
            for sizes in [(3, 1, 1), (3, 2, 1), (2, 1, 0), (5, 2, 2), (1, 2, 0), (4, 3, 2), (3, 1, 4)]
        ),
    ],
)
@pytest.mark.parametrize(("size", "batch"), [((7, 5), 2), ((2, 3), 2), ((4, 9), 16), ((25, 4), 6)])
def test_dense_forms_and_their_derivatives_are_the_librarys(
    form: str, k: int, stride: int, padding: int, size: tuple[int, int], batch: int
) -> None:
    """The last two sizes take several strips, of which the last one of the last size is not full."""
    x, w = RNG.normal(size=(3, *size, batch)), RNG.normal(size=(4, 3, k, k))
    shape = jax.eval_shape(lambda: kernels.library.convolution(x, w, stride, padding)).shape
    g, moved = RNG.normal(size=shape), (RNG.normal(size=x.shape), RNG.normal(size=w.shape))

    def derivatives(convolution: Any) -> Any:
        def gradient(x: jax.Array, w: jax.Array) -> Any:
            y, pulled = jax.vjp(lambda x, w: convolution(x, w, stride, padding), x, w)
            return y, pulled(g * y)

        return jax.jit(lambda: jax.jvp(gradient, (x, w), moved))()

    close(derivatives(DENSE[form]), derivatives(kernels.library.convolution))


def test_a_strip_has_enough_rows_for_the_weights_and_all_are_about_equal() -> None:
    # rows, weights, numbers of a row → rows of a strip
    for given, wanted in {(8, 100, 1000): 1, (8, 200, 1000): 2, (7, 200, 1000): 3, (5, 10**6, 1): 5}.items():
        assert strips.rows_of_a_strip(*given) == wanted
    small, large = (winograd._strips(jax.ShapeDtypeStruct((16, 32, 32, batch), "f4"), 48) for batch in (1, 64))
    assert (small.number, large.number) == (1, 8)


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "stride", "padding", "chosen"),
    [
        (16, 16, 8, 1, 1, "winograd"),
        (16, 48, 32, 1, 1, "winograd"),
        (16, 49, 32, 1, 1, "patches"),
        (16, 16, 2, 1, 1, "patches"),
        (16, 16, 3, 1, 1, "winograd"),
        (16, 16, 8, 2, 1, "patches"),
        (16, 16, 8, 1, 0, "patches"),
    ],
)
def test_tiles_are_taken_where_they_cost_less_than_windows(
    monkeypatch: pytest.MonkeyPatch, inputs: int, outputs: int, size: int, stride: int, padding: int, chosen: str
) -> None:
    taken = []
    for name in ("winograd", "patches"):
        monkeypatch.setattr(getattr(kernels, name), "convolution", lambda x, *_, name=name: taken.append(name) or x)
    kernels.convolution(jnp.zeros((inputs, size, size, 2)), jnp.zeros((outputs, inputs, 3, 3)), stride, padding)
    assert taken == [chosen]


def test_tiles_round_little_more_than_windows_do() -> None:
    """Root mean squares: the largest error is a matter of luck."""
    x, w = RNG.normal(size=(64, 8, 8, 4)), RNG.normal(size=(64, 64, 3, 3)) / 24
    wanted, narrow = kernels.library.convolution(x, w, 1, 1), [jnp.asarray(each, "f4") for each in (x, w)]
    tiles, windows = kernels.winograd.convolution(*narrow), np.zeros(wanted.shape, "f4")
    # One product after another: how a library groups its sums, and with that how it rounds, differs between processors.
    padded = np.pad(x.astype("f4"), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i, a, b in np.ndindex(64, 3, 3):
        windows += w[:, i, a, b].astype("f4")[:, None, None, None] * padded[i, a : a + 8, b : b + 8]
    error = {name: float(jnp.sqrt(((y - wanted) ** 2).mean())) for name, y in (("tiles", tiles), ("windows", windows))}
    assert error["tiles"] < 8 * error["windows"] < 4e-6


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_every_pool_form_and_its_gradients_equal_the_definition(
    plain: SimpleNamespace, kind: str, stride: int, size: tuple[int, int]
) -> None:
    x = RNG.normal(size=(2, *size, 2)) - 3  # mostly negative: a maximum that saw padding of zeros would show
    wanted = plain.pool(x, stride, {"max": np.max, "avg": np.mean}[kind])
    upstream = RNG.normal(size=wanted.shape)

    @jax.jit
    def values_and_gradients(x: jax.Array, g: jax.Array) -> Any:
        pulled = [jax.vjp(lambda x: xla_pool(x, stride, kind), x)]
        pulled += [jax.vjp(lambda x, form=form: getattr(form, f"{kind}_pool")(x, stride), x) for form in FORMS.values()]
        return [(y, back(g)) for y, back in pulled]

    expected, *found = values_and_gradients(x, upstream)
    close(expected[0], wanted)
    for form in found:
        close(form, expected)


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("size", [(4, 3), (9, 8)])
def test_pools_treat_every_entry_of_the_leading_axes_alike(kind: str, size: tuple[int, int]) -> None:
    x = RNG.normal(size=(2, 3, 2, *size, 2))
    pooled = jax.jit(lambda x: POOLS[kind](x, 2))
    for index in np.ndindex(2, 3):
        close(pooled(x)[index], pooled(x[index]))


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("size", [(4, 3), (9, 8)])
def test_pool_gradients_agree_with_numerical_differences(kind: str, size: tuple[int, int]) -> None:
    count = size[0] * size[1]
    x = RNG.permutation(count).reshape(1, *size, 1) / 10  # no two values so close that a difference swaps them
    check_grads(jax.jit(lambda x: POOLS[kind](x, 2)), (x,), order=1, modes=["rev"], eps=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_tied_maxima_share_the_gradient(form: str) -> None:
    gradient = jax.grad(lambda x: FORMS[form].max_pool(x, 2).sum())(jnp.ones((1, 2, 2, 1)))
    close(gradient, jnp.full((1, 2, 2, 1), 0.25))


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (2, 2), (5, 4), (1, 1)])
def test_shifted_pair_is_x_from_0_and_x_from_1_with_a_zero_border(size: tuple[int, int]) -> None:
    x = RNG.normal(size=(2, 3, *size, 2))
    wanted = np.zeros((2, 2, 3, -(-size[0] // 2), -(-size[1] // 2), 2))
    wanted[:, 0] = x[..., ::2, ::2, :]
    second = x[..., 1::2, 1::2, :]
    wanted[:, 1, :, : second.shape[-3], : second.shape[-2]] = second
    chex.assert_trees_all_equal(np.asarray(kernels.shifted_pair(x)), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_and_its_gradient_are_those_of_jax(dtype: str) -> None:
    x = jnp.array([-2, -0.0, 0, 1e-30, 3, jnp.inf, -jnp.inf, jnp.nan], dtype)
    found, wanted = (jax.jit(jax.vmap(jax.value_and_grad(f)))(x) for f in (kernels.relu, jax.nn.relu))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype("float32"), b.astype("float32")), found, wanted)
    assert found[0].dtype == x.dtype


def test_shifted_pair_gradient_puts_every_entry_back_where_it_came_from() -> None:
    x = RNG.normal(size=(1, 3, 4, 1))
    check_grads(kernels.shifted_pair, (x,), order=1, modes=["rev"])


@pytest.mark.parametrize(("size", "stride", "wanted"), [(8, 1, 8), (8, 2, 4), (7, 2, 4), (1, 2, 1)])
def test_output_size_rounds_up(size: int, stride: int, wanted: int) -> None:
    assert windows.output_size(size, stride) == wanted


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("form", ["shifts", "library"])
def test_depthwise_has_the_second_derivatives_of_the_definition_in_both_modes(stride: int, form: str) -> None:
    x, w = RNG.normal(size=(2, 5, 4, 2)), RNG.normal(size=(2, 3, 3))
    moved = RNG.normal(size=x.shape), RNG.normal(size=w.shape)

    def products(kernel: Any) -> Any:
        gradient = jax.grad(lambda pair: (kernel(*pair, stride, 2) ** 3).sum())
        forward = jax.jvp(gradient, ((x, w),), (moved,))[1]

        def inner(pair: Any) -> Any:
            return sum(jnp.vdot(a, b) for a, b in zip(gradient(pair), moved, strict=True))

        return forward, jax.grad(inner)((x, w))

    forward, reverse = jax.jit(lambda: products(DEPTHWISE[form]))()
    close(forward, reverse)
    close((forward, reverse), jax.jit(lambda: products(xla_depthwise))())


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools_have_the_same_second_derivatives_in_every_form(kind: str, stride: int) -> None:
    rng = np.random.default_rng(5)
    x, moved = rng.normal(size=(2, 5, 4, 2)), rng.normal(size=(2, 5, 4, 2))

    def products(pool: Any) -> Any:
        gradient = jax.grad(lambda x: (pool(x, stride) ** 3).sum())
        return jax.jvp(gradient, (x,), (moved,))[1], jax.grad(lambda x: jnp.vdot(gradient(x), moved))(x)

    found = {name: products(getattr(form, f"{kind}_pool")) for name, form in FORMS.items()}
    assert np.abs(found["matrix"][0]).max() > 1
    for forward, reverse in found.values():
        close(forward, reverse)
        close(forward, found["matrix"][0])


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2)])
@pytest.mark.parametrize("stride", STRIDES)
def test_channels_last_kernels_equal_the_definitions(
    plain: SimpleNamespace, stride: int, size: tuple[int, int]
) -> None:
    x = RNG.normal(size=(3, *size, 2)) - 3
    taps, weight, dense = RNG.normal(size=(3, 5, 5)), RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3, 3, 3))

    @jax.jit
    def found(x: jax.Array) -> Any:
        last = x.transpose(3, 1, 2, 0)
        return [
            channels_last.depthwise(last, jnp.moveaxis(taps, 0, -1), stride, 2),
            channels_last.max_pool(last, stride),
            channels_last.avg_pool(last, stride),
            channels_last.convolution(last, jnp.moveaxis(dense, 0, -1), stride),
            channels_last.factorized(last, weight.T),
        ]

    halves = [
        w @ view.reshape(3, -1) for w, view in zip((weight[:2], weight[2:]), kernels.shifted_pair(x), strict=True)
    ]
    wanted = [
        plain.convolve(x, taps, stride, 2, 4, depthwise=True),
        plain.pool(x, stride, np.max),
        plain.pool(x, stride, np.mean),
        plain.convolve(x, dense, stride, padding=1),
        jnp.concatenate(halves).reshape(4, *(windows.output_size(s, 2) for s in size), 2),
    ]
    close(found(x), [y.transpose(3, 1, 2, 0) for y in wanted])


def test_a_product_over_channels_is_the_same_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = RNG.normal(size=(2, 1, 3, 5, 4, 2)), RNG.normal(size=(2, 3, 4, 3))

    def values_and_gradients() -> Any:
        y, back = jax.vjp(lambda x, w: kernels.pointwise(x, w, 2), x, w)
        return y, back(jnp.cos(y))

    wanted = values_and_gradients()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    close(values_and_gradients(), wanted)


def test_the_librarys_forms_over_a_batch_of_seeds_are_those_of_each_seed() -> None:
    x, w = RNG.normal(size=(3, 2, 1, 2, 5, 4, 2)), RNG.normal(size=(3, 2, 2, 2, 3, 3))

    def gradients(x: jax.Array, w: jax.Array) -> Any:
        def value(x: jax.Array, w: jax.Array) -> jax.Array:
            y = kernels.library.depthwise(x, w, 2, 1)
            return (kernels.library.max_pool(y, 1) ** 2 + kernels.library.avg_pool(y, 1) ** 2).sum()

        return jax.value_and_grad(value, (0, 1))(x, w)

    together = jax.jit(jax.vmap(gradients))(x, w)
    alone = [jax.jit(gradients)(*pair) for pair in zip(x, w, strict=True)]
    close(together, jax.tree.map(lambda *seeds: jnp.stack(seeds), *alone))


@pytest.mark.parametrize("form", FORMS)
def test_in_bfloat16_a_kernel_rounds_its_operands_and_its_result_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(kernels, "form", lambda x: FORMS[form])
    x, w = (
        jnp.asarray(RNG.normal(size=(2, 8, 8, 3)), jnp.bfloat16),
        jnp.asarray(RNG.normal(size=(2, 5, 5)), jnp.float32),
    )
    rounded = w.astype(jnp.bfloat16).astype(jnp.float32)
    for kernel, operands in (
        (lambda x, w: kernels.depthwise(x, w, 1, 2), (rounded,)),
        (lambda x, w: kernels.pointwise(x, w[0, :2, :2]), (rounded,)),
        (lambda x, w: kernels.convolution(x, w[None], 1, 2), (rounded,)),
        (lambda x: kernels.max_pool(x, 2), ()),
        (lambda x: kernels.avg_pool(x, 1), ()),
    ):
        found = kernel(x, *((w,) if operands else ()))
        assert found.dtype == jnp.bfloat16
        wanted = kernel(x.astype(jnp.float32), *operands)
        chex.assert_trees_all_close(np.float32(found), np.float32(wanted), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("form", [kernels.shifts, kernels.matrix, kernels.library])
def test_a_padded_mean_counts_the_zeros_outside_of_the_image(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "form", lambda x: form)
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for stride in (1, 2):
        wanted = sum(padded[:, i : i + 5 : stride, j : j + 4 : stride] for i in range(3) for j in range(3)) / 9
        np.testing.assert_allclose(
            kernels.avg_pool(jnp.asarray(x), stride, padded=True), wanted, rtol=1e-12, atol=1e-12
        )
