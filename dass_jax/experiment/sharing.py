"""Which stages of different runs are the same, so that an experiment does them once.

Neither the first step of a search with dense operations nor the dense pre-training of a genotype depends on how many
weights will be pruned. A stage's end is named by a digest of every field of the configuration but those that this
stage never reads; a field that is not listed here counts, so a new one makes less be shared, never something wrong.
"""

import hashlib
import json
import pathlib
from typing import Any

from dass_jax.config import NOT_IN_RESULT, Config, flatten
from dass_jax.runtime.shelf import Shelf

TRAINING = ("network", "train", "data.cutout")
SEARCH = ("method", "genotype", "search", "hypergradient", "data.validation_fraction")
UNREAD = {
    ("dass", "step1"): ("sparsity", "search.prune_epochs", "search.scores_lr", *TRAINING),
    ("darts_sparse", "step1"): ("sparsity", "search.scores_lr", *TRAINING),
}
"""(method, stage) → sections and fields that a search's first stage does not read."""
PRETRAIN_UNREAD = (
    *SEARCH,
    *("sparsity", "train.score_epochs", "train.finetune_epochs", "train.scores_lr", "train.finetune_lr"),
)
"""The same of pre-training, which is that of a genotype, whoever found it."""


def stage_digest(config: Config, machine: Any, method: str, stage: str, genotype: Any) -> str | None:
    """16 hexadecimal digits, equal for stages that end in the same bits; None if the stage is not to be shared.

    Args:
      machine: what the bits depend on beside the configuration: versions and devices, JSON-able.
      genotype: of the trained network; None in a search.
    """
    unread = PRETRAIN_UNREAD if stage == "pretrain" else UNREAD.get((method, stage))
    if unread is None:
        return None

    def is_read(name: str) -> bool:
        sections = {name, name.partition(".")[0]}
        # A stage that has left out steps is not one that would have stopped at them.
        counts = name == "runtime.nonfinite" or name not in NOT_IN_RESULT
        return counts and sections.isdisjoint(unread)

    fields = {name: value for name, value in flatten(config).items() if is_read(name)}
    whose = None if stage == "pretrain" else method
    everything = [stage, whose, genotype, fields, machine]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def shelf(config: Config, machine: Any, folder: pathlib.Path) -> Shelf:
    """The places in `folder` for the stages of a run."""

    def place(method: str, stage: str, genotype: Any) -> pathlib.Path | None:
        digest = stage_digest(config, machine, method, stage, genotype)
        return None if digest is None else folder / f"{stage}-{digest}"

    return place
