"""The configuration: the paper's defaults, TOML there and back, and one line for each wrong input."""

import dataclasses
import inspect
import json
import math
import pathlib
import re
import shlex
from typing import Any

import jax
import pytest

from dass_jax import accounting, architectures, bilevel, config, variables
from dass_jax.architectures.darts import PUBLISHED, Genotype
from dass_jax.bilevel.hypergradients.fields import FIELDS
from dass_jax.config import AXES, Chosen, Config, title
from dass_jax.errors import UserError
from dass_jax.networks import NETWORKS
from dass_jax.nn import layers
from tests.config_files import one_line, written

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"

PAPER = {
    "space.cells": 8,
    "space.channels": 16,
    "space.nodes": 4,
    "method.epochs": 50,
    "method.prune_epochs": 20,
    "method.batch_size": 64,
    "method.order": "upper_first",
    "hypergradient.name": "first_order",
    "method.theta_lr": 0.025,
    "method.scores_lr": 0.1,
    "method.final_lr": 1e-3,
    "method.momentum": 0.9,
    "method.weight_decay": 3e-4,
    "method.clip": 5.0,
    "method.alpha_lr": 3e-4,
    "method.alpha_beta1": 0.5,
    "method.alpha_beta2": 0.999,
    "method.alpha_weight_decay": 1e-3,
    "space.none": True,
    "data.validation_fraction": 0.5,
    "data.cutout": 0,
    "sparsity.keep": 0.01,
    "sparsity.distribution": "layer",
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
    values = config.flatten(Config())
    assert {name: values[name] for name in PAPER} == PAPER
    assert config.validated(Config()) == Config()
    assert set(values) == {name for name, _ in config.leaves()}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_files_load_and_say_command_cost_and_number(path: pathlib.Path) -> None:
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    (argv,) = re.findall(r"#   command:  python -m dass_jax.train (.*)", head)
    asked = config.parse(shlex.split(argv), "train")
    assert asked.path == path and argv.startswith(f"--config {path.stem}")
    assert dataclasses.replace(asked.config, controls=()) == dataclasses.replace(config.load(path), controls=())
    assert all(f"#   {word}:" in head for word in ("command", "cost", "expect"))


def test_the_smallest_cifar_file_differs_from_the_defaults_only_in_its_source() -> None:
    changed = config.differences(Config(), config.load(CONFIGS / "cifar10_dass_small.toml"))
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
    found = config.load(CONFIGS / f"{name}.toml")
    assert (found.network.fields.cells, found.network.fields.channels) == TABLE_2[name]
    changed = {line.partition(":")[0] for line in config.differences(Config(), found)}
    free = {"data.source", "network.cells", "network.channels"}
    if name.startswith("imagenet"):
        assert (found.architecture, title(found), found.controls) == ("dass_99", "dass_99", ())
        free |= {"method.name", "architecture", "controls", "network.stem", "network.drop_path"}
        free |= {"train.pretrain_epochs", "train.pretrain_lr", "train.weight_decay", "train.label_smoothing"}
        free |= {f"data.{name}" for name in IMAGENET_DATA}
        data = dataclasses.asdict(found.data)
        assert {name: data[name] for name in IMAGENET_DATA} == IMAGENET_DATA
    assert changed <= free


@pytest.mark.parametrize(
    ("name", "total", "paper"),
    [("small", 1_713_790, 17_050), ("medium", None, 53_650), ("large", None, 105_500)],
)
def test_the_files_give_the_papers_numbers_of_weights(name: str, total: int | None, paper: int) -> None:
    found = config.load(CONFIGS / f"cifar10_dass_{name}.toml")
    make = NETWORKS[found.network.name].make
    model = make(PUBLISHED["dass_99"], found.network.fields, 10, False, layers.one_device, None)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 32, 3)))[variables.PARAMS]
    leaves = variables.layers(params, variables.prunable(params, model.rules))
    prunable = sum(count * size for _, count, size in leaves)
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert total in (None, size)
    assert accounting.paper_kept(prunable, size - prunable, found.sparsity.keep) == paper


