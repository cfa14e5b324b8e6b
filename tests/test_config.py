"""The configuration: the paper's defaults, TOML there and back, and one line for each wrong input."""

import ast
import dataclasses
import inspect
import json
import math
import pathlib
from typing import Any, get_args

import jax
import pytest

from dass_jax import accounting, bilevel, config_io, variables
from dass_jax import config as schema
from dass_jax.architectures import darts as genotype
from dass_jax.config import Config, title
from dass_jax.errors import UserError
from dass_jax.networks.derived import NetworkConfig, derived
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
def test_shipped_files_load_and_say_command_cost_and_number(path: pathlib.Path) -> None:
    config_io.load(path)
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"--config configs/{path.name}" in head
    assert all(f"#   {word}:" in head for word in ("command", "cost", "expect"))


def test_the_smallest_cifar_file_differs_from_the_defaults_only_in_its_source() -> None:
    changed = config_io.differences(Config(), config_io.load(CONFIGS / "cifar10_dass_small.toml"))
    assert changed == ["data.source: 'digits' in the folder, 'cifar10.npz' asked for"]


TABLE_2 = {
    "cifar10_dass_tiny": (16, 30),
    "cifar10_dass_small": (20, 36),
    "cifar10_dass_medium": (12, 86),
    "cifar10_dass_large": (14, 108),
    "imagenet_dass_small": (14, 48),
    "imagenet_dass_medium": (15, 86),
    "imagenet_dass_large": (16, 128),
}

IMAGENET_DATA = {"streaming": True, "image_size": 224, "statistics": "imagenet", "crop_padding": 0, "crop_scale": 0.08}
# DARTS' transforms.ColorJitter on ImageNet.
IMAGENET_DATA |= {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}


@pytest.mark.parametrize("name", TABLE_2)
def test_the_files_of_the_paper_have_its_sizes_and_else_its_schedule(name: str) -> None:
    config = config_io.load(CONFIGS / f"{name}.toml")
    assert (config.network.cells, config.network.channels) == TABLE_2[name]
    changed = {line.partition(":")[0] for line in config_io.differences(Config(), config)}
    free = {"data.source", "network.cells", "network.channels"}
    if name.startswith("imagenet"):
        assert (config.genotype, title(config), config.controls) == ("dass_99", "dass_99", ())
        free |= {"method", "genotype", "controls", "network.stem", "network.drop_path"}
        free |= {"train.pretrain_epochs", "train.pretrain_lr", "train.weight_decay"}
        free |= {f"data.{name}" for name in IMAGENET_DATA}
        data = dataclasses.asdict(config.data)
        assert {name: data[name] for name in IMAGENET_DATA} == IMAGENET_DATA
    assert changed <= free


@pytest.mark.parametrize(
    ("name", "total", "paper"),
    [("small", 1_713_790, 17_050), ("medium", None, 53_650), ("large", None, 105_500)],
)
def test_the_files_give_the_papers_numbers_of_weights(name: str, total: int | None, paper: int) -> None:
    config = config_io.load(CONFIGS / f"cifar10_dass_{name}.toml")
    sizes = NetworkConfig(10, config.network.cells, config.network.channels, config.network.stem, auxiliary=False)
    model = derived(genotype.PUBLISHED["dass_99"], sizes)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 32, 3)))[variables.PARAMS]
    leaves = variables.layers(params, variables.prunable(params, model.rules))
    prunable = sum(count * size for _, count, size in leaves)
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert total in (None, found)
    assert accounting.paper_kept(prunable, found - prunable, config.sparsity.keep) == paper


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


@pytest.mark.parametrize(
    ("text", "method", "controls", "called"),
    [
        ("", "dass", ("darts_sparse", "random"), "dass"),
        ('method = "random"', "random", ("darts_sparse",), "random"),
        ('method = "darts_sparse"', "darts_sparse", ("random",), "darts_sparse"),
        ('method = "dass_op"', "dass_op", ("darts_sparse", "random"), "dass_op"),
        ('genotype = "darts_v2"', "given", (), "darts_v2"),
        ('genotype = "darts_v2"\ncontrols = ["random"]', "given", ("random",), "darts_v2"),
        ('[network]\nname = "mobilenet_v2"', "given", (), "mobilenet_v2"),
    ],
)
def test_what_is_not_said_follows_from_what_is(
    text: str, method: str, controls: tuple[str, ...], called: str, tmp_path: pathlib.Path
) -> None:
    config = config_io.load(written(tmp_path, text))
    assert (config.method, config.controls, title(config)) == (method, controls, called)
    assert config_io.load(written(tmp_path, config_io.to_toml(config))) == config


