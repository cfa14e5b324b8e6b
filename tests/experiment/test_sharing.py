"""Which fields make a stage another one: all, but for those that it does not read."""

import dataclasses
import pathlib
from typing import Any, get_args, get_origin

import pytest

from dass_jax import config_io
from dass_jax.architectures.darts import PUBLISHED
from dass_jax.config import Config
from dass_jax.experiment import sharing

GENOTYPE = PUBLISHED["dass_99"]
TRAINING = {name for name, _ in config_io.leaves() if name.startswith(("network.", "train."))} | {"data.cutout"}
SEARCH = {name for name, _ in config_io.leaves() if name.startswith(("search.", "hypergradient."))}
NEVER = {
    *("runtime.checkpoints_to_keep", "runtime.memory_check", "runtime.compilation_cache"),
    *("runtime.call_seconds", "runtime.checkpoint_minutes"),
}
UNREAD = {
    ("dass", "step1"): {"sparsity.keep", "search.prune_epochs", "search.scores_lr", *TRAINING},
    ("darts_sparse", "step1"): {"sparsity.keep", "search.scores_lr", *TRAINING},
    ("dass", "pretrain"): {
        *("method", "genotype", "data.validation_fraction", "sparsity.keep", "train.score_epochs"),
        *("train.finetune_epochs", "train.scores_lr", "train.finetune_lr", *SEARCH),
    },
}
"""(method, stage) → the fields that the stage's programs and data do not depend on."""


def other(hint: Any, value: Any) -> Any:
    """Any value of the field's type that is not `value`; nothing is built from it, so it need not be allowed."""
    base, _ = config_io.split_hint(hint)
    if get_origin(base) is tuple:
        return ("other",)
    if get_args(base) or base is str:
        return f"{value}'"
    return not value if base is bool else value + 1


def changed(name: str, hint: Any) -> Config:
    config = Config()
    section, _, field = name.rpartition(".")
    owner: Any = getattr(config, section) if section else config
    part = dataclasses.replace(owner, **{field: other(hint, getattr(owner, field))})
    return dataclasses.replace(config, **{section: part}) if section else part


@pytest.mark.parametrize(("method", "stage"), UNREAD)
def test_exactly_the_fields_that_a_stage_reads_make_it_another(method: str, stage: str) -> None:
    genotype = GENOTYPE if stage == "pretrain" else None
    before = sharing.stage_digest(Config(), ["1"], method, stage, genotype)
    same = {
        name
        for name, hint in config_io.leaves()
        if sharing.stage_digest(changed(name, hint), ["1"], method, stage, genotype) == before
    }
    known = {name for name, _ in config_io.leaves()}
    assert same == (UNREAD[method, stage] & known) | NEVER


def test_genotype_machine_method_and_stage_count() -> None:
    found = [
        sharing.stage_digest(Config(), *given)
        for given in (
            (["1"], "dass", "step1", None),
            (["2"], "dass", "step1", None),
            (["1"], "darts_sparse", "step1", None),
            (["1"], "dass", "pretrain", GENOTYPE),
            (["1"], "dass", "pretrain", PUBLISHED["dass_95"]),
        )
    ]
    assert len(set(found)) == 5
    assert sharing.stage_digest(Config(), ["1"], "random", "pretrain", GENOTYPE) == found[3]


@pytest.mark.parametrize("stage", ["step1", "step2"])
def test_a_search_that_is_not_known_shares_nothing(tmp_path: pathlib.Path, stage: str) -> None:
    assert sharing.shelf(Config(), [], tmp_path)("new_method", stage, None) is None
    assert sharing.shelf(Config(), [], tmp_path)("dass", "step2", None) is None
