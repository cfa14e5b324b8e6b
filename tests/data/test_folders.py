"""Class folders of pictures, and the four .npy files: what is read from them, in which order, and what is refused."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from dass_jax.data import arrays, load, pictures
from dass_jax.data.load import Wanted
from dass_jax.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 6, 6, 3), np.uint8)


def made(root: pathlib.Path, test: str = "val") -> pathlib.Path:
    """Classes "a" (label 0) and "b": 3 and 2 pictures to train, 1 and 2 to test. Of "b", one is grey and one a link."""
    numbers = {"train/b": [3, 4], "train/a": [0, 1, 2], f"{test}/a": [5], f"{test}/b": [6, 7]}
    for place, rows in numbers.items():
        (root / place).mkdir(parents=True)
        for row in rows:
            Image.fromarray(PIXELS[row]).save(root / place / f"{row}.png")
    (root / "train/b/4.png").rename(root / "elsewhere.png")
    (root / "train/b/4.PNG").symlink_to(root / "elsewhere.png")
    Image.fromarray(PIXELS[6, ..., 0]).save(root / f"{test}/b/6.png")
    (root / "train/b/notes.txt").write_text("no picture")
    (root / "train/b/._3.png").write_text("a shadow of another system")
    return root


def refused(path: pathlib.Path, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        load.load(Wanted(str(path), **changes))
    message = str(caught.value)
    assert "\n" not in message and "allowed: " in message
    return message


@pytest.mark.parametrize("test", ["val", "test"])
def test_classes_are_sorted_names_and_pixels_those_of_the_files(tmp_path: pathlib.Path, test: str) -> None:
    data = load.load(Wanted(str(made(tmp_path, test))))
    assert isinstance(data.train, arrays.Split) and isinstance(data.test, arrays.Split)
    np.testing.assert_array_equal(data.train.images, PIXELS[:5])
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1] and data.test.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(data.test.images[1], np.repeat(PIXELS[6, ..., :1], 3, -1))
    assert (data.classes, data.shape) == (2, (6, 6, 3)) and data.train.labels.dtype == np.int32
    np.testing.assert_allclose(data.mean, (PIXELS[:5] / 255).mean((0, 1, 2)), rtol=1e-6)


def test_streamed_images_and_statistics_are_those_in_memory(tmp_path: pathlib.Path) -> None:
    whole = load.load(Wanted(str(made(tmp_path)), image_size=4, limit=4, seed=3))
    data = load.load(Wanted(str(tmp_path), image_size=4, limit=4, seed=3, streaming=True))
    assert isinstance(data.train, arrays.Source) and isinstance(whole.train, arrays.Split)
    assert data.shape == whole.shape == (4, 4, 3) and data.train.size == whole.train.size == 4
    for row in range(4):
        image, label = data.train.example(row)
        cut = pictures.cut(image, pictures.centre_box(image.shape[:2]), 4)
        np.testing.assert_array_equal(cut, whole.train.images[row])
        assert label == whole.train.labels[row] and data.train.name(row).startswith("picture '")
    np.testing.assert_array_equal((data.mean, data.std), (whole.mean, whole.std))


def test_the_published_statistics_can_be_taken(tmp_path: pathlib.Path) -> None:
    data = load.load(Wanted(str(made(tmp_path)), imagenet_statistics=True))
    assert data.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    with pytest.raises(UserError, match=r"data\.statistics = 'imagenet' on images of 1 channels; allowed: 'own'"):
        load.load(Wanted("digits", imagenet_statistics=True))


def test_pictures_of_several_sizes_need_a_size(tmp_path: pathlib.Path) -> None:
    Image.fromarray(PIXELS[0][:, :5]).save(made(tmp_path) / "train/a/1.png")
    message = refused(tmp_path)
    assert "train/a/1.png" in message and "is 6×5×3; allowed: 6×6×3 as the first one, or data.image_size" in message
    assert load.load(Wanted(str(tmp_path), image_size=5)).shape == (5, 5, 3)


def test_a_damaged_picture_is_named(tmp_path: pathlib.Path) -> None:
    (made(tmp_path) / "val/b/7.png").write_bytes(b"no picture")
    assert "val/b/7.png' cannot be read" in refused(tmp_path)
    (tmp_path / "elsewhere.png").unlink()
    assert "train/b/4.PNG' cannot be read: No such file" in refused(tmp_path)


def test_what_is_missing_in_a_folder_is_named(tmp_path: pathlib.Path) -> None:
    root = made(tmp_path)
    (root / "val/c").mkdir()
    assert "val has a class 'c'; allowed: those of train" in refused(root)
    (root / "val/c").rename(root / "train/c")
    assert "train/c has no pictures; allowed: .jpg, .jpeg, .png files in it" in refused(root)
    (root / "val").rename(root / "other")
    assert "none of test, val; allowed: one of them too" in refused(root)


def test_images_that_do_not_fit_into_memory_are_not_decoded(tmp_path: pathlib.Path) -> None:
    message = refused(made(tmp_path), image_size=100, most_bytes=10_000)
    assert "data.streaming = false with 8 images of 100×100×3 needs 0.00024 GB" in message
    assert "allowed: data.streaming = true" in message


def files(root: pathlib.Path, **changes: np.ndarray) -> pathlib.Path:
    parts = {"train_images": PIXELS[:5], "test_images": PIXELS[5:]}
    labels = {"train_labels": np.arange(5), "test_labels": np.arange(3)}
    for name, array in {**parts, **labels, **changes}.items():
        np.save(root / f"{name}.npy", array)
    return root


def test_npy_files_are_mapped(tmp_path: pathlib.Path) -> None:
    data = load.load(Wanted(str(files(tmp_path))))
    assert isinstance(data.train, arrays.Split) and isinstance(data.train.images, np.memmap)
    np.testing.assert_array_equal(data.train.images, PIXELS[:5])
    assert data.classes == 5 and not data.train.images.flags.writeable
    small = load.load(Wanted(str(tmp_path), image_size=3))
    assert isinstance(small.train, arrays.Split) and small.train.images.shape == (5, 3, 3, 3)


def test_wrong_npy_files_are_refused(tmp_path: pathlib.Path) -> None:
    root = files(tmp_path)
    (root / "test_images.npy").write_bytes((root / "test_images.npy").read_bytes()[:150])
    assert "test_images.npy cannot be read: " in refused(root)
    (root / "test_images.npy").unlink()
    assert "has no test_images.npy; allowed: a folder with train_images.npy, " in refused(root)
    objects = np.array([{}] * 5)
    assert "train_labels.npy cannot be read: " in refused(files(root, train_labels=objects))
    assert "train_images has type float64; allowed: uint8" in refused(files(root, train_images=np.zeros((5, 6, 6, 3))))


def test_files_that_are_passed_over_are_counted(tmp_path: pathlib.Path) -> None:
    root = made(tmp_path)
    assert load.load(Wanted(str(root))).notes == (f"data.source = {str(root)!r}: 1 file passed over (1 .txt)",)
    (root / "train/a/more").mkdir()
    for place in ("train/a/x.tif", "train/y.gif", "train/a/more/z.png", "val/README", "val/a/.DS_Store"):
        (root / place).write_text("none")
    (said,) = load.load(Wanted(str(root), streaming=True)).notes
    assert said.endswith(": 5 files passed over (1 .gif, 1 .tif, 1 .txt, 1 in other folders, 1 without ending)")
    (root / "train/c").mkdir()
    (root / "train/c/x.tif").write_text("none")
    assert "train/c has no pictures (there: 1 file passed over (1 .tif)); allowed: .jpg" in refused(root)


@pytest.mark.parametrize("unlabelled", ["1.png", "unknown/1.png", "a/1.tif"])
def test_a_test_folder_without_labels_gives_way_to_val(tmp_path: pathlib.Path, unlabelled: str) -> None:
    root = made(tmp_path)
    (root / "test" / unlabelled).parent.mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(root / "test" / unlabelled, "PNG")
    data = load.load(Wanted(str(root)))
    assert data.test.size == 3 and data.notes[0].endswith(": test has no labels as train has them; evaluated on val")
    (root / "val").rename(root / "elsewhere")
    refused(root)


def test_a_single_class_is_refused(tmp_path: pathlib.Path) -> None:
    root = made(tmp_path)
    for part in ("train", "val"):
        (root / part / "b").rename(root / f"{part}-b")
    assert "train has one class folder, 'a'; allowed: two classes or more" in refused(root)


@pytest.mark.parametrize("streaming", [False, True])
def test_16_bits_are_8(tmp_path: pathlib.Path, streaming: bool) -> None:
    for bits in (8, 16):
        for place in ("train/a", "train/b", "test/a"):
            (tmp_path / str(bits) / place).mkdir(parents=True)
            pixels = PIXELS[len(place), ..., 0]
            pixels = pixels if bits == 8 else pixels.astype(np.uint16) * 257
            Image.fromarray(pixels).save(tmp_path / str(bits) / place / "1.png")
    one, other = (load.load(Wanted(str(tmp_path / bits), streaming=streaming)) for bits in ("8", "16"))
    np.testing.assert_array_equal((one.mean, one.std), (other.mean, other.std))
    assert 0.2 < one.mean[0] < 0.8
