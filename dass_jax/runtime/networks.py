"""What a run leaves of each trained network: RUN/networks/METHOD-SEED.npz, arrays by their paths and no pickle.

Checkpoints are of the phase in which a run stands, and the oldest go; these stay.
"""

import io
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from dass_jax import variables
from dass_jax.errors import UserError
from dass_jax.runtime import folder
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS

FOLDER = "networks"
FACTS = "facts"


class Network(NamedTuple):
    """A trained network. `variables` has params, masks and batch_stats."""

    method: str
    seed: int
    architecture: Any
    """JSON of it; None for a published network."""
    variables: variables.Variables
    result: float | None = None
    """The task's main metric on the test set; None: not known."""
    about: Any = None
    """`results.about`, JSON-able: what the network needs of its data, and what the run measured; None: not known."""


def path(run: pathlib.Path, method: str, seed: int) -> pathlib.Path:
    """Where a run keeps a network."""
    return run / FOLDER / f"{method}-{seed}.npz"


def save(run: pathlib.Path, network: Network) -> None:
    """Writes a network whole or not at all; pruned weights are written as zeros, so that they take no space."""
    v = network.variables
    masks = {name: np.asarray(mask) != 0 for name, mask in variables.flatten(v[MASKS]).items()}
    params = {
        name: np.where(masks[name], value, 0) if name in masks else value
        for name, value in variables.flatten(v[PARAMS]).items()
    }
    facts = {name: value for name, value in network._asdict().items() if name != "variables"}
    groups = {PARAMS: params, MASKS: masks, BATCH_STATS: variables.flatten(v[BATCH_STATS])}
    arrays = {f"{group}/{name}": np.asarray(x) for group, leaves in groups.items() for name, x in leaves.items()}
    target = path(run, network.method, network.seed)
    target.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **{FACTS: np.array(json.dumps(facts))}, **arrays)
    folder.write_bytes(target, content.getvalue())


def load(file: pathlib.Path) -> Network:
    """The network in a file.

    Raises:
      UserError: if it cannot be read or is not what `save` writes.
    """
    try:
        with np.load(file, allow_pickle=False) as found:
            leaves = {name: found[name] for name in found.files}
        facts = json.loads(str(leaves.pop(FACTS)))
        return Network(**facts, variables=variables.unflatten(leaves))
    except Exception as error:  # a damaged file can make zipfile and NumPy raise anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"network file {str(file)!r} cannot be read ({type(error).__name__}: {reason}); "
            f"allowed: one that a run has left in its folder {FOLDER}/"
        ) from error
