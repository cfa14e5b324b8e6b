"""The command line of a run: overrides, `--help`, and one line for each wrong flag."""

import ast
import dataclasses
import inspect
import itertools
import pathlib
import subprocess
import sys
import textwrap

import pytest

from dass_jax import config
from dass_jax.config import AXES, Chosen, Config
from dass_jax.errors import UserError
from dass_jax.methods import METHODS
from dass_jax.spaces import SPACES
from tests.config_files import one_line, written


def _parse(folder: pathlib.Path, *overrides: str, text: str = "[method]\nepochs = 9") -> config.Invocation:
    return config.parse(["--config", written(folder, text), *overrides], "train")


def test_the_command_line_overrides_the_file(tmp_path: pathlib.Path) -> None:
    text = "[method]\nepochs = 9\n[space]\ncells = 3"
    found = _parse(
        tmp_path, "--method.epochs=5", "--method.prune-epochs", "3", "--seed", "4", "--data.no-flip", text=text
    )
    wanted = config.from_dict(
        {"seed": 4, "data": {"flip": False}, "space": {"cells": 3}, "method": {"epochs": 5, "prune_epochs": 3}}
    )
    assert found == (wanted, tmp_path / "run.toml", None)


def test_the_order_of_flags_is_free_and_workdir_is_apart(tmp_path: pathlib.Path) -> None:
    argv = ["--method.prune_epochs", "3", f"--config={written(tmp_path, '')}", "--workdir", str(tmp_path / "run")]
    found = config.parse(argv, "train")
    assert found.workdir == tmp_path / "run" and found.config.method.fields.prune_epochs == 3


def test_lists_and_empty_text_on_the_command_line(tmp_path: pathlib.Path) -> None:
    assert _parse(tmp_path, "--controls").config.controls == ()
    assert _parse(tmp_path, "--controls", "random", "--seed", "1").config.controls == ("random",)
    swapped = _parse(tmp_path, "--method", "random", "--controls", "dass", "darts").config
    assert (swapped.method.name, swapped.controls) == ("random", ("dass", "darts"))
    assert _parse(tmp_path, "--runtime.compilation-cache=").config.runtime.compilation_cache == ""
    assert _parse(tmp_path, "--data.source=-x.npz").config.data.source == "-x.npz"


def test_the_last_of_equal_flags_holds(tmp_path: pathlib.Path) -> None:
    found = _parse(tmp_path, "--seed", "1", "--method", "darts", "--seed=2", "--method.name", "dass_op").config
    assert (found.seed, found.method.name) == (2, "dass_op")


MEMBER_OF = {
    (axis, field): name
    for axis in AXES
    for name in reversed(AXES[axis].members)
    for field in config.hints(AXES[axis].schema(name))
}
"""A field's first member: it cannot be set without it."""


OF_A_KIND = {True: ("enas_macro", "enas"), "written": ("smash", "smash")}
"""A space and a method, by the kind of what is sampled."""


def chosen(axis: str, member: str) -> list[str]:
    """The flags that choose a member, and with it a space or a method that goes with it."""
    flags = [f"--{AXES[axis].short}", member]
    if axis == "method" and METHODS[member].sampled:
        flags += ["--space", OF_A_KIND[METHODS[member].sampled][0]]
    if axis == "network" and member in SPACES:
        flags += ["--space", member]
    if axis in ("space", "network") and member in SPACES and SPACES[member].sampled:
        flags += ["--method", OF_A_KIND[SPACES[member].sampled][1]]
    return flags


