"""Channels at another width."""

STEP = 8
"""What numbers of channels are multiples of at any width."""


def scaled(channels: int, width: float) -> int:
    """`width` · `channels`, rounded to a multiple of 8 that is not more than a tenth smaller. Source: MobileNet-v2."""
    wanted = channels * width
    rounded = max(STEP, int(wanted + STEP / 2) // STEP * STEP)
    return rounded + STEP if rounded < 0.9 * wanted else rounded
