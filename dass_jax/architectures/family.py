"""What every kind of architecture offers: plain data that can be written, read, checked, drawn and named.

An architecture is a frozen, hashable value of its family's own type. Its JSON says which space it is of:
`{"space": "darts", …}`. Nothing here knows JAX, a network or a drawing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dass_jax.errors import UserError, nearest

Json = dict[str, Any]


def short(value: Any, most: int = 40) -> str:
    """A value as messages repeat it, in at most so many characters."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def members(data: Any, keys: tuple[str, ...], place: str, wanted: str) -> Json:
    """Key → what the JSON object `data` has of it, None where it has nothing.

    Args:
      wanted: the keys as a message names them.

    Raises:
      UserError: if it is no object, or has other keys.
    """
    if not isinstance(data, dict):
        raise UserError(f"{place}: {type(data).__name__} found; allowed: an object with {wanted}")
    for key in data:
        if key not in keys:
            raise UserError(f"{place}: unknown key {short(key)}{nearest(str(key), keys)}; allowed: {', '.join(keys)}")
    return {key: data.get(key) for key in keys}


class Edge(NamedTuple):
    """A labelled edge of a graph, between two of its nodes."""

    source: str
    target: str
    label: str
    """The operation, or "" for a mere connection."""


class Graph(NamedTuple):
    """A directed graph without cycles, as it is drawn: what has no edge coming in is an input."""

    name: str
    """What it is of the architecture: "normal cell"."""
    nodes: tuple[str, ...]
    """In topological order."""
    edges: tuple[Edge, ...]


class Family(NamedTuple):
    """The architectures of one space.

    Every function that reads raises `UserError` with one line: the place, what is there and what is allowed.
    """

    name: str
    """Of the space, as JSON and configurations say it."""
    kind: type
    """Of its architectures."""
    to_json: Callable[[Any], Json]
    """Without the key "space", which `architectures.to_json` adds."""
    from_json: Callable[[Json, str], Any]
    """(JSON without the key "space", origin for messages) → architecture."""
    graphs: Callable[[Any], tuple[Graph, ...]]
    warnings: Callable[[Any], dict[str, str]] = lambda architecture: {}
    """Part → why it has degenerated; what a search warns of."""
    published: Mapping[str, Any] = {}
    """Architectures with a name of their own."""
    from_text: Callable[[str, str], Any] | None = None
    """(text, origin) → architecture, for a space that has a usual notation; `is_text` says which texts it is for."""
    is_text: Callable[[str], bool] = lambda text: False
    to_text: Callable[[Any], str] | None = None
    """The usual notation."""
