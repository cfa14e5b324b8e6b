"""Which cells are trained, and in which order."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dass_jax.architectures import to_text
from dass_jax.errors import UserError


class Order(NamedTuple):
    """The networks of a space in an order drawn with a seed: the first n are a sample of n, uniformly without
    replacement."""

    size: int
    """Of the largest sample."""
    at: Callable[[int], tuple[Any, int]]
    """Place → the cell there, and how many of the space's cells are the same network."""
    place: Callable[[Any], int | None]
    """Architecture → where its network is; None if it is not there."""
    allowed: str
    """Which ones are there, for a message."""


class Permutation(NamedTuple):
    """Of the numbers below a size."""

    at: Callable[[int], int]
    back: Callable[[int], int]
    """Inverse of `at`."""


def permutation(seed: int, size: int) -> Permutation:
    """One drawn with the seed, without a list of its numbers: four rounds of a Feistel network (Luby and Rackoff, 1988)
    on the numbers below a power of four, repeated until the result is below the size (Black and Rogaway, 2002)."""
    bits = ((size - 1).bit_length() + 1) // 2

    def scattered(number: int, part: int) -> int:
        digest = hashlib.blake2b(f"{seed} {part} {number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % 2**bits

    def forward(number: int) -> int:
        left, right = divmod(number, 2**bits)
        for part in range(4):
            left, right = right, left ^ scattered(right, part)
        return left * 2**bits + right

    def backward(number: int) -> int:
        left, right = divmod(number, 2**bits)
        for part in reversed(range(4)):
            left, right = right ^ scattered(left, part), left
        return left * 2**bits + right

    def inside(step: Callable[[int], int]) -> Callable[[int], int]:
        def repeated(number: int) -> int:
            number = step(number)
            while number >= size:
                number = step(number)
            return number

        return repeated

    return Permutation(inside(forward), inside(backward))


def places(order: Order, architectures: Iterable[Any], number: int) -> list[int]:
    """Where architectures are in the order, then the first so many places, each once. Raises UserError for an
    architecture that is not there."""
    wanted: dict[int, None] = {}
    for architecture in architectures:
        place = order.place(architecture)
        if place is None:
            raise UserError(f"--also = {to_text(architecture)}; allowed: {order.allowed}")
        wanted[place] = None
    return list(wanted | dict.fromkeys(range(min(number, order.size))))
