"""The configuration: the paper's defaults, TOML there and back, and one line for each wrong input."""

import ast
import dataclasses
import inspect
import pathlib
from typing import Any, get_args

import pytest

from dass_jax import bilevel, config_io
from dass_jax import config as schema
from dass_jax.config import Config
from dass_jax.errors import UserError
from tests.config_files import one_line, written

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"

PAPER = {
    "search.cells": 8,
    "search.channels": 16,
    "search.nodes": 4,
    "search.epochs": 50,
    "search.prune_epochs": 20,
    "search.batch_size": 64,
    "search.order": "upper_first",
    "search.hypergradient": "first_order",
    "search.theta_lr": 0.025,
    "search.scores_lr": 0.1,
    "search.final_lr": 1e-3,
    "search.momentum": 0.9,
    "search.weight_decay": 3e-4,
    "search.clip": 5.0,
    "search.alpha_lr": 3e-4,
    "search.alpha_beta1": 0.5,
    "search.alpha_beta2": 0.999,
    "search.alpha_weight_decay": 1e-3,
    "search.none": True,
    "data.validation_fraction": 0.5,
    "data.cutout": 0,
    "sparsity.keep": 0.01,
    "network.cells": 20,
    "network.channels": 36,
    "network.auxiliary_weight": 0.4,
    "network.drop_path": 0.2,
    "train.batch_size": 128,
    "train.pretrain_epochs": 600,
    "train.score_epochs": 20,
    "train.finetune_epochs": 200,
    "train.pretrain_lr": 0.025,
    "train.scores_lr": 0.1,
    "train.finetune_lr": 0.01,
    "train.momentum": 0.9,
    "train.weight_decay": 3e-4,
    "train.clip": 5.0,
}


def test_defaults_are_the_papers() -> None:
    values = config_io.flatten(Config())
    assert {name: values[name] for name in PAPER} == PAPER
    assert config_io.validated(Config()) == Config()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_files_load(path: pathlib.Path) -> None:
    assert config_io.load(path).data.source in ("digits", "cifar10.npz", "mnist.npz")


def test_the_cifar_file_differs_from_the_defaults_only_in_its_source() -> None:
    changed = config_io.differences(Config(), config_io.load(CONFIGS / "cifar10_dass.toml"))
    assert changed == ["data.source: 'digits' in the folder, 'cifar10.npz' asked for"]


def test_toml_round_trip_is_exact(tmp_path: pathlib.Path) -> None:
    config = Config(
        controls=(),
        data=schema.Data(source='a "quoted" \\ ü.npz', validation_fraction=0.1 + 0.2),
        search=schema.Search(theta_lr=1e-300, stem="imagenet"),
        runtime=schema.Runtime(compilation_cache=""),
    )
    text = config_io.to_toml(config)
    assert config_io.load(written(tmp_path, text)) == config
    assert config_io.to_toml(config_io.load(written(tmp_path, text))) == text
    assert config_io.load(written(tmp_path, "")) == Config()


def test_an_integer_is_a_number(tmp_path: pathlib.Path) -> None:
    clip = config_io.load(written(tmp_path, "[train]\nclip = 3")).train.clip
    assert clip == 3.0 and type(clip) is float


def test_digest_and_differences_see_every_field_that_changes_the_result() -> None:
    other = {int: 7, float: 0.123, str: "else"}
    for name, value in config_io.flatten(Config()).items():
        switched = not value if isinstance(value, bool) else other.get(type(value))
        new: Any = {"controls": (), "method": "dass2"}.get(name, switched)
        changed = _replaced(Config(), name, new)
        seen = name not in config_io.NOT_IN_RESULT
        lines = [f"{name}: {value!r} in the folder, {new!r} asked for"] if seen else []
        assert config_io.differences(Config(), changed) == lines
        assert (config_io.digest(changed) != config_io.digest(Config())) == seen
    assert len(config_io.digest(Config())) == 8 and int(config_io.digest(Config()), 16) >= 0


def _replaced(config: Any, name: str, value: Any) -> Any:
    head, _, rest = name.partition(".")
    return dataclasses.replace(config, **{head: _replaced(getattr(config, head), rest, value) if rest else value})