def test_toml_round_trip_is_exact(tmp_path: pathlib.Path) -> None:
    space, method = (Config().space.fields, Config().method.fields)
    wanted = Config(
        controls=(),
        space=Chosen("darts", dataclasses.replace(space, stem="imagenet")),
        method=Chosen("dass", dataclasses.replace(method, theta_lr=1e-300)),
        hypergradient=AXES["hypergradient"].chosen("neumann"),
        train=AXES["train"].chosen("dense"),
        data=config.Data(source='a "quoted" \\ ü.npz', validation_fraction=0.1 + 0.2),
        runtime=config.Runtime(compilation_cache=""),
    )
    text = config.to_toml(wanted)
    assert config.load(written(tmp_path, text)) == wanted
    assert config.to_toml(config.load(written(tmp_path, text))) == text
    assert config.load(written(tmp_path, "")) == Config()


@pytest.mark.parametrize(
    ("text", "method", "controls", "called"),
    [
        ("", "dass", ("darts", "random"), "dass"),
        ('[method]\nname = "random"', "random", (), "random"),
        ('[method]\nname = "darts"', "darts", ("random",), "darts"),
        ('[method]\nname = "dass_op"', "dass_op", ("darts", "random"), "dass_op"),
        ('architecture = "darts_v2"', "given", (), "darts_v2"),
        ('architecture = "darts_v2"\ncontrols = ["random"]', "given", ("random",), "darts_v2"),
        ('[network]\nname = "mobilenet_v2"', "given", (), "mobilenet_v2"),
        ('architecture = "darts_v2"\n[network]\nname = ""', "given", (), "darts_v2"),
    ],
)
def test_what_is_not_said_follows_from_what_is(
    text: str, method: str, controls: tuple[str, ...], called: str, tmp_path: pathlib.Path
) -> None:
    found = config.load(written(tmp_path, text))
    assert (found.method.name, found.controls, title(found)) == (method, controls, called)
    assert found.network.name == ("mobilenet_v2" if called == "mobilenet_v2" else "darts")
    assert config.load(written(tmp_path, config.to_toml(found))) == found


def test_an_architecture_files_content_is_kept_and_not_its_path(tmp_path: pathlib.Path) -> None:
    cell = (("skip_connect", 0), ("sep_conv_3x3", 1))
    path, other = tmp_path / "mine.json", tmp_path / "published.json"
    path.write_text(json.dumps(architectures.to_json(Genotype((cell,), (cell,))), indent=2), encoding="utf-8")
    other.write_text(json.dumps(architectures.to_json(PUBLISHED["dass_95"])), encoding="utf-8")
    found = config.from_dict({"architecture": str(path)})
    path.unlink()
    again = config.load(written(tmp_path, config.to_toml(found)))
    assert again == found and title(again) == "architecture"
    assert architectures.load(again.architecture) == Genotype((cell,), (cell,))
    assert config.from_dict({"architecture": str(other)}).architecture == "dass_95"


def test_an_integer_is_a_number(tmp_path: pathlib.Path) -> None:
    clip = config.load(written(tmp_path, "[train]\nclip = 3")).train.fields.clip
    assert clip == 3.0 and type(clip) is float


OTHER_MEMBERS = {"space": Chosen("other", Config().space.fields), "task": Chosen("other", Config().task.fields)}
OTHER_MEMBERS |= {"method": AXES["method"].chosen("darts"), "hypergradient": AXES["hypergradient"].chosen("neumann")}
OTHER_MEMBERS |= {"network": AXES["network"].chosen("resnet18"), "train": AXES["train"].chosen("dense")}


