"""Milliseconds of a space's parts on one machine, and the penalty that follows them.

`python -m dass_jax.latency.parts` measures the table, `[space] latency` names it: a JSON file with "image", [H, W, C]
for which it was measured, and "entries", {part: milliseconds}.

Source: DSO-NAS (Zhang et al., TPAMI 2020) Eq. 19, turned round. As printed it gives the connection whose removal saves
most the smallest penalty; as its published code, here it has the largest.
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dass_jax.errors import UserError
from dass_jax.nn.layers import Norm
from dass_jax.schema import Text

FIELD = "space.latency"
Path = Annotated[str, Text("the path of a JSON file, or '' for none", empty=True)]


class Part(NamedTuple):
    """What is measured by itself."""

    make: Callable[[Norm, str], nn.Module]
    """(BN, name) → its module."""
    shape: tuple[int, int, int]
    """Of its input, [C, H, W]."""
    repeats: bool
    """Whether its output is of that shape too."""


class Timed(NamedTuple):
    """How a space's networks are predicted: the sum over their parts, and what all of them have in common."""

    parts: Mapping[str, Part]
    uses: Callable[[Any], Mapping[str, int]]
    """Architecture → how often its network has each part."""


class Table(NamedTuple):
    """What a file says."""

    image: tuple[int, int, int]
    """[H, W, C]."""
    entries: Mapping[str, float]


def penalties(saved: jax.Array, live: jax.Array) -> jax.Array:
    """½ + ½ (t − min t)/(max t − min t) for what is live, else 1.

    Args:
      saved: t, the milliseconds that a network loses without each connection, of any shape.
      live: bool of that shape; the extremes are over what is live.
    """
    least, most = jnp.where(live, saved, jnp.inf).min(), jnp.where(live, saved, -jnp.inf).max()
    return jnp.where(live, 0.5 + 0.5 * (saved - least) / (most - least + 1e-9), 1.0)


def read(path: str) -> Table:
    """The table in a file. Raises UserError if it cannot be read or is none."""
    try:
        data = json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
        height, width, channels = data["image"]
        entries = {str(name): float(value) for name, value in data["entries"].items()}
        return Table((int(height), int(width), int(channels)), entries)
    except Exception as error:  # a damaged file can make it fail anywhere
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
        allowed = "a file of python -m dass_jax.latency.parts"
        raise UserError(f"{FIELD} = {path!r} cannot be read ({reason}); allowed: {allowed}") from error


def check(path: str, image_shape: tuple[int, int, int], parts: Iterable[str]) -> None:
    """Raises UserError if a table is not for these images [H, W, C], or lacks a part."""
    table = read(path)
    if table.image != image_shape:
        own, wanted = ("×".join(map(str, shape)) for shape in (table.image, image_shape))
        raise UserError(f"{FIELD} = {path!r} is for images of {own}; allowed: of {wanted}, as the data have")
    for name in parts:
        if name not in table.entries:
            raise UserError(f"{FIELD} = {path!r} has no {name!r}; allowed: a table of this space at these sizes")
