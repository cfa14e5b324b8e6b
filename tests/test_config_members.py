"""Other members of the axes: conversion at the same budget, controls, plugins, and the answers to old names."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dass_jax import architectures, config
from dass_jax.config import AXES, Chosen, Config, converted, old
from dass_jax.errors import UserError
from dass_jax.methods import METHODS
from dass_jax.networks import NETWORKS
from dass_jax.spaces import SPACES
from tests.config_files import one_line, written


def method(name: str, **fields: Any) -> Chosen:
    return Chosen(name, AXES["method"].schema(name)(**fields))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (method("dass", epochs=9, prune_epochs=3, clip=2.0), method("darts", epochs=12, clip=2.0)),
        (method("dass", epochs=9, prune_epochs=3, scores_lr=2.0), method("dass_joint", epochs=12, scores_lr=2.0)),
        (method("dass", epochs=9, prune_epochs=3), method("dass", epochs=9, prune_epochs=3)),
        (method("darts", epochs=50), method("dass", epochs=30, prune_epochs=20)),
        # Step 2 alone is longer.
        (method("darts", epochs=20), method("dass", epochs=20, prune_epochs=20)),
        (method("darts", epochs=9), method("random")),
        # Nothing says how long a search would be.
        (method("random"), method("darts")),
    ],
)
def test_another_method_has_the_same_budget_and_the_fields_of_both(before: Chosen, after: Chosen) -> None:
    assert converted(before, after.name) == after


def test_a_control_is_a_run_of_its_own() -> None:
    main = config.from_dict(
        {
            "seed": 3,
            "controls": ["darts", "random"],
            "method": {"epochs": 9, "prune_epochs": 3},
            "hypergradient": {"name": "unrolled", "steps": 2},
        }
    )
    darts, random = (config.validated(config.control(main, name)) for name in main.controls)
    assert darts == dataclasses.replace(main, controls=(), method=method("darts", epochs=12))
    assert random == dataclasses.replace(darts, method=method("random"), hypergradient=Config.hypergradient)
    given = config.from_dict({"architecture": "dass_99", "controls": ["random"]})
    alone = config.validated(config.control(given, "random"))
    assert (alone.method.name, alone.architecture, config.title(alone)) == ("random", "", "random")


def test_every_method_but_the_given_one_can_be_a_control_of_dass() -> None:
    for name in {name for name, entry in METHODS.items() if not entry.sampled} - {"dass", "given"}:
        assert config.control(config.from_dict({"controls": [name]}), name).method.name == name


def test_the_hypergradient_of_a_control_can_be_set() -> None:
    asked = {"method": {"name": "random"}, "controls": ["dass"], "hypergradient": {"name": "neumann", "terms": 5}}
    assert config.control(config.from_dict(asked), "dass").hypergradient.fields.terms == 5


@pytest.mark.parametrize("name", old.KEYS)
def test_an_old_key_is_answered_with_its_place_now(name: str, tmp_path: pathlib.Path) -> None:
    place = old.KEYS[name]
    value: Any = {} if name == "search" else 1
    with pytest.raises(UserError) as caught:
        config.from_dict(config.nested({name: value}))
    assert one_line(caught) == f"unknown key {name!r}; allowed: in its place {place}"
    with pytest.raises(UserError) as caught:
        config.parse(["--config", written(tmp_path, ""), f"--{name.replace('_', '-')}", "1"], "train")
    assert place in one_line(caught)


def test_old_keys_are_all_keys_that_there_were() -> None:
    search = {*("cells", "channels", "nodes", "stem", "none", "remat", "epochs", "prune_epochs", "stop_at_skips")}
    search |= {"batch_size", "accumulate", "order", "hypergradient", "theta_lr", "scores_lr", "final_lr", "momentum"}
    search |= {"weight_decay", "clip", "alpha_lr", "alpha_beta1", "alpha_beta2", "alpha_weight_decay"}
    others = {"search", "genotype", "hypergradient.cosine", "runtime.epochs_per_call"}
    assert set(old.KEYS) == {f"search.{name}" for name in search} | others
    # Each place is one that there is now, but for those in words.
    everything = {f"{axis}.{field}" for axis in AXES for name in AXES[axis].members for field in fields_of(axis, name)}
    everything |= {name for name, _ in config.leaves()}
    assert {place for place in old.KEYS.values() if " " not in place} <= everything


def fields_of(axis: str, name: str) -> list[str]:
    return list(config.hints(AXES[axis].schema(name)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"method": "dass"}, "method = 'dass'; allowed: a table, [method] with name = 'dass'"),
        ({"method": "darts_sparse"}, "method = 'darts_sparse'; allowed: a table, [method] with name = 'darts'"),
        ({"method": {"name": "darts_sparse"}}, "method.name = 'darts_sparse'; allowed: in its place 'darts'"),
        ({"controls": ["random", "darts_sparse"]}, "controls = 'darts_sparse'; allowed: in its place 'darts'"),
        ({"network": {"name": "cells"}}, "network.name = 'cells'; allowed: in its place '', or nothing"),
    ],
)
def test_an_old_value_is_answered_with_the_new_one(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.from_dict(data)
    assert one_line(caught) == message


PLUGIN = '''
import dataclasses
from typing import Annotated

from dass_jax import architectures
from dass_jax.architectures.darts import FAMILY, Genotype
from dass_jax.methods import METHODS
from dass_jax.networks import NETWORKS
from dass_jax.schema import Range
from dass_jax.spaces import SPACES


@dataclasses.dataclass(frozen=True)
class Fields:
    """A space of chains."""

    cells: Annotated[int, Range(1, 6)] = 2
    """Cells."""
    links: Annotated[int, Range(1, 9)] = 4
    """Links of a cell."""


class Chain(Genotype):
    pass


TEXT = FAMILY._replace(
    name="chain",
    kind=Chain,
    published={},
    from_text=lambda text, origin: Chain((), ()),
    is_text=lambda text: text.startswith("chain:"),
    to_text=lambda chain: "chain:",
)
architectures.FAMILIES["chain"] = TEXT
SPACES["chain"] = SPACES["darts"]._replace(schema=Fields, check=lambda fields: None)
NETWORKS["chain"] = NETWORKS["darts"]._replace(schema=Fields)
METHODS["guess"] = METHODS["random"]._replace(schema=Fields)
'''


@pytest.fixture
def plugin(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A Python file with a space, its family and network, and a method; what it adds is taken away again."""
    tables = (architectures.FAMILIES, SPACES, NETWORKS, METHODS)
    before, modules = [dict(table) for table in tables], set(sys.modules)
    path = tmp_path / "chains.py"
    path.write_text(PLUGIN, encoding="utf-8")
    yield path
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        # The tables' values differ in type, and each gets its own back.
        table.update(kept)  # type: ignore[arg-type]
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_plugins_members_are_chosen_like_all_others(plugin: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "configs").mkdir()
    text = 'plugins = ["../chains.py"]\n[space]\nname = "chain"\nlinks = 7\n[method]\nname = "guess"\ncells = 3\n'
    found = config.load(written(tmp_path / "configs", text))
    assert found.plugins == (str(plugin),)
    assert (found.space.fields.links, found.method.fields.cells) == (7, 3)
    assert (found.network.name, found.network.fields.cells) == ("chain", 2)
    assert config.load(written(tmp_path, config.to_toml(found))) == found
    assert config.digest(dataclasses.replace(found, plugins=())) == config.digest(found)
    with pytest.raises(UserError, match=r"method\.link'.*; allowed: what method 'guess' has: cells, links"):
        config.load(written(tmp_path / "configs", text + "link = 3\n"))


