"""The head for outputs of pixels: its published counts, and its equality with a PyTorch definition; and backbones that
keep their maps' size, against the same convolutions without holes on every second pixel."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import variables
from dass_jax.architectures.darts import Genotype
from dass_jax.architectures.dso import connections, swept
from dass_jax.networks.derived import DerivedCell
from dass_jax.nn import heads, layers
from dass_jax.nn.heads import AtrousPyramid, Classifier, Scale, halved, head, size_of
from dass_jax.nn.kernels import dilated, library
from dass_jax.nn.level_blocks import Block
from dass_jax.tasks import Pixels

RNG = np.random.default_rng(0)


def positive(tree: Any) -> Any:
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.2, 1.2, leaf.shape) * 0.5), tree)


def signed(tree: Any) -> Any:
    draw = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) * 0.3), tree)


def made(module: nn.Module, *inputs: Any) -> dict[str, Any]:
    """Variables of which none is a neutral element."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return {"params": signed(shapes["params"]), "batch_stats": positive(shapes["batch_stats"])}


@pytest.mark.parametrize(("channels", "published"), [(320, 2_711_829), (288, 2_474_261), (1024, 7_938_325)])
def test_the_head_has_the_published_number_of_parameters(channels: int, published: int) -> None:
    """7,424 · C + 336,149 for 21 classes; with the bodies of MobileNet v2 (320) and v1 (1,024) DSO-NAS' Table 4."""
    module = AtrousPyramid(Pixels(21), layers.batch_norm(True, affine=True), (32, 32))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((channels, 4, 4, 2))))["params"]
    flat = variables.flatten(shapes)
    assert sum(leaf.size for leaf in flat.values()) == published == 7_424 * channels + 336_149
    weights = sum(leaf.size for path, leaf in flat.items() if path.endswith("weight"))
    assert size_of(Pixels(21), channels, 16)[0] == weights


