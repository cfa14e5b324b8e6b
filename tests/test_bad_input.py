"""Everything a user can get wrong: one line that says what and what is allowed, exit code 2, and no file touched."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from dass_jax import count, train
from dass_jax.errors import guarded

ROOT = pathlib.Path(train.__file__).parents[1]
PLAIN = "[network]\ncells = 1\nauxiliary = false\n[runtime]\ncompilation_cache = ''\n"
"""A configuration with nothing wrong."""


@pytest.fixture(autouse=True)
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The working folder, where a run without --workdir would make its folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


def check(code: int, out: str, err: str, named: Sequence[str]) -> None:
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert "allowed" in err and "Traceback" not in err
    assert not [text for text in named if text not in err], err


def refused(argv: Sequence[str], named: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`argv` is refused with a line that has all of `named`, and leaves the working folder as it is."""
    before = snapshot(pathlib.Path())
    code = guarded(lambda: train.main(list(argv)))
    check(code, *capsys.readouterr(), named)
    assert snapshot(pathlib.Path()) == before


def write(text: str, name: str = "run.toml") -> str:
    pathlib.Path(name).write_text(text, encoding="utf-8")
    return name


def test_no_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    refused([], ["--config"], capsys)
    refused(["--config", "absent.toml"], ["'absent.toml'", "No such file", "a TOML file"], capsys)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[method\nepochs = 3", ["is not TOML", "line 1"]),
        ("[method]\nepoch = 3", ["method.epoch", "did you mean 'epochs'?"]),
        ("[metod]\nepochs = 3", ["metod", "did you mean 'method'?"]),
        ("[search]\nepochs = 3", ["'search.epochs'", "in its place method.epochs"]),
        ('[method]\nepochs = "5"', ["method.epochs = '5'", "an integer"]),
        ("[method]\nepochs = 5.7", ["method.epochs = 5.7", "an integer"]),
        ("[data]\nflip = 1", ["data.flip = 1", "true or false"]),
        ("method = 3", ["method = 3", "a table"]),
        ("[sparsity]\nkeep = 0", ["sparsity.keep = 0", "(0, 1]"]),
        ("[sparsity]\nkeep = 1.5", ["sparsity.keep = 1.5", "(0, 1]"]),
        ("[sparsity]\nkeep = nan", ["sparsity.keep = nan", "(0, 1]"]),
        ("[train]\npretrain_epochs = -1", ["train.pretrain_epochs = -1", "[1, 1000000]"]),
        ('[method]\nname = "das"', ["method.name = 'das'", "'dass'"]),
        ('controls = ["dass"]', ["controls = ['dass']", "none of them the main one"]),
    ],
)
def test_a_wrong_file_names_the_field(text: str, named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(["--config", write(text)], ["run.toml", *named], capsys)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--method.epoch 5", ["--method.epoch", "did you mean '--method.epochs'?"]),
        ("--method.epochs five", ["method.epochs = 'five'", "an integer"]),
        ("--sparsity.keep 2", ["sparsity.keep = 2.0", "(0, 1]"]),
        ("--data.limit 100000", ["data.limit = 100000", "1437"]),
        ("--data.limit 96", ["method.batch_size = 64", "at most 48"]),
        ("--data.limit 100 --method.batch-size 8", ["train.batch_size = 128", "at most 100"]),
        ("--runtime.devices 64", ["runtime.devices = 64", "0 (all) to 2"]),
        ("--runtime.devices 2 --train.batch-size 33", ["train.batch_size = 33", "32 or 34"]),
        ("--runtime.devices 2 --train.accumulate 5", ["train.accumulate = 5", "a divisor of 64", "4 or 8"]),
        ("--runtime.devices 1 --method.accumulate 0", ["method.accumulate = 0", "[1, 1000000]"]),
        ("--network.auxiliary", ["network.auxiliary = true", "pixels", "network.auxiliary = false"]),
        ("--data.source absent.npz", ["data.source = 'absent.npz'", "does not exist", "'digits'"]),
        ("--data.source .", ["data.source", "is a folder"]),
        ("--data.source run.toml", ["data.source = 'run.toml'", "not an .npz file"]),
        ("--architecture absent.json", ["architecture file 'absent.json'", "No such file"]),
        ("--network resnet", ["network.name = 'resnet'", "did you mean 'resnet18'?"]),
        ("--workdir run.toml", ["--workdir = 'run.toml'", "a folder"]),
    ],
)
def test_a_wrong_flag_names_the_field(flags: str, named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(["--config", write(PLAIN), *flags.split()], named, capsys)


def images(number: int = 130, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """A good data set of 8×8 images in three classes, with some arrays replaced or, by None, left out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray | None] = {
        f"{part}_{name}": array
        for part in ("train", "test")
        for name, array in (
            ("images", rng.integers(0, 256, (number, 8, 8, 1), np.uint8)),
            ("labels", np.arange(number) % 3),
        )
    }
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train_labels": None, "test_images": None}, ["has no train_labels, test_images", "there is: train_images"]),
        ({"train_labels": np.full(130, -1)}, ["train_labels holds -1", "0 to"]),
        ({"test_labels": np.full(130, 10**7)}, ["test_labels holds 10000000", "0 to"]),
        ({"test_labels": np.zeros(129, int)}, ["test_labels has shape 129", "130, one label for each image"]),
        ({"train_labels": np.zeros(130)}, ["train_labels has type float64", "integers"]),
        ({"train_images": np.zeros((130, 64), np.uint8)}, ["train_images has shape 130×64", "N×H×W×C or N×H×W"]),
        ({"train_images": np.zeros((130, 8, 8, 1), np.float32)}, ["train_images has type float32", "uint8"]),
        ({"test_images": np.zeros((130, 9, 8, 1), np.uint8)}, ["130×9×8×1", "the same height, width and channels"]),
    ],
)
def test_wrong_data_name_the_array(
    changes: dict[str, np.ndarray | None], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("some.npz", **images(**changes))
    refused(["--config", write(PLAIN), "--data.source", "some.npz"], ["data.source = 'some.npz'", *named], capsys)


def test_a_damaged_data_file(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("some.npz", **images())
    path = pathlib.Path("some.npz")
    path.write_bytes(path.read_bytes()[:-200])
    refused(["--config", write(PLAIN), "--data.source", "some.npz"], ["data.source = 'some.npz'"], capsys)


def test_a_run_folder_of_another_configuration_is_left_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dass_jax import pipeline

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", stop)
    argv = ["--config", write(PLAIN), "--workdir", "mine"]
    assert guarded(lambda: train.main(argv)) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert sorted(path.name for path in pathlib.Path("mine").iterdir()) == [
        *("config.toml", "data.json", "environment.json", "lock"),
    ]
    write('{"epoch": 1}\n', "mine/metrics.jsonl")
    named = ["--workdir = 'mine'", "sparsity.keep: 0.01 in the folder, 0.5 asked for", "seed: 0 in the folder, 7 asked"]
    refused([*argv, "--sparsity.keep", "0.5", "--seed", "7"], named, capsys)
    named = ["runtime.precision: 'float32' in the folder, 'bfloat16' asked for"]
    refused([*argv, "--runtime.precision", "bfloat16"], named, capsys)
    # What cannot change a number may differ.
    assert guarded(lambda: train.main([*argv, "--runtime.checkpoints-to-keep", "9"])) == 130


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `… --help | head`: nobody reads any more when the command writes."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "dass_jax.train", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_run_folder_in_which_no_epoch_has_ended_can_have_another_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dass_jax import config, pipeline

    def stop(*arguments: object) -> None:
        write("", "mine/metrics.jsonl")
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", stop)
    argv = ["--config", write(PLAIN), "--workdir", "mine"]
    for keep in ("0.25", "0.5"):
        assert guarded(lambda keep=keep: train.main([*argv, "--sparsity.keep", keep])) == 130
        assert config.load("mine/config.toml").sparsity.keep == float(keep)


def test_a_folder_that_is_no_run_folder_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    pathlib.Path("thesis").mkdir()
    write("three years of work", "thesis/chapter1.txt")
    refused(["--config", write(PLAIN), "--workdir", "thesis"], ["--workdir = 'thesis'", "a new or an empty"], capsys)


def test_a_run_folder_whose_config_is_damaged_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    pathlib.Path("mine").mkdir()
    write("[method\n", "mine/config.toml")
    refused(["--config", write(PLAIN), "--workdir", "mine"], ["mine/config.toml", "is not TOML"], capsys)


@pytest.mark.parametrize("text", [None, '{"normal": 3}', "{"])
def test_a_wrong_architecture(text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    name = "dass_98" if text is None else write(text, "architecture.json")
    before = snapshot(pathlib.Path())
    code = guarded(lambda: count.main(["--architecture", name]))
    check(code, *capsys.readouterr(), [name])
    assert snapshot(pathlib.Path()) == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--config", "absent.toml"], ["'absent.toml'", "a TOML file"]),
        (["--config", "run.toml", "--data.limit", "96"], ["method.batch_size = 64", "at most 48"]),
    ],
)
def test_the_command_itself_exits_with_2(flags: list[str], named: list[str]) -> None:
    write(PLAIN)
    before = snapshot(pathlib.Path())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "dass_jax.train", *flags], capture_output=True, text=True, env=environment, check=False
    )
    check(done.returncode, done.stdout, done.stderr, named)
    assert snapshot(pathlib.Path()) == before


def test_a_good_configuration_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests here would pass for nothing if what they start from were wrong."""
    from dass_jax import pipeline, report

    seen = []
    monkeypatch.setattr(pipeline, "run", lambda setting, *_: seen.append(setting) or {})
    monkeypatch.setattr(report, "build", lambda path: path / "report.html")
    monkeypatch.setattr(report, "table", json.dumps)
    np.savez("some.npz", **images())
    assert guarded(lambda: train.main(["--config", write(PLAIN), "--data.source", "some.npz"])) == 0
    assert seen[0].dataset.classes == 3 and seen[0].image_shape == (8, 8, 1)
    assert [path.name.rsplit("-", 1)[0] for path in pathlib.Path("runs").iterdir()] == ["run-seed0"]
