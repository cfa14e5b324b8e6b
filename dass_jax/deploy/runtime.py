"""Runs a sparse program on one core, image by image, without JAX: NumPy arrays and one loop compiled by Numba.

All planes live in one array, in places that are used again once nobody reads them, so that they stay in the cache.
The instructions are rows of numbers that the loop walks through; what it costs is close to the live weights alone.
Needs the extra `sparse`: `pip install dass_jax[sparse]`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dass_jax.deploy.sparse import LINEAR, Program, Term
from dass_jax.errors import UserError

MARGIN = 4096
"""Floats before and after all planes: a shifted read may begin a few pixels before its plane, or end after it."""


class Code(NamedTuple):
    """A program as arrays, small ones: all of it is read for each image. Places are indices into the memory."""

    steps: np.ndarray
    """int32 [instructions, 9]: kind, option, place, height, width, terms from, to, taps from, to."""
    biases: np.ndarray
    """float32 [instructions]; a bias that is a map is a term."""
    terms: np.ndarray
    """uint32 [terms]: places of the unshifted planes of sums."""
    term_weights: np.ndarray
    """float32 [terms, 2]: weight, and what pixels are at least."""
    taps: np.ndarray
    """int32 [taps, 10] of all other planes that are read: place, height, width, stride, offset of the first pixel, rows
    from, to, columns from, to, place of a mask or −1."""
    tap_weights: np.ndarray
    """float32 [taps, 2]."""
    memory: np.ndarray
    """float32: maps and masks, then planes with a margin; what `runner` starts from."""
    inputs: np.ndarray
    """int64 [channels]: places of the image's channels."""
    outputs: np.ndarray
    """int64 [outputs]."""
    size: tuple[int, int]
    """(H, W) of the outputs' planes."""


def assemble(program: Program) -> Code:
    """Gives every plane its place and turns the instructions into arrays."""
    maps, map_places = _maps(program)
    masks, mask_places = _masks(program, len(maps))
    constants = np.concatenate([maps, masks])
    places, end = _places(program, len(constants))
    steps: list[tuple[int, ...]] = []
    terms: list[int] = []
    taps: list[tuple[int, ...]] = []
    weights: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for number, one in enumerate(program.instructions):
        height, width = program.shapes[one.out]
        starts = len(terms), len(taps)
        if number in map_places:
            terms.append(map_places[number])
            weights[0].append((1.0, -np.inf))
        for term in one.form.terms:
            as_tap = one.kind != LINEAR or _is_shifted(term)
            weights[as_tap].append((term.weight, term.low))
            if not as_tap:
                terms.append(places[term.plane])
                continue
            shape = program.shapes[term.plane]
            offset, reach = term.dy * shape[1] + term.dx, _reach(term, shape, (height, width))
            mask = mask_places.get(_mask_of(term, program, one.out), -1)
            taps.append((places[term.plane], *shape, term.stride, offset, *reach, mask))
        ranges = starts[0], len(terms), starts[1], len(taps)
        steps.append((one.kind, one.option, places[one.out], height, width, *ranges))
    return Code(
        np.array(steps, np.int32).reshape(-1, 9),
        np.array([one.form.bias if np.ndim(one.form.bias) == 0 else 0 for one in program.instructions], np.float32),
        np.array(terms, np.uint32),
        np.array(weights[0], np.float32).reshape(-1, 2),
        np.array(taps, np.int32).reshape(-1, 10),
        np.array(weights[1], np.float32).reshape(-1, 2),
        np.concatenate([constants, np.zeros(end - len(constants), np.float32)]),
        np.array([places[plane] for plane in range(program.inputs)], np.int64),
        np.array([places[plane] for plane in program.outputs], np.int64),
        program.shapes[program.outputs[0]],
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


def _is_shifted(term: Term) -> bool:
    return term[2:5] != (0, 0, 1)


def _mask_of(term: Term, program: Program, out: int) -> tuple[int, ...] | None:
    """(height, width, columns from, to) of the mask of a shifted term that is read as one flat array, else None."""
    shape, source = program.shapes[out], program.shapes[term.plane]
    if not _is_shifted(term) or term.stride != 1 or source[1] != shape[1]:
        return None
    return *shape, *_reach(term, source, shape)[2:]


def _masks(program: Program, start: int) -> tuple[np.ndarray, dict[tuple[int, ...] | None, int]]:
    """All masks, one after the other from a place on: ones in the columns that a shift does not carry from one row into
    the next. And where each begins."""
    found: list[np.ndarray] = [np.zeros(0, np.float32)]
    places: dict[tuple[int, ...] | None, int] = {}
    for one in program.instructions:
        for term in one.form.terms:
            key = _mask_of(term, program, one.out)
            if key is not None and key not in places:
                height, width, first, last = key
                places[key] = start + sum(map(len, found))
                found.append(
                    np.tile((np.arange(width) >= first) & (np.arange(width) < last), height).astype(np.float32)
                )
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


def _reach(term: Term, shape: tuple[int, int], out: tuple[int, int]) -> tuple[int, ...]:
    """Which output pixels a term reaches: rows from, to, columns from, to."""
    ranges = []
    for offset, size, length in zip((term.dy, term.dx), shape, out, strict=True):
        low = max(0, -(offset // term.stride))
        high = min(length, (size - 1 - offset) // term.stride + 1)
        ranges += [low, max(high, low)]
    return tuple(ranges)


def _loop() -> Callable[..., None]:
    """The compiled loop: (the first six arrays of a Code, memory, scratch) → nothing; writes planes into the memory.

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
    """Images [N, C, H, W] → outputs [N, O] or [N, O, H, W], float32. Not to be called from two threads at once.

    Raises:
      UserError: where Numba is missing.
    """
    run, memory = _loop(), code.memory.copy()
    largest, longest = (code.steps[:, 3] * code.steps[:, 4]).max(initial=1), code.taps[:, 2].max(initial=1)
    scratch = np.zeros(int(max(largest, longest)), np.float32)
    pixels = code.outputs[:, None] + np.arange(code.size[0] * code.size[1])
    shape = code.outputs.shape if code.size == (1, 1) else (*code.outputs.shape, *code.size)

    def apply(images: np.ndarray) -> np.ndarray:
        outputs = np.empty((len(images), *pixels.shape), np.float32)
        for image, row in zip(np.asarray(images, np.float32), outputs, strict=True):
            for channel, place in zip(image, code.inputs, strict=True):
                memory[place : place + channel.size] = channel.ravel()
            run(*code[:6], memory, scratch)
            row[:] = memory[pixels]
        return outputs.reshape(len(images), *shape)

    return apply