NEEDED = {"data.crop_scale": ["--data.streaming", "--data.image_size", "64", "--data.crop_padding", "0"]}
"""Fields that can only be changed together with others."""
SPECIAL = {
    "architecture": "dass_99",
    "data.statistics": "imagenet",
    "method.budget": "flops",
    "method.entmax": "2.5",
    "method.form": "prox",
    "method.order": "lower_first",
    "method.rebuild": "0.5",
    "method.removal": "never",
    "network.backbone": "cpu",
    "network.stem": "imagenet",
    "parallel.axis": "seeds",
    "method.step2": "both",
    "runtime.nonfinite": "skip",
    "runtime.precision": "bfloat16",
    "space.backbone": "cpu",
    "space.most_budget": "0.5",
    "space.extent": "11",
    "space.filters": "32",
    "space.groups": "4",
    "space.kernel": "5",
    "space.operations": "sep7",
    "space.scope": "full",
    "space.stem": "imagenet",
    "space.unit": "16",
    "sparsity.distribution": "erk",
    "train.decay": "linear",
}
"""Other values of fields that take only some texts."""
LEAVES = sorted({name for name, _ in config.leaves()} - {f"{axis}.{its.tag}" for axis, its in AXES.items()})


@pytest.mark.parametrize("name", sorted({*LEAVES, *(f"{axis}.{field}" for axis, field in MEMBER_OF)} - {"plugins"}))
def test_every_field_can_be_overridden_and_reaches_the_config(name: str, tmp_path: pathlib.Path) -> None:
    axis, _, field = name.partition(".")
    tags = chosen(axis, MEMBER_OF[axis, field]) if axis in AXES else []
    before = config.flatten(_parse(tmp_path, *tags, text="").config)
    flag, default = f"--{name}", before[name]
    if isinstance(default, bool):
        argv = [flag.replace(".", ".no-") if default else flag]
    elif name == "controls":
        argv = [flag, "random"]
    else:
        argv = [flag, SPECIAL.get(name, {int: "6", tuple: "6", float: "0.25", str: "other"}[type(default)])]
    extra = NEEDED.get(name, [])
    changed = config.flatten(_parse(tmp_path, *tags, *argv, *extra, text="").config)
    expected = {name} | {flag.removeprefix("--") for flag in extra if flag.startswith("--")}
    if name == "architecture":
        expected |= {"method.name", "controls"}
    assert {other for other in changed if changed[other] != before[other]} == expected


@pytest.mark.parametrize(
    ("text", "flags", "method", "controls"),
    [
        ("", "--method random", "random", ()),
        ("", "--method darts", "darts", ("random",)),
        ("", "--method.name darts", "darts", ("random",)),
        ('[method]\nname = "random"', "--method dass", "dass", ("darts", "random")),
        ("", "--architecture dass_99", "given", ()),
        ('[method]\nname = "dass"', "--architecture dass_99", "given", ()),
        ("", "--architecture dass_99 --controls random", "given", ("random",)),
        ('architecture = "dass_95"', "--architecture dass_99", "given", ()),
        ('architecture = "dass_95"', "--architecture= --method dass", "dass", ("darts", "random")),
        ('controls = ["dass_op"]', "--architecture dass_99", "given", ("dass_op",)),
        ("controls = []", "--method random", "random", ()),
        ("", "--network.name resnet18", "given", ()),
        ("", "--network resnet18", "given", ()),
    ],
)
def test_one_flag_is_enough_for_another_method(
    tmp_path: pathlib.Path, text: str, flags: str, method: str, controls: tuple[str, ...]
) -> None:
    found = _parse(tmp_path, *flags.split(), text=text).config
    assert (found.method.name, found.controls) == (method, controls)


def test_a_files_fields_go_along_to_another_member_that_has_them(tmp_path: pathlib.Path) -> None:
    text = "[method]\nepochs = 9\nprune_epochs = 3\nclip = 2\n[network]\ncells = 2\ndrop_path = 0.5\n"
    darts = _parse(tmp_path, "--method", "darts", text=text).config.method.fields
    assert (darts.epochs, darts.clip) == (12, 2.0) and not hasattr(darts, "prune_epochs")
    assert _parse(tmp_path, "--method", "darts", "--method.epochs", "4", text=text).config.method.fields.epochs == 4
    found = _parse(tmp_path, "--network", "resnet18", "--network.width", "0.5", text=text).config.network
    assert found == Chosen("resnet18", AXES["network"].schema("resnet18")(width=0.5, drop_path=0.5))
    dense = _parse(tmp_path, "--recipe", "dense", text="[train]\nbatch_size = 8\npretrain_lr = 1").config.train
    assert dense == Chosen("dense", AXES["train"].schema("dense")(batch_size=8))


