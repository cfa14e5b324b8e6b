"""Colour jitter against Pillow, colorsys and closed forms."""

import colorsys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dass_jax.data import colour

BYTES = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3), np.uint8)
PLANES = jnp.asarray(BYTES.transpose(3, 1, 2, 0) / 255, jnp.float32)
FACTORS = np.array([0.0, 0.5, 1.0, 1.3, 1.9], np.float32)
"""One for each of the five images."""


@pytest.mark.parametrize(
    ("change", "pillow", "levels"),
    [
        (colour.brightness, ImageEnhance.Brightness, 1.01),
        (colour.saturation, ImageEnhance.Color, 1.51),
        (colour.contrast, ImageEnhance.Contrast, 1.51),
    ],
)
def test_blends_are_pillows_up_to_its_rounding(change: Callable[..., jax.Array], pillow: type, levels: float) -> None:
    found = np.asarray(jax.jit(change)(PLANES, FACTORS)).transpose(3, 1, 2, 0) * 255
    for image, factor, ours in zip(BYTES, FACTORS, found, strict=True):
        theirs = np.asarray(pillow(Image.fromarray(image)).enhance(float(factor)))
        assert np.abs(ours - theirs).max() <= levels


def test_hue_turns_the_wheel_as_colorsys_does() -> None:
    shifts = np.array([-0.5, -0.2, 0.0, 0.13, 0.5], np.float32)
    images = np.concatenate([BYTES, np.repeat(BYTES[..., :1], 3, -1)], axis=1)  # with greys, that have no hue
    images[:, 0, :3] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    found = jax.jit(colour.hue)(jnp.asarray(images.transpose(3, 1, 2, 0) / 255, jnp.float32), shifts)
    for n, row, column in np.ndindex(images.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[n, row, column] / 255))
        expected = colorsys.hsv_to_rgb((hue + float(shifts[n])) % 1, saturation, value)
        np.testing.assert_allclose(found[:, row, column, n], expected, atol=2e-6)


def test_nothing_is_changed_by_factors_of_one_and_a_shift_of_zero() -> None:
    draws, order = jax.jit(colour.random_draws, static_argnums=(1, 2))(jax.random.key(0), 5, colour.Jitter())
    np.testing.assert_allclose(jax.jit(colour.recolour)(PLANES, draws, order), PLANES, atol=1e-6)


def test_draws_fill_their_ranges_and_differ_between_images() -> None:
    jitter = colour.Jitter(0.4, 1.5, 0.2, 0.1)
    random_draws = jax.jit(colour.random_draws, static_argnums=(1, 2))
    draws, order = random_draws(jax.random.key(1), 4000, jitter)
    for values, (low, high) in zip(draws, [(0.6, 1.4), (0, 2.5), (0.8, 1.2), (-0.1, 0.1)], strict=True):
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    orders = {tuple(random_draws(jax.random.key(n), 4000, jitter)[1].tolist()) for n in range(12)}
    assert len(orders) > 4


def test_the_changes_come_in_the_order_that_was_drawn() -> None:
    recolour = jax.jit(colour.recolour)
    draws = colour.Draws(*(jnp.full(5, value, jnp.float32) for value in (1.7, 0.3, 1.9, 0.2)))
    changes = colour.brightness, colour.contrast, colour.saturation, colour.hue
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        expected = PLANES
        for which in order:
            expected = jax.jit(changes[which])(expected, draws[which])
        np.testing.assert_allclose(recolour(PLANES, draws, jnp.array(order)), expected, atol=1e-6)