def torch_head(v: dict[str, Any], x: np.ndarray, train: bool, rates: tuple[int, ...], size: tuple[int, int]) -> Any:
    """[N, O, H, W] of x [N, C, h, w], by torch's own layers."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    functional = torch.nn.functional
    flat = {path: torch.tensor(np.array(leaf)) for path, leaf in variables.flatten(v).items()}

    def branch(x: Any, name: str, dilation: int = 1) -> Any:
        w = flat[f"params/{name}/conv/conv/weight"]
        w = w if w.ndim == 4 else w[:, :, None, None]
        x = functional.conv2d(x, w, padding=dilation * (w.shape[-1] // 2), dilation=dilation)
        affine = (flat[f"params/{name}/norm/{kind}"] for kind in ("scale", "bias"))
        running = (flat[f"batch_stats/{name}/norm/{kind}"].clone() for kind in ("mean", "var"))
        return functional.relu(functional.batch_norm(x, *running, *affine, train, 0.1, 1e-5))

    x = torch.tensor(x)
    parts = [branch(x, "branch_0"), *(branch(x, f"branch_{n}", rate) for n, rate in enumerate(rates, start=1))]
    pooled = branch(functional.adaptive_avg_pool2d(x, 1), "mean")
    parts.append(functional.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=False))
    y = branch(torch.cat(parts, 1), "joined")
    y = functional.conv2d(y, flat["params/classifier/conv/weight"][:, :, None, None], flat["params/bias"])
    return functional.interpolate(y, size, mode="bilinear", align_corners=False).numpy()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("rates", "size"), [((1, 2, 3), (5, 6)), ((6, 12, 18), (40, 48)), ((2,), (11, 13))])
def test_the_head_is_the_one_of_an_independent_definition(
    x64: None, rates: tuple[int, ...], size: tuple[int, int], train: bool
) -> None:
    """Dilations within the map, and beyond it where the centre alone is left; sizes that no factor gives."""
    x = RNG.normal(size=(7, 5, 6, 3))
    module = AtrousPyramid(Pixels(4, rates=rates, depth=8), layers.batch_norm(train, affine=True), size)
    v = made(module, jnp.asarray(x))
    found, _ = module.apply(v, jnp.asarray(x), mutable=["batch_stats"])
    assert found.shape == (4, *size, 3)
    expected = torch_head(v, x.transpose(3, 0, 1, 2), train, rates, size)
    np.testing.assert_allclose(np.asarray(found).transpose(3, 0, 1, 2), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dilation", [2, 5, 9])
@pytest.mark.parametrize("k", [3, 5])
def test_convolutions_with_holes_are_the_librarys(x64: None, k: int, dilation: int) -> None:
    x, w = jnp.asarray(RNG.normal(size=(3, 7, 9, 2))), jnp.asarray(RNG.normal(size=(4, 3, k, k)))
    answer = jnp.asarray(RNG.normal(size=(4, 7, 9, 2)))

    def pulled(form: Any) -> Any:
        return jax.value_and_grad(lambda x, w: (form(x, w) * answer).sum(), (0, 1))(x, w)

    one = pulled(lambda x, w: dilated.convolution(x, w, dilation))
    other = pulled(lambda x, w: library.convolution(x, w, 1, (k - 1) // 2 * dilation, dilation))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), one, other)


def test_maps_keep_their_size_from_the_stride_on_and_dilations_double() -> None:
    at, found = Scale(4), []
    for _ in range(4):
        at = halved(Pixels(3, stride=16), at)
        found.append(tuple(at))
    assert found == [(8, 1), (16, 1), (16, 2), (16, 4)]
    assert halved(7, Scale(16)) == Scale(32)
    assert isinstance(head(7, layers.batch_norm(True, True), (4, 4)), Classifier)
    assert isinstance(head(Pixels(7), layers.batch_norm(True, True), (4, 4)), heads.AtrousPyramid)


def by_phases(function: Any, *maps: jax.Array) -> np.ndarray:
    """`function` of each of the four maps of every second pixel, put together again."""
    shape, parts = maps[0].shape, {}
    for i, j in np.ndindex(2, 2):
        parts[i, j] = np.asarray(function(*(x[:, i::2, j::2] for x in maps)))
    whole = np.zeros((parts[0, 0].shape[0], *shape[1:]))
    for (i, j), part in parts.items():
        whole[:, i::2, j::2] = part
    return whole


CELL = Genotype(
    normal=((("sep_conv_3x3", 0), ("dil_conv_5x5", 1)), (("skip_connect", 1), ("sep_conv_5x5", 2))),
    reduce=((("dil_conv_3x3", 0), ("sep_conv_3x3", 1)), (("dil_conv_5x5", 2), ("skip_connect", 0))),
)


@pytest.mark.parametrize("cell", CELL, ids=CELL._fields)
def test_a_dilated_cell_is_the_plain_one_on_every_second_pixel(x64: None, cell: Any) -> None:
    """Zeros around the image are zeros around the four smaller ones, and what has no window sees no neighbour."""
    x, y = (jnp.asarray(RNG.normal(size=(4, 8, 10, 2))) for _ in range(2))
    norm = layers.batch_norm(False, affine=True)
    plain = DerivedCell(cell, 4, False, False, norm)
    v = made(plain, x, y)
    wide = DerivedCell(cell, 4, False, False, norm, dilation=2)
    found, expected = wide.apply(v, x, y), by_phases(lambda x, y: plain.apply(v, x, y), x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert np.abs(np.asarray(found - plain.apply(v, x, y))).max() > 0.01


def test_a_dilated_block_is_the_plain_one_on_every_second_pixel(x64: None) -> None:
    x, norm = jnp.asarray(RNG.normal(size=(4, 8, 10, 2))), layers.batch_norm(False, affine=True)
    given = ("sep3", "sep5"), 2, swept(connections(2, 2), 2, 2), True, norm, norm
    v = made(Block(*given), x, None)
    found = Block(*given, 2).apply(v, x, None)
    np.testing.assert_allclose(found, by_phases(lambda x: Block(*given).apply(v, x, None), x), rtol=1e-10, atol=1e-10)
    assert np.abs(np.asarray(found - Block(*given).apply(v, x, None))).max() > 0.01
