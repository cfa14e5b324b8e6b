"""Reading data: the shapes and types promised, the same split every time, and one line for each wrong file."""

import pathlib
import zipfile
from typing import Any

import numpy as np
import pytest

from dass_jax.data import arrays, load
from dass_jax.errors import UserError


def _good(channels: int | None = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (6, 5) if channels is None else (6, 5, channels)
    return {
        "train_images": rng.integers(0, 256, (12, *shape), np.uint8),
        "train_labels": np.arange(12) % 4,
        "test_images": rng.integers(0, 256, (7, *shape), np.uint8),
        "test_labels": np.arange(7) % 4,
    }


def _saved(folder: pathlib.Path, **changes: Any) -> str:
    path = folder / "images.npz"
    np.savez(path, **{name: array for name, array in {**_good(), **changes}.items() if array is not None})
    return str(path)


def _refused(source: str, limit: int = 0) -> str:
    with pytest.raises(UserError) as caught:
        load.load(load.Wanted(source, limit))
    message = str(caught.value)
    assert "\n" not in message and "allowed: " in message
    return message


def test_digits_are_stratified_and_do_not_depend_on_the_seed() -> None:
    data, again = load.load(load.Wanted("digits", 0, 0)), load.load(load.Wanted("digits", 0, 99))
    assert data.train.images.shape == (1437, 8, 8, 1) and data.test.images.shape == (360, 8, 8, 1)
    assert data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int32
    assert data.classes == 10 and data.train.images.max() == 255
    np.testing.assert_array_equal(data.test.images, again.test.images)
    np.testing.assert_array_equal(data.train.labels, again.train.labels)
    shares = np.bincount(data.train.labels) / 1437 - np.bincount(data.test.labels) / 360
    assert np.abs(shares).max() < 0.005


def test_statistics_equal_numpys_mean_and_std() -> None:
    images = np.random.default_rng(3).integers(0, 200, (1500, 3, 2, 3), np.uint8)
    mean, std = arrays.channel_statistics(images)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-6)


def test_a_constant_channel_can_be_divided_by() -> None:
    _, std = arrays.channel_statistics(np.full((4, 2, 2, 1), 7, np.uint8))
    assert std[0] == pytest.approx(0.5 / 255)


@pytest.mark.parametrize("label_type", [np.uint8, np.int16, np.int64])
def test_npz_keeps_the_images_and_infers_the_classes(tmp_path: pathlib.Path, label_type: type) -> None:
    labels: np.ndarray = _good()["train_labels"].astype(label_type)
    data = load.load(load.Wanted(_saved(tmp_path, train_labels=labels), 0, 0))
    np.testing.assert_array_equal(data.train.images, _good()["train_images"])
    np.testing.assert_array_equal(data.train.labels, labels)
    assert data.classes == 4 and data.mean.shape == data.std.shape == (3,)
    assert data.train.labels.dtype == np.int32


def test_images_without_a_channel_axis_have_one_channel(tmp_path: pathlib.Path) -> None:
    data = load.load(load.Wanted(_saved(tmp_path, **_good(None)), 0, 0))
    assert data.train.images.shape == (12, 6, 5, 1) and data.test.images.shape == (7, 6, 5, 1)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _saved(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load.load(load.Wanted("~/images.npz", 0, 0)).train.labels) == 12


def test_limit_takes_a_random_subset_of_the_training_images_only() -> None:
    whole = load.load(load.Wanted("digits", 0, 0))
    some, same, other = (load.load(load.Wanted("digits", 50, seed)) for seed in (1, 1, 2))
    assert some.train.images.shape == (50, 8, 8, 1) and len(some.test.labels) == 360
    np.testing.assert_array_equal(some.train.images, same.train.images)
    assert (some.train.images != other.train.images).any() and (some.train.images != whole.train.images[:50]).any()
    known = {image.tobytes(): label for image, label in zip(*whole.train, strict=True)}
    assert all(known[image.tobytes()] == label for image, label in zip(*some.train, strict=True))


def test_limit_beyond_the_training_set_is_refused() -> None:
    assert _refused("digits", 1438) == "data.limit = 1438; allowed: 0 (all) to 1437, the training images that there are"


def test_split_search_is_a_seeded_partition() -> None:
    train = arrays.Split(np.zeros((101, 2, 2, 1), np.uint8), np.zeros(101, np.int32))
    lower, upper = arrays.split_search(train, 0.3, 5)
    assert len(upper) == 30 and lower.dtype == upper.dtype == np.int32
    np.testing.assert_array_equal(np.sort(np.concatenate([lower, upper])), np.arange(101))
    np.testing.assert_array_equal(lower, arrays.split_search(train, 0.3, 5)[0])
    assert (lower != arrays.split_search(train, 0.3, 6)[0]).any()


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_split_search_refuses_an_empty_side(fraction: float) -> None:
    train = arrays.Split(np.zeros((10, 2, 2, 1), np.uint8), np.zeros(10, np.int32))
    with pytest.raises(UserError, match=rf"data\.validation_fraction = {fraction} .*allowed: a fraction that gives"):
        arrays.split_search(train, fraction, 0)


