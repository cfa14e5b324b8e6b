"""What a run leaves to look at where its task predicts something of each pixel: RUN/shown/METHOD-SEED.npz, a few test
images with their masks and predictions."""

import io
import json
import pathlib
from typing import NamedTuple

import numpy as np

from dass_jax.runtime import folder

FOLDER = "shown"
FACTS = "facts"


class Shown(NamedTuple):
    """Of one trained network."""

    images: np.ndarray
    """uint8 [N, H, W, C]."""
    targets: np.ndarray
    """uint8 [N, H, W]."""
    predictions: np.ndarray
    """uint8 [N, H, W]."""
    labels: int
    """How many there are to predict; targets from there on are no labels."""
    names: tuple[str, ...]
    """Of the first labels."""


def save(run: pathlib.Path, method: str, seed: int, shown: Shown) -> None:
    """Writes the file whole or not at all."""
    facts = {"method": method, "seed": seed, "labels": shown.labels, "names": list(shown.names)}
    arrays = {name: getattr(shown, name) for name in ("images", "targets", "predictions")}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **{FACTS: np.array(json.dumps(facts))}, **arrays)
    target = run / FOLDER / f"{method}-{seed}.npz"
    target.parent.mkdir(exist_ok=True)
    folder.write_bytes(target, content.getvalue())