BAD_FLAGS = {
    "unknown": (["--method.epoch", "3"], "unknown flag '--method.epoch' (did you mean '--method.epochs'?); allowed: "),
    "no table": (["--epochs", "3"], "unknown flag '--epochs' (did you mean '--method.epochs'?); allowed: see --help"),
    "of another method": (
        ["--method", "darts", "--method.prune-epochs", "3"],
        "unknown flag '--method.prune-epochs' ('dass' has it) (did you mean '--method.epochs'?); allowed: see --help",
    ),
    "of another estimator": (
        ["--hypergradient.steps", "3"],
        "'--hypergradient.steps' ('unrolled' has it)",
    ),
    "old": (["--search.epochs", "3"], "unknown flag '--search.epochs'; allowed: in its place --method.epochs"),
    "old switch": (["--search.no-none"], "unknown flag '--search.no-none'; allowed: in its place --space.none"),
    "old name": (["--genotype", "dass_99"], "unknown flag '--genotype'; allowed: in its place --architecture"),
    "old method": (["--method", "darts_sparse"], "method.name = 'darts_sparse'; allowed: in its place 'darts'"),
    "no such switch": (["--data.no-source"], "unknown flag '--data.no-source' (did you mean '--data.source'?)"),
    "of tyro": (["--tyro-print-completion", "bash"], "unknown flag '--tyro-print-completion'"),
    "two dashes": (["--"], "unknown flag '--'"),
    "one dash": (["-x"], "unexpected argument '-x'; allowed: --flag VALUE"),
    "left over": (["--seed", "1", "2"], "unexpected argument '2'; allowed: --flag VALUE"),
    "tag left over": (["--method", "dass", "darts"], "unexpected argument 'darts'; allowed: --flag VALUE"),
    "no value at the end": (
        ["--method.epochs"],
        "--method.epochs: no value given; allowed: an integer in [1, 1000000]",
    ),
    "no value before a flag": (
        ["--data.source", "--seed", "1"],
        "--data.source: no value given; allowed: 'digits', 'tfds:NAME' or",
    ),
    "no tag": (["--method"], "--method: no value given; allowed: 'dass', "),
    "no folder": (["--workdir"], "--workdir: no value given; allowed: the path of a folder"),
    "empty folder": (["--workdir="], "--workdir = ''; allowed: the path of a folder"),
    "no file": (["--config"], "--config: no value given; allowed: the path of a TOML file"),
    "no plugin": (["--plugins", "no.py"], "plugins = 'no.py': FileNotFoundError: "),
    "word": (["--method.epochs", "five"], "method.epochs = 'five'; allowed: an integer in [1, 1000000]"),
    "fraction": (["--method.epochs=5.7"], "method.epochs = '5.7'; allowed: an integer in [1, 1000000]"),
    "below": (["--method.epochs", "-3"], "method.epochs = -3; allowed: an integer in [1, 1000000]"),
    "above": (["--sparsity.keep", "1.5"], "sparsity.keep = 1.5; allowed: a number in (0, 1]"),
    "nan": (["--sparsity.keep", "nan"], "sparsity.keep = nan; allowed: a number in (0, 1]"),
    "minus infinity": (["--method.clip", "-inf"], "method.clip = -inf; allowed: a number greater than 0"),
    "choice": (["--method", "drats"], "method.name = 'drats' (did you mean 'darts'?); allowed: 'dass', 'dass_op', "),
    "item": (["--controls", "random", "no"], "controls = 'no' (did you mean 'random'?); allowed: 'dass', "),
    "switch with a value": (["--data.flip", "true"], "--data.flip = 'true'; allowed: the flag alone"),
    "switch with an equals sign": (["--data.no-flip=1"], "--data.no-flip = '1'; allowed: the flag alone"),
    "contradiction": (["--controls", "dass"], "controls = ['dass']; allowed: different methods"),
    "architecture and method": (
        ["--architecture", "dass_99", "--method", "dass"],
        "architecture = 'dass_99' with method.name = 'dass'; allowed: ",
    ),
    "network and controls": (["--network", "resnet18", "--controls", "random"], "with network.name = 'resnet18'"),
}


