"""Positions coded near the entropy of a sparse mask: Golomb–Rice codes of the gaps between them.

A gap g (positions skipped) is its quotient g >> r in unary and its remainder in r bits. All quotients are in one
stream of bits, all remainders in another, so that both are read without a loop over the bits. With the best r this
takes 3 % more than the entropy of a random mask, for any share of kept positions up to a half.
"""

import numpy as np

LARGEST_R = 24


def best_r(gaps: np.ndarray) -> int:
    """The remainder's width that makes the code shortest."""
    lengths = [int((gaps >> r).sum()) + len(gaps) * (1 + r) for r in range(LARGEST_R + 1)]
    return int(np.argmin(lengths))


def to_gaps(positions: np.ndarray) -> np.ndarray:
    """Increasing positions to how many are skipped before each."""
    return np.diff(positions, prepend=-1) - 1


def to_positions(gaps: np.ndarray) -> np.ndarray:
    """Inverse of `to_gaps`."""
    return np.cumsum(gaps + 1) - 1


def write(gaps: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits (0 and 1, uint8) of the quotients and of the remainders."""
    quotients = gaps >> r
    ends = np.cumsum(quotients + 1)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    unary[ends - 1] = 1
    remainders = ((gaps[:, None] >> np.arange(r)) & 1).astype(np.uint8)
    return unary, remainders.ravel()


def read(unary: np.ndarray, remainders: np.ndarray, count: int, r: int) -> tuple[np.ndarray, int, int]:
    """The first `count` gaps of two streams, and how many bits of each they took.

    Raises:
      ValueError: if the streams are too short.
    """
    # A quotient is known once its last bit, a one, is found: whole blocks are searched until there are enough.
    size = min(len(unary), 8 * count + 64)
    while np.count_nonzero(unary[:size]) < count and size < len(unary):
        size = min(len(unary), 2 * size)
    ends = np.flatnonzero(unary[:size])[:count]
    if len(ends) < count or len(remainders) < count * r:
        raise ValueError("the positions end too early")
    quotients = np.diff(ends, prepend=-1) - 1
    low = remainders[: count * r].reshape(count, r).astype(np.int64) @ (1 << np.arange(r, dtype=np.int64))
    return (quotients << r) + low, int(ends[-1]) + 1 if count else 0, count * r
