"""The command line of a run: overrides, `--help`, and one line for each wrong flag."""

import ast
import dataclasses
import inspect
import itertools
import pathlib

import pytest

from dass_jax import config as schema
from dass_jax import config_cli, config_io
from dass_jax.config import HYPERGRADIENT_ARGUMENTS, Config
from dass_jax.errors import UserError
from tests.config_files import one_line, written


def _parse(folder: pathlib.Path, *overrides: str, text: str = "[search]\nepochs = 9") -> config_cli.Invocation:
    return config_cli.parse(["--config", written(folder, text), *overrides], "train")


def test_the_command_line_overrides_the_file(tmp_path: pathlib.Path) -> None:
    text = "[search]\nepochs = 9\ncells = 3"
    found = _parse(
        tmp_path, "--search.epochs=5", "--search.prune-epochs", "3", "--seed", "4", "--data.no-flip", text=text
    )
    wanted = Config(seed=4, data=schema.Data(flip=False), search=schema.Search(cells=3, epochs=5, prune_epochs=3))
    assert found == (wanted, tmp_path / "run.toml", None)


def test_the_order_of_flags_is_free_and_workdir_is_apart(tmp_path: pathlib.Path) -> None:
    argv = ["--search.prune_epochs", "3", f"--config={written(tmp_path, '')}", "--workdir", str(tmp_path / "run")]
    found = config_cli.parse(argv, "train")
    assert found.workdir == tmp_path / "run" and found.config.search.prune_epochs == 3


def test_lists_and_empty_text_on_the_command_line(tmp_path: pathlib.Path) -> None:
    assert _parse(tmp_path, "--controls").config.controls == ()
    assert _parse(tmp_path, "--controls", "random", "--seed", "1").config.controls == ("random",)
    swapped = _parse(tmp_path, "--method", "random", "--controls", "dass", "darts_sparse").config
    assert (swapped.method, swapped.controls) == ("random", ("dass", "darts_sparse"))
    assert _parse(tmp_path, "--runtime.compilation-cache=").config.runtime.compilation_cache == ""
    assert _parse(tmp_path, "--data.source=-x.npz").config.data.source == "-x.npz"


ESTIMATOR_OF = {
    f"hypergradient.{field}": ["--search.hypergradient", name]
    for name, fields in HYPERGRADIENT_ARGUMENTS.items()
    for field in fields
}
"""An estimator's argument is refused without the estimator."""


NEEDED = {
    "method": ["--controls"],
    "network.width": ["--network.name", "resnet18"],
    "data.crop_scale": ["--data.streaming", "--data.image_size", "64", "--data.crop_padding", "0"],
}
"""Fields that can only be changed together with others."""


def test_every_field_can_be_overridden_and_reaches_the_config(tmp_path: pathlib.Path) -> None:
    kinds = {int: "6", float: "0.25", str: "other"}
    special = {
        "method": "random",
        "search.stem": "imagenet",
        "network.stem": "imagenet",
        "search.order": "lower_first",
        "search.hypergradient": "amended",
        "runtime.precision": "bfloat16",
        "runtime.nonfinite": "skip",
        "parallel.axis": "seeds",
        "network.name": "resnet18",
        "data.statistics": "imagenet",
        "genotype": "dass_99",
    }
    for name, default in config_io.flatten(Config()).items():
        flag = "--" + name
        if isinstance(default, bool):
            argv = [flag.replace(".", ".no-") if default else flag]
        else:
            argv = [flag, *(["random"] if name == "controls" else [special.get(name, kinds.get(type(default), ""))])]
        extra = {**NEEDED, **ESTIMATOR_OF}.get(name, [])
        changed = config_io.flatten(_parse(tmp_path, *argv, *extra, text="").config)
        expected = {name} | {flag.removeprefix("--") for flag in extra if flag.startswith("--")}
        if expected & {"genotype", "network.name"}:
            expected |= {"method", "controls"}
        assert {other for other in changed if changed[other] != config_io.flatten(Config())[other]} == expected


@pytest.mark.parametrize(
    ("text", "flags", "method", "controls"),
    [
        ("", "--method random", "random", ("darts_sparse",)),
        ("", "--method darts_sparse", "darts_sparse", ("random",)),
        ('method = "random"', "--method dass", "dass", ("darts_sparse", "random")),
        ("", "--genotype dass_99", "given", ()),
        ('method = "dass"', "--genotype dass_99", "given", ()),
        ("", "--genotype dass_99 --controls random", "given", ("random",)),
        ('genotype = "dass_95"', "--genotype dass_99", "given", ()),
        ('genotype = "dass_95"', "--genotype= --method dass", "dass", ("darts_sparse", "random")),
        ('controls = ["dass_op"]', "--genotype dass_99", "given", ("dass_op",)),
        ("controls = []", "--method random", "random", ()),
        ("", "--network.name resnet18", "given", ()),
    ],
)
def test_one_flag_is_enough_for_another_method(
    tmp_path: pathlib.Path, text: str, flags: str, method: str, controls: tuple[str, ...]
) -> None:
    config = _parse(tmp_path, *flags.split(), text=text).config
    assert (config.method, config.controls) == (method, controls)


