"""Data are part of a run: one is trained on wide pictures of every kind, then its data change, move and go.

The commands are those of a user; the run is done once.
"""

import contextlib
import io
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from dass_jax import train
from dass_jax.config import load
from dass_jax.deploy import __main__ as deploy
from dass_jax.deploy import check, files, images, source
from dass_jax.deploy.check import Outcome
from dass_jax.errors import UserError, guarded
from dass_jax.latency import __main__ as latency
from dass_jax.report.page import build as page_of
from dass_jax.runtime import checkpoint, networks, origin
from tests.runs import results, undrawn, workplace

CELL = "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
CONFIG = f"""
architecture = "{CELL}"
data = {{ source = "pictures", image_size = 8 }}
network = {{ cells = 1, channels = 3 }}
[train]
recipe = "dense"
epochs = 1
batch_size = 8
[runtime]
devices = 1
"""
DOCS = pathlib.Path(__file__).parents[1] / "docs" / "deploy.md"


class Place(NamedTuple):
    root: pathlib.Path
    run: pathlib.Path
    err: str


def picture(label: int, number: int) -> Image.Image:
    """A wide one whose middle tells the class; of each fourth number one of another kind."""
    rng = np.random.default_rng((label, number))
    pixels = rng.integers(0, 100, (9, 27, 3)).astype(np.uint8)
    pixels[:, 9 + 5 * label : 13 + 5 * label] += 150
    if number % 4 == 0:
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if number % 4 == 1:
        return Image.fromarray(np.dstack([pixels, rng.integers(0, 256, (9, 27, 1), np.uint8)]))
    return Image.fromarray(pixels).quantize(64) if number % 4 == 2 else Image.fromarray(pixels)


def write(root: pathlib.Path) -> None:
    for part, number in (("train", 12), ("test", 8)):
        for label, name in enumerate(("left", "right")):
            (root / part / name).mkdir(parents=True)
            for n in range(number):
                exif = Image.Exif()
                if n % 4 == 3:
                    exif[0x0112] = 6  # to be seen upright: 27×9
                picture(label, n).save(root / part / name / f"{n}.png", exif=exif)
    (root / "train" / "list.txt").write_text("left right", encoding="utf-8")