BAD_ARRAYS = {
    "missing": ({"test_labels": None, "extra": np.zeros(1)}, "has no test_labels (there is: train_images, "),
    "objects": ({"train_labels": np.array([{}] * 12)}, "train_labels cannot be read: Object arrays"),
    "float images": ({"train_images": np.zeros((12, 6, 5, 3))}, "train_images has type float64; allowed: uint8"),
    "flat images": ({"test_images": np.zeros((7, 90), np.uint8)}, "test_images has shape 7×90; allowed: N×H×W×C"),
    "no images": (
        {"test_images": np.zeros((0, 6, 5, 3), np.uint8)},
        "test_images has shape 0×6×5×3; allowed: at least",
    ),
    "other size": (
        {"test_images": np.zeros((7, 6, 6, 3), np.uint8)},
        "test_images are 7×6×6×3 and train_images 12×6×5",
    ),
    "other channels": ({"test_images": np.zeros((7, 6, 5), np.uint8)}, "allowed: the same height, width and channels"),
    "float labels": ({"train_labels": np.zeros(12)}, "train_labels has type float64; allowed: integers"),
    "bool labels": ({"train_labels": np.zeros(12, bool)}, "train_labels has type bool; allowed: integers"),
    "too few labels": ({"train_labels": np.zeros(11, int)}, "train_labels has shape 11; allowed: 12, one label"),
    "one-hot labels": ({"test_labels": np.zeros((7, 4), int)}, "test_labels has shape 7×4; allowed: 7, one label"),
    "negative label": ({"test_labels": np.arange(7) - 1}, "test_labels holds -1; allowed: 0 to 99999"),
    "columns": ({"train_labels": np.zeros((12, 1), int)}, "train_labels has shape 12×1; allowed: 12, one label for"),
    "text labels": ({"train_labels": np.array(["a"] * 12)}, "train_labels has type <U1; allowed: integers"),
    "from 1": (
        {"train_labels": np.arange(12) % 3 + 1, "test_labels": np.ones(7, int)},
        "no image has the label 0: 1 of 4 outputs would be idle; allowed: labels from 0 without gaps",
    ),
    "gaps": (
        {"train_labels": np.array([0, 5, 9] * 4), "test_labels": np.zeros(7, int)},
        "goes up to 9 and no image has the label 1, 2, 3, 4, 6, … (7 labels): 7 of 10 outputs would be idle",
    ),
    "unseen": (
        {"test_labels": np.arange(7) % 6},
        "test_labels holds 4, 5, of which train_labels has no example; allowed: labels from 0",
    ),
    "one class": (
        {"train_labels": np.full(12, 3), "test_labels": np.full(7, 3)},
        "all labels are 3, a single class; allowed: two classes or more",
    ),
    "channels first": (
        {"train_images": np.zeros((12, 3, 32, 32), np.uint8)},
        "train_images has shape 12×3×32×32, with the channels before height and width; allowed: N×H×W×C (images.trans",
    ),
    "huge label": ({"test_labels": np.full(7, 2**63, np.uint64)}, "test_labels holds 9223372036854775808; allowed: 0"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_wrong_arrays_are_refused(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    assert message in _refused(_saved(tmp_path, **changes))


def test_wrong_files_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.npz").write_text("not a zip file")
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "nowhere.npz' does not exist; allowed: 'digits', 'tfds:NAME', an .npz file" in _refused(
        str(tmp_path / "nowhere.npz")
    )
    assert "is a folder with neither; allowed: 'digits'" in _refused(str(tmp_path))
    assert "text.npz' is not an .npz file; allowed" in _refused(str(tmp_path / "text.npz"))
    assert "one.npy' is not an .npz file; allowed" in _refused(str(tmp_path / "one.npy"))


def test_damaged_members_are_refused(tmp_path: pathlib.Path) -> None:
    whole, damaged = pathlib.Path(_saved(tmp_path)), tmp_path / "damaged.npz"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:150] if name == "test_images.npy" else content)
    assert "test_images cannot be read: " in _refused(str(damaged))
    flipped = bytearray(whole.read_bytes())
    flipped[200] ^= 0xFF
    whole.write_bytes(flipped)
    assert "train_images cannot be read: Bad CRC-32" in _refused(str(whole))


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        *(((channels, 32, 32), True) for channels in (1, 2, 3, 4, 5, 12)),
        *(((3, 48, 20), True), ((1, 28, 28), True), ((3, 8, 8), True)),
        *(((size, size, 3), False) for size in (1, 2, 3, 4, 32)),
        *(((1, 1000, 12), False), ((9, 9, 200), False), ((3, 3, 8), False), ((5, 23, 5), False), ((1, 1, 64), False)),
        *(((4, 4, 16), False), ((28, 28, 1), False), ((2, 100, 7), False), ((64, 64, 64), False)),
    ],
)
def test_shapes_that_can_only_have_their_channels_first(shape: tuple[int, ...], first: bool) -> None:
    assert arrays.is_channels_first(shape) == first


def test_labels_of_masks_that_training_lacks_are_said(tmp_path: pathlib.Path) -> None:
    masks = np.zeros((12, 6, 5), np.uint8)
    masks[0, 0], masks[1, 0] = 3, 255
    data = load.load(load.Wanted(_saved(tmp_path, train_labels=masks, test_labels=np.full((7, 6, 5), 2, np.uint8))))
    assert data.notes == ("no training mask has a pixel of the label 1, 2, and test masks have 2",)
    assert data.record is not None and data.record.said.endswith("4 classes (0, 1, 2, 3), rarest: 1 with 0 pixels")
    assert "has 1 class (0); allowed: two classes or more" in _refused(
        _saved(
            tmp_path, train_labels=masks[2:] * 0, train_images=_good()["train_images"][2:], test_labels=masks[5:] * 0
        )
    )


def test_data_that_have_the_name_of_what_is_built_in_are_not_mistaken(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "digits"
    folder.mkdir()
    assert load.load(load.Wanted("digits")).classes == 10, "a folder without data is none"
    for name, array in _good().items():
        np.save(folder / f"{name}.npy", array)
    assert "'digits' is built in, and here is data of that name; allowed: './digits' for that one" in _refused("digits")
    assert load.load(load.Wanted("./digits")).classes == 4