BAD_FLAGS = {
    "unknown": (["--search.epoch", "3"], "unknown flag '--search.epoch' (did you mean '--search.epochs'?); allowed: "),
    "no section": (["--epochs", "3"], "unknown flag '--epochs' (did you mean '--search.epochs'?); allowed: see --help"),
    "no such switch": (["--data.no-source"], "unknown flag '--data.no-source' (did you mean '--data.source'?)"),
    "of tyro": (["--tyro-print-completion", "bash"], "unknown flag '--tyro-print-completion'"),
    "two dashes": (["--"], "unknown flag '--'"),
    "one dash": (["-x"], "unexpected argument '-x'; allowed: --flag VALUE"),
    "left over": (["--seed", "1", "2"], "unexpected argument '2'; allowed: --flag VALUE"),
    "no value at the end": (
        ["--search.epochs"],
        "--search.epochs: no value given; allowed: an integer in [1, 1000000]",
    ),
    "no value before a flag": (
        ["--data.source", "--seed", "1"],
        "--data.source: no value given; allowed: 'digits', 'tfds:NAME' or",
    ),
    "no folder": (["--workdir"], "--workdir: no value given; allowed: the path of a folder"),
    "empty folder": (["--workdir="], "--workdir = ''; allowed: the path of a folder"),
    "no file": (["--config"], "--config: no value given; allowed: the path of a TOML file"),
    "word": (["--search.epochs", "five"], "search.epochs = 'five'; allowed: an integer in [1, 1000000]"),
    "fraction": (["--search.epochs=5.7"], "search.epochs = '5.7'; allowed: an integer in [1, 1000000]"),
    "below": (["--search.epochs", "-3"], "search.epochs = -3; allowed: an integer in [1, 1000000]"),
    "above": (["--sparsity.keep", "1.5"], "sparsity.keep = 1.5; allowed: a number in (0, 1]"),
    "nan": (["--sparsity.keep", "nan"], "sparsity.keep = nan; allowed: a number in (0, 1]"),
    "minus infinity": (["--search.clip", "-inf"], "search.clip = -inf; allowed: a number greater than 0"),
    "choice": (["--method", "darts"], "method = 'darts'; allowed: 'dass', 'dass_op', 'dass_joint', "),
    "item": (["--controls", "random", "no"], "controls = 'no'; allowed: 'dass', 'dass_op', "),
    "switch with a value": (["--data.flip", "true"], "--data.flip = 'true'; allowed: the flag alone"),
    "switch with an equals sign": (["--data.no-flip=1"], "--data.no-flip = '1'; allowed: the flag alone"),
    "contradiction": (["--controls", "dass"], "controls = ['dass']; allowed: different methods"),
    "genotype and method": (
        ["--genotype", "dass_99", "--method", "dass"],
        "genotype = 'dass_99' with method = 'dass'; allowed: ",
    ),
    "network and controls": (["--network.name", "resnet18", "--controls", "random"], "with network.name = 'resnet18'"),
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
    with pytest.raises(UserError, match=r"--config is missing; allowed: --config FILE"):
        config_cli.parse(["--seed", "1"], "train")
    with pytest.raises(UserError, match=r"run\.toml': unknown key 'sed' "):
        _parse(tmp_path, text="sed = 1")


def test_what_only_tyro_refuses_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_cli, "_flags_given", lambda argv: [("--config", [argv[1]])])
    with pytest.raises(UserError) as caught:
        _parse(tmp_path, "--search.epochs", "five")
    message = one_line(caught)
    assert message.startswith("command line refused: ") and "five" in message and "─" not in message


@pytest.mark.parametrize("with_file", [False, True])
def test_help_lists_every_field(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, with_file: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    argv = ["--config", written(tmp_path, "[search]\nepochs = 987")] if with_file else []
    with pytest.raises(SystemExit) as caught:
        config_cli.parse([*argv, "--help"], "train")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "--config FILE" in printed and "--workdir DIR" in printed and "settings" not in printed
    assert ("(default: 987)" in printed) == with_file
    plain = " ".join(printed.replace("│", " ").split())
    for name, text in _docstrings().items():
        assert f"--{name.replace('_', '-')}" in printed
        assert " ".join(text.split()) in plain, name


def _docstrings() -> dict[str, str]:
    """The docstring under each field, by dotted name, from the source."""
    classes = {node.name: node for node in ast.parse(inspect.getsource(schema)).body if isinstance(node, ast.ClassDef)}
    sections = {"": "Config"} | {
        f"{field.name}.": type(getattr(Config(), field.name)).__name__
        for field in dataclasses.fields(Config)
        if dataclasses.is_dataclass(getattr(Config(), field.name))
    }
    found = {}
    for prefix, name in sections.items():
        body = classes[name].body
        for node, after in itertools.pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[f"{prefix}{ast.unparse(node.target)}"] = str(after.value.value)
    return found


def test_every_field_has_a_docstring() -> None:
    assert set(_docstrings()) == {name for name, _ in config_io.leaves()}
