"""Augmentation against plain loops in NumPy, and what the draws promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.data.augment import Augmentation, Draws, augment, normalise, random_draws

_augment = jax.jit(augment, static_argnums=(2, 5))
_normalise = jax.jit(normalise)
_draws = jax.jit(random_draws, static_argnums=(1, 2, 3))

N, H, W, C = 24, 6, 5, 3
MEAN, STD = np.array([0.1, 0.5, 0.9], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (N, H, W, C), np.uint8)

CASES = [
    Augmentation(0, False, 0),
    Augmentation(2, False, 0),
    Augmentation(0, True, 0),
    Augmentation(0, False, 3),
    Augmentation(1, True, 4),
    Augmentation(7, True, 1),
    Augmentation(3, True, 40),
]


def oracle(images: np.ndarray, draws: Draws, augmentation: Augmentation) -> np.ndarray:
    """[C, H, W, N] one image at a time: pad with black, crop, mirror, normalise, cut out."""
    out = np.zeros((C, H, W, len(images)))
    for n, image in enumerate(images):
        p, side = augmentation.padding, augmentation.cutout
        padded = np.zeros((H + 2 * p, W + 2 * p, C), np.uint8)
        padded[p : p + H, p : p + W] = image
        top, left = int(draws.top[n]), int(draws.left[n])
        crop = padded[top : top + H, left : left + W]
        crop = crop[:, ::-1] if draws.mirror[n] else crop
        normal = (crop / 255 - MEAN.astype(float)) / STD.astype(float)
        first_y, first_x = int(draws.centre_y[n]) - side // 2, int(draws.centre_x[n]) - side // 2
        normal[max(first_y, 0) : max(first_y + side, 0), max(first_x, 0) : max(first_x + side, 0)] = 0
        out[..., n] = normal.transpose(2, 0, 1)
    return out


@pytest.mark.parametrize("augmentation", CASES, ids=str)
def test_augment_equals_the_loop(augmentation: Augmentation) -> None:
    draws = _draws(jax.random.key(1), N, (H, W), augmentation)
    found = _augment(IMAGES, draws, augmentation, MEAN, STD)
    assert found.shape == (C, H, W, N) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, oracle(IMAGES, draws, augmentation), rtol=1e-5, atol=1e-6)


def test_in_double_precision_augment_equals_the_loop_closely() -> None:
    augmentation = Augmentation(2, True, 3)
    with jax.enable_x64(True):
        draws = _draws(jax.random.key(1), N, (H, W), augmentation)
        found = _augment(jnp.asarray(IMAGES), draws, augmentation, MEAN, STD, jnp.float64)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, oracle(IMAGES, draws, augmentation), rtol=1e-13, atol=1e-13)


def test_without_augmentation_it_is_normalise() -> None:
    augmentation = Augmentation(0, False, 0)
    draws = _draws(jax.random.key(0), N, (H, W), augmentation)
    plain = _normalise(IMAGES, MEAN, STD)
    np.testing.assert_allclose(_augment(IMAGES, draws, augmentation, MEAN, STD), plain, rtol=1e-6)
    np.testing.assert_allclose(plain[1, 2, 3, 4], (IMAGES[4, 2, 3, 1] / 255 - 0.5) / 0.3, rtol=1e-5)


def test_padding_is_black_and_not_the_mean() -> None:
    augmentation = Augmentation(4, False, 0)
    draws = _draws(jax.random.key(0), 1, (H, W), augmentation)
    draws = draws._replace(top=jnp.zeros(1, jnp.int32), left=jnp.zeros(1, jnp.int32))
    found = _augment(IMAGES[:1], draws, augmentation, MEAN, STD)
    np.testing.assert_allclose(found[:, 0, 0, 0], -MEAN / STD, rtol=1e-6)


def test_a_slice_of_the_draws_augments_a_slice_of_the_images() -> None:
    augmentation = Augmentation(2, True, 3)
    draws = _draws(jax.random.key(3), N, (H, W), augmentation)
    whole = _augment(IMAGES, draws, augmentation, MEAN, STD)
    part = _augment(IMAGES[10:], jax.tree.map(lambda values: values[10:], draws), augmentation, MEAN, STD)
    np.testing.assert_array_equal(whole[..., 10:], part)


def test_draws_cover_their_ranges_and_depend_on_the_key() -> None:
    augmentation = Augmentation(2, True, 3)
    draws = _draws(jax.random.key(0), 500, (H, W), augmentation)
    for values, count in ((draws.top, 5), (draws.left, 5), (draws.centre_y, H), (draws.centre_x, W)):
        assert values.dtype == jnp.int32
        assert set(np.asarray(values).tolist()) == set(range(count))
    assert draws.mirror.dtype == bool and 200 < draws.mirror.sum() < 300
    other = _draws(jax.random.key(1), 500, (H, W), augmentation)
    assert all((a != b).any() for a, b in zip(draws, other, strict=True))


def test_what_is_switched_off_is_not_drawn() -> None:
    draws = _draws(jax.random.key(0), 100, (H, W), Augmentation(0, False, 0))
    assert not draws.top.any() and not draws.left.any() and not draws.mirror.any()