def test_a_genotype_files_content_is_kept_and_not_its_path(tmp_path: pathlib.Path) -> None:
    cell = (("skip_connect", 0), ("sep_conv_3x3", 1))
    path, other = tmp_path / "mine.json", tmp_path / "published.json"
    path.write_text(json.dumps(genotype.to_json(genotype.Genotype((cell,), (cell,))), indent=2), encoding="utf-8")
    other.write_text(json.dumps(genotype.to_json(genotype.PUBLISHED["dass_95"])), encoding="utf-8")
    config = config_io.from_dict({"genotype": str(path)})
    path.unlink()
    again = config_io.load(written(tmp_path, config_io.to_toml(config)))
    assert again == config and title(again) == "genotype"
    assert genotype.load(again.genotype) == genotype.Genotype((cell,), (cell,))
    assert config_io.from_dict({"genotype": str(other)}).genotype == "dass_95"


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


SEARCHES = "'dass', 'dass_op', 'dass_joint', 'darts_sparse', 'random'"
BAD_FILES = {
    "not TOML": ("seed = 1\nmethod = dass", "is not TOML: Invalid value (at line 2, column 10); allowed: TOML"),
    "given twice": ("seed = 1\nseed = 2\n", "is not TOML: Cannot overwrite a value (at line 2, "),
    "unknown key": (
        "sed = 1",
        "unknown key 'sed' (did you mean 'seed'?); allowed: method, genotype, controls, seed, ",
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
    "number for text": ("[data]\nsource = 3", "data.source = 3; allowed: 'digits', 'tfds:NAME' or the path"),
    "empty text": ('[data]\nsource = " "', "data.source = ' '; allowed: 'digits', 'tfds:NAME' or the path"),
    "line break": ('[data]\nsource = "a\\nb"', "data.source = 'a\\nb'; allowed: 'digits', 'tfds:NAME' or the path"),
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
    "wrong choice": ('method = "darts"', f"method = 'darts'; allowed: {SEARCHES}, 'given'"),
    "choice of wrong type": ("method = []", f"method = []; allowed: {SEARCHES}, 'given'"),
    "list expected": (
        'controls = "random"',
        f"controls = 'random'; allowed: a list of {SEARCHES}",
    ),
    "wrong item": ('controls = ["no"]', f"controls = 'no'; allowed: {SEARCHES}"),
    "control twice": ('controls = ["random", "random"]', "allowed: different methods, none of them the main one"),
    "control is method": ('controls = ["dass"]', "controls = ['dass']; allowed: different methods"),
    "control is genotype": (
        'genotype = "darts_sparse"\ncontrols = ["darts_sparse"]',
        "none of them the main one, genotype = 'darts_sparse'",
    ),
    "nothing given": ('method = "given"', "method = 'given' without a genotype; allowed: genotype = NAME_OR_FILE"),
    "genotype and search": (
        'method = "dass"\ngenotype = "dass_99"',
        "genotype = 'dass_99' with method = 'dass'; allowed: method = 'given', or genotype = ''",
    ),
    "unknown genotype": ('genotype = "dass_9"', "genotype 'dass_9' is unknown (did you mean 'dass_99'?); allowed: "),
    "damaged genotype": ("genotype = '{'", "genotype is damaged: "),
    "network and search": (
        'method = "random"\n[network]\nname = "resnet18"',
        "network.name = 'resnet18' with method = 'random'; allowed: method = 'given'",
    ),
    "network and genotype": (
        'genotype = "dass_99"\n[network]\nname = "resnet18"',
        "genotype = 'dass_99' with network.name = 'resnet18'; allowed: with network.name = 'cells'",
    ),
    "network and controls": (
        'controls = ["random"]\n[network]\nname = "resnet18"',
        "controls = ['random'] with network.name = 'resnet18'; allowed: with network.name = 'cells'",
    ),
    "network and stem": (
        '[network]\nname = "resnet18"\nstem = "imagenet"',
        "network.stem = 'imagenet' with network.name = 'resnet18'; allowed: with network.name = 'cells'",
    ),
    "width of cells": ("[network]\nwidth = 0.5", "network.width = 0.5 with 'cells'; allowed: network.channels"),
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
