"""What a benchmark of sparse cells is made of, as its configuration says it."""

import dataclasses
import json
import pathlib
from typing import Annotated, Any, Literal

from dass_jax import config
from dass_jax.errors import UserError
from dass_jax.networks.any_genotype import Fields as Genotypes
from dass_jax.networks.nasbench201 import Fields as Network
from dass_jax.schema import Count, CountOrZero, Decay, NotNegative, Range, Rate, Text
from dass_jax.sparsity import Distribution


@dataclasses.dataclass(frozen=True)
class Data:
    """The images."""

    source: Annotated[str, Text("as data.source of a run")] = "cifar10.npz"
    """As `data.source` of a run: an .npz file, a folder, `tfds:NAME` or `digits`."""
    image_size: Annotated[int, Range(0, 4096)] = 8
    """Side in pixels to which they are resized; 0 = as they are."""
    limit: CountOrZero = 3072
    """Training images, the same for all cells and seeds; 0 = all."""
    crop_padding: Annotated[int, Range(0, 1024)] = 1
    """Pixels of padding before the random crop."""
    flip: bool = True
    """Mirror each training image with probability 1/2."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Fields of the recipe `prune`, which says what they mean."""

    batch_size: Count = 64
    pretrain_epochs: Count = 12
    score_epochs: CountOrZero = 2
    """0: pruned by the magnitude of the weights."""
    finetune_epochs: Count = 8
    pretrain_lr: Rate = 0.1
    scores_lr: Rate = 0.1
    finetune_lr: Rate = 0.1
    final_lr: NotNegative = 0.0
    momentum: Decay = 0.9
    weight_decay: NotNegative = 3e-4
    clip: Rate = 5.0


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """How many weights survive."""

    keep: tuple[Annotated[float, Range(0, 1, open_low=True)], ...] = (0.1, 0.05, 0.01)
    """Fractions of the weights, each pruned from the dense network."""
    distributions: tuple[Distribution, ...] = ("layer", "erk")
    """How they are shared out over the layers, see `sparsity.distribution` of a run: each fraction by each of them."""


NETWORKS: dict[str, Network | Genotypes] = {"nasbench201": Network(cells=1, channels=8), "darts": Genotypes()}
"""Space → what `network` is where a file says nothing."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """A table of trained cells."""

    space: Literal["nasbench201", "darts"] = "nasbench201"
    """Whose cells are trained. It says which fields `network` has."""
    seeds: Annotated[int, Range(1, 100)] = 3
    """Trainings of each cell, in one program, with the seeds 0, 1, …"""
    sample: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of the order in which cells are drawn."""
    data: Data = dataclasses.field(default_factory=Data)
    network: Any = NETWORKS["nasbench201"]
    """Of `NETWORKS`."""
    train: Train = dataclasses.field(default_factory=Train)
    sparsity: Sparsity = dataclasses.field(default_factory=Sparsity)


def structured(data: Any) -> Fields:
    """Tables as fields; those of `network` are the space's. Raises UserError."""
    config.rules.check_table(data, "")
    rest = {name: value for name, value in data.items() if name != "network"}
    found = config.structured(rest, Fields)
    usual = NETWORKS[found.space]
    network = config.structured(data.get("network", {}), type(usual), "network.", usual)
    return dataclasses.replace(found, network=network)


def noted(file: pathlib.Path) -> Fields | None:
    """The fields that lie beside a table, of which younger ones may be missing; None if the file is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return structured(found) if isinstance(found, dict) else None
    except (OSError, ValueError, UserError):
        return None