BAD_FILES = {
    "not TOML": ("seed = 1\nmethod = dass", "is not TOML: Invalid value (at line 2, column 10); allowed: TOML"),
    "given twice": ("seed = 1\nseed = 2\n", "is not TOML: Cannot overwrite a value (at line 2, "),
    "unknown key": (
        "sed = 1",
        "unknown key 'sed' (did you mean 'seed'?); allowed: method, controls, seed, seeds, data, ",
    ),
    "unknown section": ("[serach]\nepochs = 1", "unknown key 'serach' (did you mean 'search'?); allowed: "),
    "unknown in section": (
        "[search]\nepoch = 1",
        "unknown key 'search.epoch' (did you mean 'epochs'?); allowed: cells",
    ),
    "no section": ("search = 5", "search = 5; allowed: a table"),
    "array of sections": ("[[search]]\nepochs = 1", "search = [{'epochs': 1}]; allowed: a table"),
    "section for value": ("[seed]\nx = 1", "seed = {'x': 1}; allowed: an integer in [0, 2147483647]"),
    "text for integer": ('[search]\nepochs = "5"', "search.epochs = '5'; allowed: an integer in [1, 1000000]"),
    "fraction for integer": ("[search]\nepochs = 5.7", "search.epochs = 5.7; allowed: an integer in [1, 1000000]"),
    "true for integer": ("[search]\nepochs = true", "search.epochs = True; allowed: an integer in [1, 1000000]"),
    "true for number": ("[search]\nclip = true", "search.clip = True; allowed: a number greater than 0"),
    "text for number": ('[search]\nclip = "5"', "search.clip = '5'; allowed: a number greater than 0"),
    "1 for true": ("[data]\nflip = 1", "data.flip = 1; allowed: true or false"),
    "number for text": ("[data]\nsource = 3", "data.source = 3; allowed: 'digits' or the path of an .npz file"),
    "empty text": ('[data]\nsource = " "', "data.source = ' '; allowed: 'digits' or the path of an .npz file"),
    "line break": ('[data]\nsource = "a\\nb"', "data.source = 'a\\nb'; allowed: 'digits' or the path of an .npz file"),
    "nan": ("[sparsity]\nkeep = nan", "sparsity.keep = nan; allowed: a number in (0, 1]"),
    "infinite": ("[search]\nclip = inf", "search.clip = inf; allowed: a number greater than 0"),
    "no float so large": (f"[search]\nclip = 1{'0' * 400}", "...; allowed: a number greater than 0"),
    "above": ("[sparsity]\nkeep = 1.5", "sparsity.keep = 1.5; allowed: a number in (0, 1]"),
    "open end": ("[sparsity]\nkeep = 0", "sparsity.keep = 0; allowed: a number in (0, 1]"),
    "other open end": ("[network]\ndrop_path = 1.0", "network.drop_path = 1.0; allowed: a number in [0, 1)"),
    "no epochs": ("[search]\nprune_epochs = 0", "search.prune_epochs = 0; allowed: an integer in [1, 1000000]"),
    "too many nodes": ("[search]\nnodes = 9", "search.nodes = 9; allowed: an integer in [1, 8]"),
    "negative": ("[data]\nlimit = -1", "data.limit = -1; allowed: an integer of at least 0"),
    "negative rate": ("[search]\nweight_decay = -1.0", "search.weight_decay = -1.0; allowed: a number of at least 0"),
    "one checkpoint": (
        "[runtime]\ncheckpoints_to_keep = 1",
        "runtime.checkpoints_to_keep = 1; allowed: an integer in [2",
    ),
    "wrong choice": ('method = "darts"', "method = 'darts'; allowed: 'dass', 'darts_sparse', 'random'"),
    "choice of wrong type": ("method = []", "method = []; allowed: 'dass', 'darts_sparse', 'random'"),
    "list expected": (
        'controls = "random"',
        "controls = 'random'; allowed: a list of 'dass', 'darts_sparse', 'random'",
    ),
    "wrong item": ('controls = ["no"]', "controls = 'no'; allowed: 'dass', 'darts_sparse', 'random'"),
    "control twice": ('controls = ["random", "random"]', "allowed: different methods, none of them the main one"),
    "control is method": ('method = "random"', "controls = ['darts_sparse', 'random']; allowed: different methods"),
    "odd channels": ('[search]\nstem = "imagenet"\nchannels = 9', "search.channels = 9; allowed: an even number"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_wrong_files_are_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config_io.load(written(tmp_path, text))
    assert message in one_line(caught) and "run.toml'" in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"seed = \xff")
    for name, message in (
        ("none.toml", "none.toml' cannot be read: No such file or directory; allowed: a TOML file"),
        (".", "cannot be read: Is a directory; allowed: a TOML file"),
        ("bytes.toml", "bytes.toml' is not TOML: 'utf-8' codec can't decode byte 0xff"),
    ):
        with pytest.raises(UserError) as caught:
            config_io.load(tmp_path / name)
        assert message in one_line(caught)


@pytest.mark.parametrize(
    ("field", "value", "takers"),
    [
        ("steps", 2, "'unrolled'"),
        ("radius", 0.1, "'finite_difference'"),
        ("damping", 0.5, "'neumann' or 'conjugate_gradient' or 'amended'"),
    ],
)
def test_an_argument_of_another_estimator_is_refused(field: str, value: float, takers: str) -> None:
    said = (
        f"hypergradient.{field} = {value} with search.hypergradient = 'first_order', which has no use for it; "
        f"allowed: with {takers}"
    )
    with pytest.raises(UserError) as error:
        config_io.from_dict({"hypergradient": {field: value}})
    assert str(error.value) == said
    for taker in ast.literal_eval(f"[{takers.replace(' or ', ', ')}]"):
        found = config_io.from_dict({"search": {"hypergradient": taker}, "hypergradient": {field: value}})
        assert getattr(found.hypergradient, field) == value


def test_the_names_and_arguments_of_estimators_are_those_that_exist() -> None:
    wanted = {name: tuple(inspect.signature(made).parameters) for name, made in bilevel.ESTIMATORS.items()}
    assert wanted == schema.HYPERGRADIENT_ARGUMENTS
    assert set(get_args(schema.HypergradientName)) == set(wanted)
