"""Which fields make a phase another one: all, but for those that it does not read."""

import dataclasses
import functools
import pathlib
from typing import Any, get_args, get_origin

import pytest

from dass_jax import compose, config, pipeline
from dass_jax.architectures.darts import PUBLISHED
from dass_jax.compose import Setting
from dass_jax.config import Chosen, Config
from dass_jax.experiment import sharing
from dass_jax.methods import METHODS
from dass_jax.phases import Phase, Rebuild
from dass_jax.runner import SEARCH, TRAINING

FOUND = PUBLISHED["dass_99"]
TINY = {
    "data": {"limit": 64},
    "space": {"cells": 1, "channels": 2, "nodes": 1},
    "method": {"batch_size": 8},
    "network": {"cells": 1, "channels": 2, "auxiliary": False},
    "train": {"batch_size": 8},
}
NEVER = {
    *("controls", "plugins", "runtime.checkpoints_to_keep", "runtime.memory_check", "runtime.compilation_cache"),
    *("runtime.call_seconds", "runtime.checkpoint_minutes", "data.accept_changed"),
}


def tables(c: Config, *names: str) -> set[str]:
    """The fields of some tables."""
    return {name for name, _ in config.leaves(c) if name.partition(".")[0] in names}


TRAINED = tables(Config(), "network", "train") | {"data.cutout"}
UNREAD = {
    ("dass", "step1"): {
        "sparsity.keep",
        "sparsity.distribution",
        "method.prune_epochs",
        "method.scores_lr",
        "method.step2",
        *TRAINED,
    },
    ("darts", "search"): {"sparsity.keep", "sparsity.distribution", *TRAINED},
    ("entmax", "warmup"): {"sparsity.keep", "sparsity.distribution", *TRAINED},
    ("dass", "pretrain"): {
        *(
            "architecture",
            "data.validation_fraction",
            "sparsity.keep",
            "sparsity.distribution",
            "train.score_epochs",
            "train.finetune_epochs",
        ),
        *("train.scores_lr", "train.finetune_lr", *tables(Config(), "method", "space", "hypergradient")),
    },
}
"""(method, phase) → the fields that the phase's programs and data do not depend on."""


@functools.cache
def setting() -> Setting:
    return compose.setting(config.from_dict(TINY))


@functools.cache
def phases(method: str) -> dict[str, Phase]:
    """The phases of a method's search, and of the training of what it finds."""
    both = *compose.search(setting(), method).phases, *compose.training(setting(), FOUND).phases
    return {phase.name: phase for phase in both}


def digest(c: Config, method: str, phase: str, machine: str = "1", found: Any = FOUND) -> str:
    trained = phase == "pretrain"
    chain, architecture = (TRAINING, found) if trained else (SEARCH, None)
    return sharing.phase_digest(c, [machine], method, chain, phases(method)[phase], architecture)


def other(hint: Any, value: Any) -> Any:
    """Any value of the field's type that is not `value`; nothing is built from it, so it need not be allowed."""
    base, _ = config.split_hint(hint)
    if get_origin(base) is tuple:
        return ("other",)
    if get_args(base) or base is str:
        return f"{value}'"
    return not value if base is bool else value + 1


def changed(c: Config, name: str, hint: Any) -> Config:
    table, _, field = name.rpartition(".")
    own = getattr(c, table) if table else c
    if isinstance(own, Chosen) and not hasattr(own.fields, field):
        return dataclasses.replace(c, **{table: dataclasses.replace(own, name=other(hint, own.name))})  # the tag
    part: Any = own.fields if isinstance(own, Chosen) else own
    part = dataclasses.replace(part, **{field: other(hint, getattr(part, field))})
    if isinstance(own, Chosen):
        part = dataclasses.replace(own, fields=part)
    return dataclasses.replace(c, **{table: part}) if table else part


@pytest.mark.parametrize(("method", "phase"), UNREAD)
def test_exactly_the_fields_that_a_phase_reads_make_it_another(method: str, phase: str) -> None:
    c = config.from_dict({"method": {"name": method}})
    fields = {name: hint for name, hint in config.leaves(c) if name != "method.name"}
    before = digest(c, method, phase)
    same = {name for name, hint in fields.items() if digest(changed(c, name, hint), method, phase) == before}
    assert same == (UNREAD[method, phase] & set(fields)) | NEVER


def test_architecture_machine_method_and_phase_count() -> None:
    c = Config()
    found = [
        digest(c, "dass", "step1"),
        digest(c, "dass", "step1", machine="2"),
        digest(config.control(c, "darts"), "darts", "search"),
        digest(c, "dass", "pretrain"),
        digest(c, "dass", "pretrain", found=PUBLISHED["dass_95"]),
    ]
    assert len(set(found)) == 5
    assert digest(config.control(c, "random"), "random", "pretrain") == found[3]
    assert digest(c, "darts", "search") == found[2], "a control's search is that of a run of its own"


def test_only_phases_that_say_what_they_do_not_read_are_shared(tmp_path: pathlib.Path) -> None:
    place = functools.partial(pipeline.placing, setting(), "dass", SEARCH, None)
    shelf = sharing.shelf(Config(), [], tmp_path)
    shared = {
        name: {phase.name for phase in phases(name).values() if place(shelf)(phase) is not None}
        for name, entry in METHODS.items()
        if name not in ("given", "dso", "whole") and not entry.sampled  # of which DARTS' space has none
    }
    none = {"pretrain"}
    own = {"dass": {"step1"}, "darts": {"search"}, "entmax": {"warmup"}}
    assert shared == {name: none | own.get(name, set()) for name in shared}
    assert own.keys() < shared.keys()


def test_seeds_in_one_batch_and_rebuilt_programs_share_nothing(tmp_path: pathlib.Path) -> None:
    s, shelf, phase = setting(), sharing.shelf(Config(), [], tmp_path), phases("dass")["step1"]
    alone = pipeline.placing(s, "dass", SEARCH, None, shelf)
    assert alone(phase) is not None and pipeline.placing(s, "dass", SEARCH, None, None)(phase) is None
    assert pipeline.placing(s._replace(seeds=(0, 1)), "dass", SEARCH, None, shelf)(phase) is None
    rebuilt = phase._replace(rebuild=Rebuild(lambda v, built: None, lambda before, built: phase))
    assert alone(rebuilt) is None


def test_a_stage_of_other_data_is_another(tmp_path: pathlib.Path) -> None:
    s = setting()
    record = s.dataset.record
    assert record is not None
    other = record._replace(fingerprint=record.fingerprint._replace(train=record.fingerprint.test))
    places = [
        pipeline.on_shelf(s._replace(dataset=s.dataset._replace(record=one)), tmp_path / "pretrain-0")
        for one in (record, record._replace(place="elsewhere"), other)
    ]
    assert places[0] == places[1] != places[2] and places[0].name.startswith("pretrain-0-")
