"""Runs a sparse program on one core, image by image, without JAX: NumPy arrays and one loop compiled by Numba.

All planes live in one array, in places that are used again once nobody reads them, so that they stay in the cache.
The instructions are rows of numbers that the loop walks through; what it costs is close to the live weights alone.
Needs the extra `sparse`: `pip install dass_jax[sparse]`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dass_jax.deploy.sparse import Program, Term
from dass_jax.errors import UserError

MARGIN = 4096
"""Floats before and after all planes: a shifted read may begin a few pixels before its plane, or end after it."""


class Code(NamedTuple):
    """A program as arrays. Places are indices into the memory, a float32 array."""

    steps: np.ndarray
    """int64 [instructions, 9]: kind, option, place, height, width, first term, first shifted one, end of the terms,
    place of a map or −1."""
    biases: np.ndarray
    """float32 [instructions]."""
    terms: np.ndarray
    """int64 [terms, 9]: place, height, width, stride, first pixel's offset, rows from, to, columns from, to."""
    weights: np.ndarray
    """float32 [terms]."""
    memory: np.ndarray
    """float32: maps, then planes with a margin; what `Runner` starts from."""
    inputs: np.ndarray
    """int64 [channels]: places of the image's channels."""
    outputs: np.ndarray
    """int64 [classes]."""


def assemble(program: Program) -> Code:
    """Gives every plane its place and turns the instructions into arrays."""
    maps, map_places = _maps(program)
    places, end = _places(program, len(maps))
    steps: list[tuple[int, ...]] = []
    terms: list[tuple[int, ...]] = []
    weights: list[float] = []
    for number, one in enumerate(program.instructions):
        height, width = program.shapes[one.out]
        # Terms that are whole planes come first: the loop takes several at a time.
        ordered = sorted(one.form.terms, key=lambda term: term[2:] != (0, 0, 1))
        start = len(terms)
        for term in ordered:
            terms.append(_term(term, places[term.plane], program.shapes[term.plane], (height, width)))
            weights.append(term.weight)
        whole = start + sum(term[2:] == (0, 0, 1) for term in ordered)
        where = map_places.get(number, -1)
        steps.append((one.kind, one.option, places[one.out], height, width, start, whole, len(terms), where))
    return Code(
        np.array(steps, np.int64).reshape(-1, 9),
        np.array([one.form.bias if np.ndim(one.form.bias) == 0 else 0 for one in program.instructions], np.float32),
        np.array(terms, np.int64).reshape(-1, 9),
        np.array(weights, np.float32),
        np.concatenate([maps, np.zeros(end - len(maps), np.float32)]),
        np.array([places[plane] for plane in range(program.inputs)], np.int64),
        np.array([places[plane] for plane in program.outputs], np.int64),
    )


def _maps(program: Program) -> tuple[np.ndarray, dict[int, int]]:
    """All biases that are maps, one after the other, and where each instruction's begins."""
    found, places, end = [np.zeros(0, np.float32)], {}, 0
    for number, one in enumerate(program.instructions):
        if np.ndim(one.form.bias):
            whole = np.broadcast_to(one.form.bias, program.shapes[one.out]).astype(np.float32).ravel()
            places[number] = end
            found.append(whole)
            end += whole.size
    return np.concatenate(found), places


def _places(program: Program, start: int) -> tuple[list[int], int]:
    """The place of each plane, and the end of the memory."""
    last = {term.plane: number for number, one in enumerate(program.instructions) for term in one.form.terms}
    last |= {plane: len(program.instructions) for plane in program.outputs}
    free: dict[int, list[int]] = {}
    places = [-1] * len(program.shapes)
    end = start + MARGIN

    def give(plane: int) -> None:
        nonlocal end
        size = program.shapes[plane][0] * program.shapes[plane][1]
        size += -size % 16  # whole cache lines
        if free.get(size):
            places[plane] = free[size].pop()
        else:
            places[plane], end = end, end + size

    for plane in range(program.inputs):
        give(plane)
    for number, one in enumerate(program.instructions):
        give(one.out)
        for plane in {term.plane for term in one.form.terms} | {one.out}:
            if last.get(plane, number) == number and plane >= program.inputs:
                size = program.shapes[plane][0] * program.shapes[plane][1]
                free.setdefault(size + -size % 16, []).append(places[plane])
    return places, end + MARGIN


def _term(term: Term, place: int, shape: tuple[int, int], out: tuple[int, int]) -> tuple[int, ...]:
    """Which output pixels a term reaches, and where it starts to read."""
    ranges = []
    for offset, size, length in zip((term.dy, term.dx), shape, out, strict=True):
        low = max(0, -(offset // term.stride))
        high = min(length, (size - 1 - offset) // term.stride + 1)
        ranges += [low, max(high, low)]
    return place, *shape, term.stride, term.dy * shape[1] + term.dx, *ranges


def _loop() -> Callable[..., None]:
    """The compiled loop: (steps, biases, terms, weights, memory) → nothing; writes planes into the memory.

    Raises:
      UserError: where Numba is missing.
    """
    try:
        from dass_jax.deploy import loop
    except ImportError as error:
        raise UserError("the package numba is missing; allowed: pip install 'dass_jax[sparse]'") from error
    run: Callable[..., None] = loop.run
    return run


def runner(code: Code) -> Callable[[np.ndarray], np.ndarray]:
    """Images [N, C, H, W] → logits [N, classes], float32. Not to be called from two threads at once.

    Raises:
      UserError: where Numba is missing.
    """
    run, memory = _loop(), code.memory.copy()
    largest, longest = (code.steps[:, 3] * code.steps[:, 4]).max(initial=1), code.terms[:, 2].max(initial=1)
    scratch = np.zeros(int(max(largest, longest)), np.float32)

    def apply(images: np.ndarray) -> np.ndarray:
        logits = np.empty((len(images), len(code.outputs)), np.float32)
        for image, row in zip(np.asarray(images, np.float32), logits, strict=True):
            for channel, place in zip(image, code.inputs, strict=True):
                memory[place : place + channel.size] = channel.ravel()
            run(code.steps, code.biases, code.terms, code.weights, memory, scratch)
            row[:] = memory[code.outputs]
        return logits

    return apply