def test_digest_and_differences_see_every_field_that_changes_the_result() -> None:
    other = {int: 7, float: 0.123, str: "else"}
    for name, value in config.flatten(Config()).items():
        table, _, field = name.partition(".")
        if table in AXES and field == AXES[table].tag:
            continue
        switched = not value if isinstance(value, bool) else other.get(type(value))
        new: Any = {"controls": (), "plugins": ("mine",)}.get(name, switched)
        changed = _replaced(Config(), name, new)
        seen = name not in config.NOT_IN_RESULT
        lines = [f"{name}: {value!r} in the folder, {new!r} asked for"] if seen else []
        assert config.differences(Config(), changed) == lines
        assert (config.digest(changed) != config.digest(Config())) == seen
    assert len(config.digest(Config())) == 8 and int(config.digest(Config()), 16) >= 0


@pytest.mark.parametrize("axis", AXES)
def test_digest_and_differences_see_every_member(axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new, tag = OTHER_MEMBERS[axis], AXES[axis].tag
    changed = dataclasses.replace(Config(), **{axis: new})
    lines = config.differences(Config(), changed)
    assert f"{axis}.{tag}: {getattr(Config(), axis).name!r} in the folder, {new.name!r} asked for" in lines
    assert config.digest(changed) != config.digest(Config())


def _replaced(found: Config, name: str, value: Any) -> Config:
    table, _, field = name.partition(".")
    if not field:
        return dataclasses.replace(found, **{table: value})
    now = getattr(found, table)
    if isinstance(now, Chosen):
        new: Any = dataclasses.replace(now, fields=dataclasses.replace(now.fields, **{field: value}))
    else:
        new = dataclasses.replace(now, **{field: value})
    return dataclasses.replace(found, **{table: new})


SEARCHES = (
    "'dass', 'dass_op', 'dass_joint', 'darts', 'scas_darts', 'entmax', 'dso', 'enas', 'scas_enas', 'shared_random', "
    "'smash', 'scas_smash', 'random', 'whole'"
)
BAD_FILES = {
    "not TOML": ("seed = 1\nseeds = two", "is not TOML: Invalid value (at line 2, column 9); allowed: TOML"),
    "given twice": ("seed = 1\nseed = 2\n", "is not TOML: Cannot overwrite a value (at line 2, "),
    "unknown key": ("sed = 1", "unknown key 'sed' (did you mean 'seed'?); allowed: seed, seeds, controls, "),
    "unknown table": ("[spcae]\ncells = 1", "unknown key 'spcae' (did you mean 'space'?); allowed: "),
    "unknown in a table": ("[data]\nflipp = true", "unknown key 'data.flipp' (did you mean 'flip'?); allowed: source"),
    "unknown in a union": (
        "[method]\nepoch = 1",
        "unknown key 'method.epoch' (did you mean 'epochs'?); allowed: what method 'dass' has: epochs, ",
    ),
    "of another member": (
        '[method]\nname = "darts"\nprune_epochs = 1',
        "unknown key 'method.prune_epochs' (did you mean 'epochs'?) ('dass' has it); allowed: what method 'darts' has:",
    ),
    "of several others": (
        '[method]\nname = "random"\nbatch_size = 8',
        "unknown key 'method.batch_size' ('dass', 'dass_op', 'dass_joint', 'darts', 'scas_darts', 'entmax', 'dso', "
        "'enas', 'scas_enas', 'shared_random', 'smash', 'scas_smash' have it); "
        "allowed: none, as method 'random' has no fields",
    ),
    "of another estimator": ("[hypergradient]\nsteps = 2", "'hypergradient.steps' ('unrolled' has it); allowed: none"),
    "of another network": (
        '[network]\nname = "resnet18"\nstem = "imagenet"',
        "unknown key 'network.stem' ('darts' has it); allowed: what network 'resnet18' has: width, drop_path",
    ),
    "width of cells": (
        "[network]\nwidth = 0.5",
        "'network.width' ('resnet18', 'mobilenet_v2', 'efficientnet_v2_s'",
    ),
    "no table": ("data = 5", "data = 5; allowed: a table"),
    "no union": ("space = 5", "space = 5; allowed: a table"),
    "array of tables": ("[[method]]\nepochs = 1", "method = [{'epochs': 1}]; allowed: a table"),
    "table for value": ("[seed]\nx = 1", "seed = {'x': 1}; allowed: an integer in [0, 2147483647]"),
    "text for integer": ('[method]\nepochs = "5"', "method.epochs = '5'; allowed: an integer in [1, 1000000]"),
    "fraction for integer": ("[method]\nepochs = 5.7", "method.epochs = 5.7; allowed: an integer in [1, 1000000]"),
    "true for integer": ("[method]\nepochs = true", "method.epochs = True; allowed: an integer in [1, 1000000]"),
    "true for number": ("[method]\nclip = true", "method.clip = True; allowed: a number greater than 0"),
    "text for number": ('[method]\nclip = "5"', "method.clip = '5'; allowed: a number greater than 0"),
    "1 for true": ("[data]\nflip = 1", "data.flip = 1; allowed: true or false"),
    "number for text": ("[data]\nsource = 3", "data.source = 3; allowed: 'digits', 'tfds:NAME' or the path"),
    "empty text": ('[data]\nsource = " "', "data.source = ' '; allowed: 'digits', 'tfds:NAME' or the path"),
    "line break": ('[data]\nsource = "a\\nb"', "data.source = 'a\\nb'; allowed: 'digits', 'tfds:NAME' or the path"),
    "nan": ("[sparsity]\nkeep = nan", "sparsity.keep = nan; allowed: a number in (0, 1]"),
    "infinite": ("[method]\nclip = inf", "method.clip = inf; allowed: a number greater than 0"),
    "no float so large": (f"[method]\nclip = 1{'0' * 400}", "...; allowed: a number greater than 0"),
    "above": ("[sparsity]\nkeep = 1.5", "sparsity.keep = 1.5; allowed: a number in (0, 1]"),
    "open end": ("[sparsity]\nkeep = 0", "sparsity.keep = 0; allowed: a number in (0, 1]"),
    "other open end": ("[network]\ndrop_path = 1.0", "network.drop_path = 1.0; allowed: a number in [0, 1)"),
    "no epochs": ("[method]\nprune_epochs = 0", "method.prune_epochs = 0; allowed: an integer in [1, 1000000]"),
    "too many nodes": ("[space]\nnodes = 9", "space.nodes = 9; allowed: an integer in [1, 8]"),
    "negative": ("[data]\nlimit = -1", "data.limit = -1; allowed: an integer of at least 0"),
    "negative rate": ("[method]\nweight_decay = -1.0", "method.weight_decay = -1.0; allowed: a number of at least 0"),
    "one checkpoint": (
        "[runtime]\ncheckpoints_to_keep = 1",
        "runtime.checkpoints_to_keep = 1; allowed: an integer in [2",
    ),
    "wrong choice": (
        '[space]\nstem = "cifr"',
        "space.stem = 'cifr' (did you mean 'cifar'?); allowed: 'cifar', ",
    ),
    "wrong space": ('[space]\nname = "dart"', "space.name = 'dart' (did you mean 'darts'?); allowed: 'darts'"),
    "wrong method": (
        '[method]\nname = "das"',
        f"'das' (did you mean 'dass'?); allowed: {SEARCHES}, 'given'",
    ),
    "wrong estimator": ('[hypergradient]\nname = "neuman"', "hypergradient.name = 'neuman' (did you mean 'neumann'?)"),
    "wrong task": ('[task]\nname = "regression"', "task.name = 'regression'"),
    "wrong network": (
        '[network]\nname = "resnet"',
        "'resnet' (did you mean 'resnet18'?); allowed: 'darts', 'resnet18'",
    ),
    "wrong recipe": ('[train]\nrecipe = "pruned"', "train.recipe = 'pruned' (did you mean 'prune'?); allowed: 'prune'"),
    "name of a recipe": ('[train]\nname = "prune"', "unknown key 'train.name'"),
    "choice of wrong type": ("[method]\nname = []", f"method.name = []; allowed: {SEARCHES}, 'given'"),
    "list expected": ('controls = "random"', f"controls = 'random'; allowed: a list of {SEARCHES}"),
    "wrong item": ('controls = ["given"]', f"controls = 'given'; allowed: {SEARCHES}"),
    "control twice": ('controls = ["random", "random"]', "allowed: different methods, none of them the main one"),
    "control is method": ('controls = ["dass"]', "controls = ['dass']; allowed: different methods"),
    "control without a budget": (
        'controls = ["dass"]\n[method]\nname = "darts"\nepochs = 20',
        "controls = ['dass']: 'dass' takes 40 epochs and the main method 20; allowed: methods of the same budget",
    ),
    "nothing given": (
        '[method]\nname = "given"',
        "method.name = 'given' without an architecture; allowed: architecture = NAME_OR_FILE",
    ),
    "architecture and search": (
        'architecture = "dass_99"\n[method]\nname = "dass"',
        "architecture = 'dass_99' with method.name = 'dass'; allowed: method.name = 'given', or architecture = ''",
    ),
    "unknown architecture": (
        'architecture = "dass_9"',
        "architecture 'dass_9' is unknown (did you mean 'dass_99'?); allowed: ",
    ),
    "damaged architecture": ("architecture = '{'", "architecture is damaged: "),
    "network and search": (
        '[method]\nname = "random"\n[network]\nname = "resnet18"',
        "network.name = 'resnet18' with method.name = 'random'; allowed: method.name = 'given'",
    ),
    "network and architecture": (
        'architecture = "dass_99"\n[network]\nname = "resnet18"',
        "architecture = 'dass_99' with network.name = 'resnet18'; allowed: with the network of an architecture",
    ),
    "network and controls": (
        'controls = ["random"]\n[network]\nname = "resnet18"',
        "controls = ['random'] with network.name = 'resnet18'; allowed: with the network of an architecture",
    ),
    "odd channels": ('[space]\nstem = "imagenet"\nchannels = 9', "space.channels = 9; allowed: an even number"),
    "an estimator that nobody uses": (
        'controls = []\n[method]\nname = "random"\n[hypergradient]\nname = "unrolled"',
        "hypergradient.name = 'unrolled' with method.name = 'random', which has no use for it; allowed: with 'dass', ",
    ),
    "too large a seed": (
        "seed = 2147483647\nseeds = 2",
        "allowed: seeds up to 2147483647, and the last one would be ",
    ),
    "boxes without streaming": ("[data]\ncrop_scale = 0.1", "data.crop_scale = 0.1 with data.streaming = false, "),
    "an early stop of several seeds": (
        "seeds = 2\n[method]\nstop_at_skips = 2",
        "method.stop_at_skips = 2 with seeds = 2, which search in step; allowed: 0, or runs of one seed",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_wrong_files_are_refused(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(written(tmp_path, text))
    assert message in one_line(caught) and "run.toml'" in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"seed = \xff")
    for name, message in (
        ("none.toml", "none.toml' cannot be read: No such file or directory; allowed: a TOML file"),
        (".", "cannot be read: Is a directory; allowed: a TOML file"),
        ("bytes.toml", "bytes.toml' is not TOML: 'utf-8' codec can't decode byte 0xff"),
    ):
        with pytest.raises(UserError) as caught:
            config.load(tmp_path / name)
        assert message in one_line(caught)


def test_the_names_and_arguments_of_estimators_are_those_that_exist() -> None:
    wanted = {name: tuple(inspect.signature(made).parameters) for name, made in bilevel.ESTIMATORS.items()}
    assert wanted == {name: tuple(config.hints(schema)) for name, schema in FIELDS.items()}