@pytest.mark.parametrize(("argv", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_wrong_flags_are_refused(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        _parse(tmp_path, *argv)
    assert message in one_line(caught)
    assert capfd.readouterr() == ("", "")


def test_config_is_required_and_its_faults_reach_the_user(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"--config is missing; allowed: --config NAME_OR_FILE"):
        config.parse(["--seed", "1"], "train")
    with pytest.raises(UserError, match=r"run\.toml': unknown key 'sed' "):
        _parse(tmp_path, text="sed = 1")


def _help(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command line prints that only asks for help, with single blanks."""
    with pytest.raises(SystemExit) as caught:
        config.parse(argv, "train")
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("text", [None, "[method]\nepochs = 987", '[method]\nname = "dass_joint"\nepochs = 987'])
def test_help_lists_every_field_of_what_is_chosen(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    printed = _help(capsys, *([] if text is None else ["--config", written(tmp_path, text)]), "--help")
    chosen = Config() if text is None else config.load(tmp_path / "run.toml")
    assert "--config FILE" in printed and "--workdir DIR" in printed and "settings" not in printed
    assert ("(default: 987)" in printed) == (text is not None)
    assert ("--method.prune-epochs" in printed) == (chosen.method.name == "dass")
    for name, said in _docstrings(chosen).items():
        assert f"--{name.replace('_', '-')}" in printed
        assert said in printed, name


def test_help_of_another_member_has_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    printed = _help(capsys, "--help", "--hypergradient", "unrolled", "--recipe", "dense")
    assert "--hypergradient.steps" in printed and "--train.lr" in printed and "--train.pretrain-lr" not in printed


def test_help_of_all_has_every_members_fields(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    printed = _help(capsys, "--help-all")
    for axis, its in AXES.items():
        for name in its.members:
            assert name in printed
            for field, said in _of_schema(its.schema(name)).items():
                assert f"--{axis}.{field.replace('_', '-')}" in printed
                assert said in printed, (name, field)


def _docstrings(chosen: Config) -> dict[str, str]:
    """The docstring under each field of a configuration, by dotted name, from the source."""
    found = {name: said for name, said in _of_schema(Config).items()}
    for field in dataclasses.fields(chosen):
        table = getattr(chosen, field.name)
        schema = type(table.fields if isinstance(table, Chosen) else table)
        if dataclasses.is_dataclass(schema):
            found |= {f"{field.name}.{name}": said for name, said in _of_schema(schema).items()}
    return found


def _of_schema(schema: type) -> dict[str, str]:
    found = {}
    for one in schema.__mro__[:-1]:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        for field, after in itertools.pairwise(node.body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(str(after.value.value).split())
    return found


def test_every_field_has_a_docstring() -> None:
    tags = {f"{axis}.{its.tag}" for axis, its in AXES.items()}
    assert set(_docstrings(Config())) == {name for name, _ in config.leaves()} - tags
    for axis in AXES.values():
        for name in axis.members:
            assert set(_of_schema(axis.schema(name))) == set(config.hints(axis.schema(name)))


def test_reading_a_command_line_starts_no_backend(tmp_path: pathlib.Path) -> None:
    code = f"""
from jax._src import xla_bridge

from dass_jax import config

config.parse(["--config", {written(tmp_path, "seed = 3")!r}, "--method", "darts"], "train")
assert not xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", code], cwd=config.find("digits_dass").parents[1], check=True, timeout=60)