def called(main: Callable[[Sequence[str]], int], *arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = guarded(lambda: main([str(argument) for argument in arguments]))
    return code, out.getvalue(), err.getvalue()


def refused(main: Callable[[Sequence[str]], int], *arguments: object) -> str:
    code, _, err = called(main, *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "; allowed: " in err, err
    return err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("own") / "project"
    root.mkdir()
    write(root / "pictures")
    with undrawn(), workplace(root, CONFIG), contextlib.chdir(root):
        code, _, err = called(train.main, "--config", "run.toml", "--workdir", "run")
        assert code == 0, err
        yield Place(root, root / "run", err)


def again(place: Place, *flags: str) -> tuple[Any, ...]:
    return (train.main, "--config", place.root / "run.toml", "--workdir", place.run, *flags)


@contextlib.contextmanager
def changed(place: Place) -> Iterator[None]:
    """Inside it one test picture is another."""
    file = place.root / "pictures/test/right/3.png"
    before = file.read_bytes()
    picture(0, 3).save(file)
    yield
    file.write_bytes(before)


SAID = "24 + 16 images, 8×8×3, 2 classes (left, right), rarest: left with 12 images"


def test_what_was_read_is_said(place: Place) -> None:
    assert f"data: {SAID}\n" in place.err and ": 1 file passed over (1 .txt)\n" in place.err
    assert json.loads((place.run / "environment.json").read_text(encoding="utf-8"))["data"] == SAID
    known = origin.read(place.run)
    assert known is not None and (known.record.said, known.beside) == (SAID, "../pictures")


def test_networks_and_checkpoints_carry_the_record_and_what_was_measured(place: Place) -> None:
    known = origin.read(place.run)
    assert known is not None
    plain = origin.to_json(known.record)
    (file,) = (place.run / "networks").iterdir()
    about, evaluations = networks.load(file).about, results(place.run)["evaluations"]
    assert about["data"] == plain and about["measured"] == evaluations["dense"] and about["task"]["examples"] == 16
    assert plain["preparation"]["crop"] == "centre" and plain["fingerprint"]["classes"] == ["left", "right"]
    with checkpoint.reader(place.run / "checkpoints") as manager:
        newest = checkpoint.newest(manager)
    assert newest is not None and newest.facts["data"] == plain
    of_phase = source.trained(place.run / "checkpoints" / str(newest.step))
    assert of_phase.measured == evaluations["dense"] and of_phase.record == known.record


@pytest.fixture(scope="module")
def deployed(place: Place) -> pathlib.Path:
    code, out, err = called(
        deploy.main, "run", "--out", "deployed", "--formats", "onnx", "stablehlo", "packed", "--values", "float32"
    )
    assert code == 0 and "as the run measured it; 16 test images" in out, err
    return place.root / "deployed"


def test_every_file_carries_it(place: Place, deployed: pathlib.Path) -> None:
    told = json.loads((deployed / "report.json").read_text(encoding="utf-8"))
    assert told["classes"] == ["left", "right"] and told["input"]["shape"] == [3, 8, 8]
    assert told["measured"] == results(place.run)["evaluations"]["dense"] and told["checked_on"]["own"]
    assert told["masked"]["accuracy"] == told["measured"]["accuracy"]
    names = ("network.onnx", "network.stablehlo", "network.float32.packed")
    for name in names:
        about = files.about(deployed / name)
        assert about is not None and {key: told[key] for key in about} == about and "preparation" in about
    page = (deployed / "report.md").read_text(encoding="utf-8")
    assert "the central square, resized to 8×8 (bilinear)" in page and "Classes: left, right." in page


def test_the_example_of_the_page_prepares_pictures_as_the_training_did(
    place: Place, deployed: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its logits are those of the run's own evaluation, for wide pictures of every kind."""
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (text for text in examples if "sys.argv" in text)
    test = images.tested(source.trained(place.run), None, False)
    own, _ = next(check.batches(test.found))
    wanted = check.masked(test.found)(own)
    monkeypatch.chdir(place.root)
    pictures = sorted((place.root / "pictures/test").rglob("*.png"), key=str)
    for row, file in enumerate(pictures):
        monkeypatch.setattr(sys, "argv", ["classify.py", str(file)])
        found: dict[str, Any] = {}
        exec(example, found)
        np.testing.assert_allclose(found["logits"][0], wanted[row], rtol=0, atol=1e-5)
        assert capsys.readouterr().out == f"class {['left', 'right'][wanted[row].argmax()]}\n"
    assert len(pictures) == 16 and np.ptp(wanted, axis=0).max() > 1e-3, "the pictures are told apart"


def test_changed_data_are_refused_by_every_command(place: Place, tmp_path: pathlib.Path) -> None:
    said = re.compile(r"test: images [0-9a-f]{8} → [0-9a-f]{8}; allowed: .*--data.accept-changed")
    with changed(place):
        for command in (
            again(place),
            (deploy.main, place.run, "--out", tmp_path / "out"),
            (latency.main, place.run, "--data", place.root / "pictures"),
        ):
            assert said.search(refused(*command))
        code, _, err = called(*again(place, "--data.accept-changed"))
        assert code == 0 and "asked for again with other data: test: images" in err and "already finished" in err
        assert said.search(refused(*again(place))), "once accepted is not for ever: the results are not of these"
        code, _, _ = called(deploy.main, place.run, "--out", tmp_path / "out", "--data.accept-changed")
        told = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
        assert code == 0 and not told["checked_on"]["own"] and "test: images" in told["checked_on"]["said"][0]
        assert told["measured"] == results(place.run)["evaluations"]["dense"], "the run's own stays"
    code, _, err = called(*again(place))
    assert code == 0 and "asked for again with other data: test: images" in err, "it is recorded"


def test_a_run_goes_on_with_changed_data_if_it_may_and_records_it(place: Place, tmp_path: pathlib.Path) -> None:
    run = pathlib.Path(shutil.copytree(place.run, tmp_path / "run"))
    (run / "results.json").unlink()
    command = (train.main, "--config", place.root / "run.toml", "--workdir", run)
    with changed(place):
        assert "has other data than it began with: test: images" in refused(*command)
        assert called(*command, "--data.accept-changed")[0] == 0
        known = origin.read(run)
        assert known is not None and origin.has_mixed(known.record) and "went on with" in known.record.accepted[-1]
        assert called(*command)[0] == 0, "it is the run's own now"
        found = images.tested(source.trained(run), str(place.root / "pictures"), False)
        assert not found.own, "its figures are of both"
    shutil.rmtree(run / "networks")
    folder = place.root / "pictures/train/third"
    folder.mkdir()
    picture(0, 3).save(folder / "1.png")
    (run / "results.json").unlink()
    line = refused(*command, "--data.accept-changed")
    shutil.rmtree(folder)
    assert "classes: 2 classes (left, right) → 3 classes (left, right, third)" in line and "another --workdir" in line


def test_relative_paths_are_found_from_the_run_wherever_it_is(
    place: Place, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = source.trained(place.run)
    assert images.tested(found, None, False).own
    assert called(*again(place))[0] == 0
    moved = pathlib.Path(shutil.copytree(place.root, tmp_path / "moved")) / "run"
    with changed(place):
        assert images.tested(source.trained(moved), None, False).own, "beside it first, then where it was"
        alone = pathlib.Path(shutil.move(moved, tmp_path / "alone"))
        with pytest.raises(UserError, match="is not the data that the network was trained on: test: images"):
            images.tested(source.trained(alone), None, False)
        assert images.tested(source.trained(alone), str(tmp_path / "moved/pictures"), False).own
    monkeypatch.chdir(alone)
    assert source.trained(pathlib.Path()).name == found.name


def test_without_data_files_are_compared_on_noise(place: Place, tmp_path: pathlib.Path) -> None:
    (place.root / "pictures").rename(tmp_path / "elsewhere")
    try:
        code, out, err = called(deploy.main, place.run, "--out", tmp_path / "out")
        assert code == 0 and "'pictures' is not there: files are compared on noise; --data says where it is" in err
        assert "as the run measured it; 256 images of noise" in out
        told = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
        assert told["masked"]["accuracy"] is None and told["compacted"]["difference"] < 1e-4
        assert images.tested(source.trained(place.run), str(tmp_path / "elsewhere"), False).own
        assert "does not exist; allowed" in refused(deploy.main, place.run, "--out", tmp_path / "no", "--data", "none")
    finally:
        (tmp_path / "elsewhere").rename(place.root / "pictures")


def test_a_network_that_is_not_as_good_as_the_run_measured_it_is_refused(place: Place) -> None:
    test = images.tested(source.trained(place.run), None, False)
    measured = test.found.measured
    assert measured is not None
    one = 100 / 16
    for points, agrees in ((0.0, True), (one, True), (3 * one, False), (-3 * one, False)):
        outcome = Outcome(16, {"accuracy": measured["accuracy"] + points}, 0.0, 1.0, 0)
        with contextlib.nullcontext() if agrees else pytest.raises(UserError, match="where the run measured"):
            images.demand_measured(test, outcome, place.run)
    images.demand_measured(test, Outcome(9, {"accuracy": -1.0}, 0.0, 1.0, 0), place.run)  # not all images
    images.demand_measured(test._replace(own=False), Outcome(16, {"accuracy": -1.0}, 0.0, 1.0, 0), place.run)


def test_a_run_from_before_is_still_read(place: Place, tmp_path: pathlib.Path) -> None:
    old = pathlib.Path(shutil.copytree(place.run, tmp_path / "old"))
    (old / "data.json").unlink()
    (file,) = (old / "networks").iterdir()
    networks.save(old, networks.load(file)._replace(about=None))
    command = (train.main, "--config", place.root / "run.toml", "--workdir", old)
    code, _, err = called(*command)
    assert code == 0 and "which data it was trained on is not known" in err
    (old / "config.toml").write_text(
        (old / "config.toml").read_text(encoding="utf-8").replace('"pictures"', f'"{place.root}/pictures"'),
        encoding="utf-8",
    )
    assert load(old / "config.toml").data.source == f"{place.root}/pictures"
    test = images.tested(source.trained(old), None, False)
    assert not test.own and "which data it was trained on is not known" in test.said[0]
    (place.run / "data.json").rename(tmp_path / "kept.json")
    try:
        (place.run / "data.json").write_text("{}", encoding="utf-8")
        assert "data.json' is damaged" in refused(*again(place))
    finally:
        (tmp_path / "kept.json").replace(place.run / "data.json")


def test_the_report_says_it(place: Place, tmp_path: pathlib.Path) -> None:
    page = page_of(pathlib.Path(shutil.copytree(place.run, tmp_path / "run"))).read_text(encoding="utf-8")
    assert f"<td>{SAID}</td>" in page
