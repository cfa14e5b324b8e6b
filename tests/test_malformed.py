"""Two thousand malformed inputs: each is refused with one line that names it, or is still valid; no file changes.

What a mutation leaves valid may be accepted: a bit of a comment, a pixel, a time of day.
"""

import contextlib
import copy
import io
import json
import math
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dass_jax import architectures, config
from dass_jax.architectures.darts import PUBLISHED
from dass_jax.config import Config
from dass_jax.data import arrays, load, npz
from dass_jax.errors import UserError
from dass_jax.runtime import checkpoint, origin

pytestmark = pytest.mark.filterwarnings("ignore")
"""NumPy warns of old headers before it refuses them."""

FIELDS = dict(config.leaves())
JUNK = st.one_of(
    st.none(),
    st.integers(-(2**70), -1),
    st.just(math.nan),
    st.just(-math.inf),
    st.text(max_size=8).map(lambda text: "\x00" + text),
    st.lists(st.integers(), min_size=1, max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), min_size=1, max_size=2),
    st.binary(max_size=4),
)
"""Nothing of it is allowed in any field."""


def many(cases: int) -> settings:
    quick = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=cases, deadline=None, suppress_health_check=quick, derandomize=True, database=None)


def line(caught: pytest.ExceptionInfo[UserError]) -> str:
    message = str(caught.value)
    assert message and "\n" not in message.strip()
    return message


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` cut off, with bits flipped, with bytes put in or left out, or something else altogether."""
    start = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["cut", "flip", "insert", "drop", "zero", "other"]))
    length = draw(st.integers(1, 64))
    if kind == "cut":
        return data[:start]
    if kind == "flip":
        return data[:start] + bytes([data[start] ^ (1 << draw(st.integers(0, 7)))]) + data[start + 1 :]
    if kind == "insert":
        return data[:start] + draw(st.binary(min_size=1, max_size=16)) + data[start:]
    if kind == "drop":
        return data[:start] + data[start + length :]
    return data[:start] + bytes(length) + data[start + length :] if kind == "zero" else draw(st.binary(max_size=200))


@many(250)
@given(st.sampled_from(sorted(FIELDS)), JUNK)
def test_a_field_with_a_value_that_it_cannot_have(name: str, junk: Any) -> None:
    *sections, last = name.split(".")
    data: dict[str, Any] = {last: junk}
    for section in reversed(sections):
        data = {section: data}
    with pytest.raises(UserError) as caught:
        config.from_dict(data)
    assert line(caught).startswith(f"{name}") and "allowed: " in line(caught)


@many(250)
@given(st.data())
def test_a_damaged_config_file(tmp_path: pathlib.Path, data: st.DataObject) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(found := data.draw(damaged(config.to_toml(Config()).encode())))
    try:
        assert isinstance(config.load(path), Config)
    except UserError as error:
        assert str(path) in str(error) and "allowed: " in str(error)
    assert path.read_bytes() == found


def _places(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [here, *(place for key, value in inner for place in _places(value, (*here, key)))]


GOOD = architectures.to_json(PUBLISHED["dass_99"])


@many(200)
@given(st.sampled_from(_places(GOOD)), JUNK.filter(lambda junk: not isinstance(junk, bytes)))
def test_an_architecture_with_something_else_in_some_place(
    tmp_path: pathlib.Path, place: tuple[Any, ...], junk: Any
) -> None:
    data = copy.deepcopy(GOOD)
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = junk
    path = tmp_path / "architecture.json"
    path.write_text(text := json.dumps(data if place else junk), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        architectures.load(str(path))
    assert str(path) in line(caught) and "allowed: " in line(caught)
    assert path.read_text(encoding="utf-8") == text


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("data") / "good.npz"
    images = np.arange(2 * 6 * 4 * 4, dtype=np.uint8).reshape(2, 6, 4, 4, 1)
    labels = np.arange(6) % 3
    held = {"train_images": images[0], "train_labels": labels, "test_images": images[1], "test_labels": labels}
    np.savez_compressed(path, **held)
    npz.opened(path)
    return path.read_bytes()


@many(250)
@given(st.data())
def test_a_damaged_npz(tmp_path: pathlib.Path, good: bytes, data: st.DataObject) -> None:
    path = tmp_path / "some.npz"
    path.write_bytes(found := data.draw(damaged(good)))
    try:
        load.load(load.Wanted(str(path), most_bytes=10**9))
    except UserError as error:
        assert str(path) in str(error) and "allowed: " in str(error)
    assert path.read_bytes() == found


PICTURES = [
    f"{split}/{label}/{n}.{kind}"
    for split in ("train", "test")
    for label in "ab"
    for n, kind in enumerate(("png", "jpg"))
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A PNG and a JPEG of 9×7 pixels in each of two classes, to train on and to test on."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    for name in PICTURES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    load.load(load.Wanted(str(folder), image_size=8))
    return folder


@many(200)
@given(st.sampled_from(PICTURES), st.data())
def test_a_damaged_picture_in_a_folder(pictures: pathlib.Path, name: str, data: st.DataObject) -> None:
    whole = (pictures / name).read_bytes()
    (pictures / name).write_bytes(found := data.draw(damaged(whole)))
    try:
        assert load.load(load.Wanted(str(pictures), image_size=8)).shape == (8, 8, 3)
    except UserError as error:
        assert str(pictures / name) in str(error) and "allowed: " in str(error) and "\n" not in str(error)
    finally:
        assert (pictures / name).read_bytes() == found
        (pictures / name).write_bytes(whole)


INSTEAD: dict[str, Callable[[pathlib.Path], Any]] = {
    "nothing": lambda path: None,
    "a file": lambda path: path.write_text("none"),
    "an empty folder": pathlib.Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "another name": lambda path: path.with_name("z" + path.name).write_text("none"),
}
PLACES = sorted(
    {str(place) for name in PICTURES for place in (pathlib.Path(name), *pathlib.Path(name).parents)} - {"."}
)


@many(80)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(INSTEAD))), min_size=1, max_size=3))
def test_a_folder_of_pictures_in_disorder(pictures: pathlib.Path, changes: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory(dir=pictures.parent) as name:
        folder = shutil.copytree(pictures, pathlib.Path(name) / "pictures")
        for place, kind in changes:
            if not os.path.lexists(folder / place):
                continue
            if (folder / place).is_dir():
                shutil.rmtree(folder / place)
            else:
                (folder / place).unlink()
            INSTEAD[kind](folder / place)
        held = sorted(folder.rglob("*"))
        try:
            assert load.load(load.Wanted(str(folder), image_size=8)).shape == (8, 8, 3)
        except UserError as error:
            assert str(folder) in str(error) and "allowed: " in str(error) and "\n" not in str(error)
        assert sorted(folder.rglob("*")) == held


KINDS = ["|u1", "<u2", ">u2", "<i4", ">i8", "<u8", "<f4", "<f8", "|b1", "<U2", "|S3", "<c8", "<M8[s]"]
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 32]), max_size=5).map(tuple)


@st.composite
def arrays_of(draw: st.DrawFn, labels: bool) -> np.ndarray:
    """Arrays as people have them, most of them wrong: of any type, of near or of any shape, labels of any range."""
    near = (
        [(6,), (6, 1), (6, 3), (6, 4, 4)] if labels else [(6, 4, 4, 1), (6, 4, 4), (6, 1, 8, 8), (6, 3, 9, 9), (6, 16)]
    )
    shape = draw(st.one_of(st.sampled_from(near), SHAPES))
    low, high = draw(st.sampled_from([(0, 2), (0, 3), (1, 3), (-1, 2), (0, 1), (5, 9), (0, 300), (0, 10**6)]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(low, high, shape)
    with np.errstate(all="ignore"):
        found = values.astype(draw(st.sampled_from(KINDS if draw(st.booleans()) else ["<i8", "|u1"])))
    return np.asfortranarray(found) if draw(st.booleans()) else found


@many(250)
@given(st.dictionaries(st.sampled_from(npz.NAMES), st.integers(0), min_size=1, max_size=2), st.data())
def test_arrays_of_any_kind_in_the_place_of_some(
    tmp_path: pathlib.Path, good: bytes, places: dict[str, int], data: st.DataObject
) -> None:
    path = tmp_path / "own.npz"
    with np.load(io.BytesIO(good)) as found:
        held = {name: found[name] for name in found.files}
    held |= {name: data.draw(arrays_of("labels" in name)) for name in places}
    np.savez(path, **held)
    try:
        read = load.load(load.Wanted(str(path), most_bytes=10**9))
    except UserError as error:
        assert str(path) in str(error) and "allowed: " in str(error) and "\n" not in str(error)
        return
    train, test = read.train, read.test
    assert isinstance(train, arrays.Split) and isinstance(test, arrays.Split) and np.isfinite(read.mean).all()
    for part, own in (("train", train), ("test", test)):
        pixels, labels = held[f"{part}_images"], held[f"{part}_labels"]
        np.testing.assert_array_equal(own.images.reshape(pixels.shape), pixels)
        np.testing.assert_array_equal(own.labels, labels)
    if not read.masks:
        assert set(test.labels) <= set(train.labels) == set(range(read.classes)) and read.classes >= 2


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]
FORMATS = ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "ICO", "PPM", "JPEG2000", "TGA"]


@many(150)
@given(st.sampled_from(PICTURES), st.sampled_from(MODES), st.sampled_from(FORMATS), st.integers(0, 9), st.booleans())
def test_a_picture_of_any_kind_under_the_name_of_another(
    pictures: pathlib.Path, name: str, mode: str, kind: str, orientation: int, several: bool
) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
    base = Image.fromarray(grey)
    image = base.convert("RGB").convert(mode) if mode in ("YCbCr", "HSV", "CMYK") else base
    with contextlib.suppress(ValueError):
        image = base.convert(mode)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    more: dict[str, Any] = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    try:
        image.save(buffer, kind, exif=exif, **(more if several else {}))
    except (OSError, ValueError, KeyError, SystemError):
        return  # there is no such file
    whole = (pictures / name).read_bytes()
    (pictures / name).write_bytes(buffer.getvalue())
    try:
        found = load.load(load.Wanted(str(pictures), image_size=8))
        assert found.shape == (8, 8, 3) and kind in ("PNG", "JPEG")
    except UserError as error:
        assert str(pictures / name) in str(error) and "allowed: " in str(error) and "\n" not in str(error)
        assert kind not in ("PNG", "JPEG") or (several and kind == "PNG")
    finally:
        (pictures / name).write_bytes(whole)


@many(100)
@given(st.data())
def test_a_damaged_record_of_data(tmp_path: pathlib.Path, good: bytes, data: st.DataObject) -> None:
    (tmp_path / "good.npz").write_bytes(good)
    record = load.load(load.Wanted(str(tmp_path / "good.npz"))).record
    assert record is not None
    origin.write(tmp_path, record)
    path = tmp_path / origin.FILE
    assert origin.read(tmp_path) == origin.Origin(record, "good.npz")
    path.write_bytes(found := data.draw(damaged(path.read_bytes())))
    try:
        assert isinstance(origin.read(tmp_path), origin.Origin)
    except UserError as error:
        assert str(path) in str(error) and "allowed: " in str(error) and "\n" not in str(error)
    assert path.read_bytes() == found


HEADERS = st.one_of(
    st.text(st.characters(codec="latin-1"), max_size=60),
    st.integers(1, 4000).map(lambda depth: "(" * depth),
    st.tuples(
        st.sampled_from(["|u1", "<i8", "|O", "<U9", "|V0", "<f8", "M8[ns]", "no type", "|u1,|u1"]),
        st.lists(st.sampled_from([-1, 0, 6, 4, 2**31, 2**62]), max_size=5),
    ).map(lambda pair: repr({"descr": pair[0], "fortran_order": False, "shape": tuple(pair[1])})),
)


@many(100)
@given(st.sampled_from(npz.NAMES), HEADERS, st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]))
def test_an_array_whose_header_lies(
    tmp_path: pathlib.Path, good: bytes, name: str, header: str, version: tuple[int, int]
) -> None:
    path = tmp_path / "liar.npz"
    text = header.encode("latin-1") + b"\n"
    lied = b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2 if version == (1, 0) else 4, "little") + text
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            target.writestr(member, lied if member == f"{name}.npy" else source.read(member))
    with pytest.raises(UserError) as caught:
        load.load(load.Wanted(str(path), most_bytes=10**9))
    assert str(path) in line(caught) and "allowed: " in line(caught)


def test_a_small_file_of_gigabytes_is_refused_before_it_is_unpacked(
    tmp_path: pathlib.Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    zeros = np.zeros((2000, 32, 32, 1), np.uint8)
    np.savez_compressed(path, train_images=zeros, train_labels=np.zeros(2000, int), test_images=zeros, test_labels=[0])
    assert path.stat().st_size < 20_000 < zeros.nbytes
    monkeypatch.setattr(npz, "_member", lambda *_: pytest.fail("it is unpacked"))
    with pytest.raises(
        UserError, match=r"train_images takes 0.00205 GB in memory, all arrays 0.00411 GB; allowed: 0.001"
    ):
        load.load(load.Wanted(str(path), most_bytes=10**6))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("kept")
    with checkpoint.manager(folder, keep=3) as manager:
        for step in (1, 2):
            checkpoint.save(manager, step, {"w": np.full((3, 5), step, np.float32)}, {"step": step})
    return folder


@many(60)
@given(st.data())
def test_a_damaged_checkpoint_gives_way_to_the_one_before(checkpoints: pathlib.Path, data: st.DataObject) -> None:
    held = {path: path.read_bytes() for path in sorted((checkpoints / "2").rglob("*")) if path.is_file()}
    path = data.draw(st.sampled_from([path for path in held if held[path]]))
    path.write_bytes(wrong := data.draw(damaged(held[path])))
    try:
        with checkpoint.manager(checkpoints, keep=3) as manager:
            found = checkpoint.newest(manager)
        assert found is not None and found.step == 2 - len(found.skipped) and found.facts == {"step": found.step}
        assert (found.leaves["['w']"] == found.step).all() and found.leaves["['w']"].shape == (3, 5)
        assert path.read_bytes() == wrong
    finally:
        shutil.rmtree(checkpoints / "2")
        for kept, content in held.items():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
