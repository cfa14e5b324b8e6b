"""A space of which some operations have left: what of the variables of one program belongs to a smaller one."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dass_jax import variables
from dass_jax.spaces.space import Choice

Live = Mapping[str, np.ndarray]
"""For each matrix of a choice, by its name, bool [rows, columns]: which operations are part of the program."""


def everything(choices: Mapping[str, Choice]) -> dict[str, np.ndarray]:
    """All operations of a space."""
    return {name: np.ones(choice.shape, bool) for name, choice in choices.items()}


def checked(live: Live | None, choices: Mapping[str, Choice]) -> dict[str, np.ndarray]:
    """`live` as boolean arrays; None: everything.

    Raises:
      ValueError: unless it has exactly the names and shapes of the choices.
    """
    if live is None:
        return everything(choices)
    found = {name: np.asarray(array, bool) for name, array in live.items()}
    shapes, wanted = ({name: part.shape for name, part in parts.items()} for parts in (found, choices))
    if shapes != wanted:
        raise ValueError(f"live has the shapes {shapes}; allowed: {wanted}")
    return found


def smaller(live: Live, before: Live | None, choices: Mapping[str, Choice]) -> tuple[Any, Any]:
    """(`live`, `before`) as `checked` gives them.

    Raises:
      ValueError: if something in `live` was not in `before`, or as `checked`.
    """
    now, then = checked(live, choices), checked(before, choices)
    for name, array in now.items():
        if (more := np.argwhere(array & ~then[name])).size:
            raise ValueError(f"live: {name} has operations that were not in the program before: {more.tolist()}")
    return now, then


def carried(tree: Any, pieces: Callable[[str, Any], dict[str, Any] | None]) -> Any:
    """What a smaller program keeps of a tree of the larger one: θ, running statistics, momentum, scores, masks, …

    Args:
      tree: nested dictionaries of arrays.
      pieces: (path, leaf) → the leaves of the smaller program that are made of it, by path; None: it stays as it is.
    """
    found = {}
    for path, leaf in variables.flatten(tree).items():
        kept = pieces(path, leaf)
        found.update({path: leaf} if kept is None else kept)
    return variables.unflatten(found)
