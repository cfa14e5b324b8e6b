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


def carried(tree: Any, kept: Callable[[str], np.ndarray | None]) -> Any:
    """What a smaller program keeps of a tree of the larger one: θ, running statistics, momentum, scores, masks, …

    Args:
      tree: nested dictionaries of arrays.
      kept: path of a leaf → which entries of its leading axes stay, bool with one axis for each of these; None: the
        leaf stays as it is.

    Returns:
      nested dictionaries, without the leaves of which nothing is left. Several leading axes become one where some of
      their entries leave.
    """
    found = {}
    for path, leaf in variables.flatten(tree).items():
        mask = kept(path)
        if mask is None or mask.all():
            found[path] = leaf
        elif mask.any():
            found[path] = leaf[mask]
    return variables.unflatten(found)