def test_the_space_is_that_of_the_architecture(plugin: pathlib.Path) -> None:
    data = {"plugins": [str(plugin)], "architecture": "chain:"}
    found = config.from_dict(data)
    assert (found.space.name, found.network.name, found.method.name) == ("chain", "chain", "given")
    assert config.title(found) == "architecture"
    with pytest.raises(UserError) as caught:
        config.from_dict({**data, "space": {"name": "darts"}})
    assert one_line(caught) == "space.name = 'darts' with an architecture of another space; allowed: 'chain'"
    with pytest.raises(UserError, match=r"network\.name = 'darts'; allowed: 'resnet18', .*'chain'"):
        config.from_dict({**data, "network": {"name": "darts"}})


def test_a_plugin_on_the_command_line(
    plugin: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--config", written(tmp_path, "[space]\ncells = 9\n[network]\ncells = 5\n"), "--plugins", "chains.py"]
    found = config.parse([*argv, "--space", "chain", "--space.links", "3"], "train").config
    assert found.plugins == (str(plugin),)
    # `cells` goes along where the other member takes its value.
    assert dataclasses.asdict(found.space.fields) == {"cells": 2, "links": 3}
    assert (found.network.name, found.network.fields.cells) == ("chain", 5)
    assert config.parse([*argv, "--architecture", "chain:"], "train").config.space.name == "chain"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "FileNotFoundError: [Errno 2] No such file or directory: "),
        ("import dass_jax.nothing", "ModuleNotFoundError: No module named 'dass_jax.nothing'"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two"),
    ],
)
def test_a_plugin_that_fails_is_one_line(tmp_path: pathlib.Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content, encoding="utf-8")
    for _ in range(2):  # it has not been imported by halves
        with pytest.raises(UserError) as caught:
            config.load(written(tmp_path, 'plugins = ["mine.py"]\n[method]\nname = "mine"'))
        assert f"plugins = 'mine.py': {said}" in one_line(caught)


def test_a_plugin_can_be_a_module() -> None:
    assert config.from_dict({"plugins": ["dass_jax.methods"]}).plugins == ("dass_jax.methods",)
    with pytest.raises(UserError, match=r"plugins = 'no\.module': ModuleNotFoundError"):
        config.from_dict({"plugins": ["no.module"]})
