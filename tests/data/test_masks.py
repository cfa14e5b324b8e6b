"""Images with masks: what is read from folders, files and TFDS, what is refused, and that image and mask stay together
through every change, in pixels that say where they come from."""

import io
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from dass_jax import compose, config
from dass_jax.data import arrays, load, pictures
from dass_jax.data.augment import Augmentation, Draws, augment, follow, random_draws
from dass_jax.data.load import Wanted
from dass_jax.errors import UserError
from dass_jax.phases import WHOLE, Feed

SIDE = 24
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def label_of(rows: Any, columns: Any) -> Any:
    """The label of a place: blocks of 4×4 pixels, 36 of them."""
    return (rows // 4 * 6 + columns // 4).astype(np.uint8)


def coded(number: int) -> np.ndarray:
    """uint8 [24, 24, 3]: each pixel says its row, its column, and of which image it is."""
    return np.stack([10 * ROWS + 1, 10 * COLUMNS + 1, np.full_like(ROWS, number)], -1).astype(np.uint8)


MASK = label_of(ROWS, COLUMNS)


def made(root: pathlib.Path, test: str = "test") -> pathlib.Path:
    """Three images to train, with a palette, grey and JPEG's name, and two to test."""
    for part, numbers in (("train", (0, 1, 2)), (test, (3, 4))):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for number in numbers:
            Image.fromarray(coded(number)).save(root / part / "images" / f"{number}.png")
            mask = Image.fromarray((MASK + number).astype(np.uint8))
            if number == 1:
                mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tolist())
                assert mask.mode == "P"
            mask.save(root / part / "masks" / f"{number}.png")
    return root


def refused(path: pathlib.Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        load.load(Wanted(str(path), **changes))
    message = str(caught.value)
    assert "\n" not in message and "allowed: " in message
    return message


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_of_images_and_masks(tmp_path: pathlib.Path, test: str, streaming: bool) -> None:
    data = load.load(Wanted(str(made(tmp_path, test)), streaming=streaming))
    assert (data.masks, data.classes, data.shape) == (True, 40, (SIDE, SIDE, 3))
    for split, numbers in ((data.train, (0, 1, 2)), (data.test, (3, 4))):
        assert split.size == len(numbers)
        for row, number in enumerate(numbers):
            if isinstance(split, arrays.Split):
                image, mask = split.images[row], split.labels[row]
            else:
                image, mask = split.example(row)
            np.testing.assert_array_equal(image, coded(number))
            np.testing.assert_array_equal(mask, MASK + number)
            assert mask.dtype == np.uint8


def test_the_void_is_no_label(tmp_path: pathlib.Path) -> None:
    root = made(tmp_path)
    Image.fromarray(np.where(MASK < 5, MASK, 255).astype(np.uint8)).save(root / "test/masks/4.png")
    assert load.load(Wanted(str(root))).classes == 39


def test_what_is_no_folder_of_pairs_is_refused(tmp_path: pathlib.Path) -> None:
    root = made(tmp_path)
    (root / "train/masks/2.png").rename(root / "2.png")
    assert "2.png' has no mask" in refused(root)
    Image.fromarray(coded(0)).save(root / "train/masks/2.png")
    assert "has pixels of kind RGB" in refused(root)
    Image.fromarray(MASK[1:]).save(root / "train/masks/2.png")
    assert "the mask of picture" in (message := refused(root)) and "is 23×24; allowed: 24×24" in message
    (root / "train/masks/2.png").write_bytes(b"no picture")
    assert "allowed: a PNG picture" in refused(root)
    (root / "train/images/2.png").rename(root / "3.png")
    assert "2.png' has no image" in refused(root)
    (root / "test").rename(root / "other")
    assert "none of test, val" in refused(root)


def test_arrays_with_masks(tmp_path: pathlib.Path) -> None:
    given = {
        f"{part}_{kind}": np.stack([each(n) for n in numbers])
        for part, numbers in (("train", (0, 1)), ("test", (2,)))
        for kind, each in (("images", coded), ("labels", lambda n: MASK.astype(np.int64) + n))
    }
    np.savez(tmp_path / "data.npz", **given)
    data = load.load(Wanted(str(tmp_path / "data.npz")))
    assert (data.masks, data.classes) == (True, 38) and data.train.labels.dtype == np.uint8
    np.testing.assert_array_equal(data.train.labels, given["train_labels"])
    np.savez(tmp_path / "data.npz", **{**given, "train_labels": given["train_labels"][:, 1:]})
    assert "allowed: 2, one label for each image, or 2×24×24, one for each pixel" in refused(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", **{**given, "train_labels": given["train_labels"] * 256})
    assert "allowed: 0 to 255" in refused(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", **{**given, "test_labels": np.zeros(1, int)})
    assert "allowed: both or none" in refused(tmp_path / "data.npz")


def test_a_prepared_data_set_with_masks(tmp_path: pathlib.Path) -> None:
    datasets = pytest.importorskip("tensorflow_datasets", reason="the extra `data` is not installed")

    class Masked(datasets.core.GeneratorBasedBuilder):
        VERSION = datasets.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {
                "image": datasets.features.Image(shape=(None, None, 3)),
                "outline": datasets.features.Image(shape=(None, None, 1)),
            }
            return datasets.core.DatasetInfo(builder=self, features=datasets.features.FeaturesDict(features))

        def _split_generators(self, manager: Any) -> Any:
            return {"train": self._generate_examples(range(3)), "test": self._generate_examples(range(3, 5))}

        def _generate_examples(self, numbers: range) -> Iterator[Any]:
            for number in numbers:
                found = {}
                for name, pixels in (("image", coded(number)), ("outline", (MASK + number).astype(np.uint8))):
                    buffer = io.BytesIO()
                    Image.fromarray(pixels).save(buffer, "PNG")
                    found[name] = buffer.getvalue()
                yield number, found

    datasets.disable_progress_bar()
    Masked(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    data = load.load(Wanted("tfds:masked#outline", folder=str(tmp_path)))
    assert (data.masks, data.classes, data.train.size) == (True, 40, 3)
    assert isinstance(data.train, arrays.Split)
    for image, mask in zip(*data.train, strict=True):  # TFDS shuffles what it writes
        np.testing.assert_array_equal(mask, MASK + image[0, 0, 2])
    with pytest.raises(UserError, match="image, outline; allowed: image and label, or image and a mask as"):
        load.load(Wanted("tfds:masked", folder=str(tmp_path)))


@pytest.mark.parametrize(
    "augmentation", [Augmentation(0, True, 0), Augmentation(5, False, 0), Augmentation(7, True, 9)]
)
def test_crops_and_mirrors_move_both(augmentation: Augmentation) -> None:
    """Each pixel that is left of an image has the label of the place that it says it comes from; all others none."""
    number = 16
    draws: Draws = random_draws(jax.random.key(3), number, (SIDE, SIDE), augmentation)
    images, masks = np.stack([coded(9)] * number), np.stack([MASK] * number)
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    uncut = augmentation._replace(cutout=0)
    seen = np.rint(255 * np.asarray(augment(images, draws, uncut, mean, std))).astype(int)
    labels = np.asarray(follow(masks, draws, augmentation, arrays.VOID))
    assert labels.shape == (SIDE, SIDE, number) and labels.dtype == np.int32
    inside = seen[2] == 9
    expected = np.where(inside, label_of((seen[0] - 1) // 10, (seen[1] - 1) // 10), arrays.VOID)
    np.testing.assert_array_equal(labels, expected)
    assert len({labels[..., n].tobytes() for n in range(number)}) > 1
    assert inside.all() == (augmentation.padding == 0)


def test_boxes_scale_both() -> None:
    """After a random box of any scale a pixel's label is that of the place it shows, to half a pixel of the source."""
    for seed in range(20):
        box = pictures.random_box(np.random.default_rng(seed), (SIDE, SIDE), 0.2)
        image = pictures.cut(coded(0), box, 17).astype(float)
        mask = pictures.cut(MASK[..., None], box, 17, exact=True)[..., 0]
        rows, columns = (image[..., 0] - 1) / 10, (image[..., 1] - 1) / 10
        near = [label_of(np.rint(rows + dy), np.rint(columns + dx)) for dy in (-0.51, 0.51) for dx in (-0.51, 0.51)]
        assert (mask == np.array(near)).any(0)[1:-1, 1:-1].all()
        assert set(np.unique(mask)) <= set(np.unique(MASK))


def setting(root: pathlib.Path, **data: Any) -> compose.Setting:
    given = {
        "task": {"name": "segmentation"},
        "data": {"source": str(root), "validation_fraction": 0.4, **data},
        "method": {"batch_size": 1},
        "network": {"auxiliary": False},
        "train": {"batch_size": 2},
        "runtime": {"devices": 1, "compilation_cache": ""},
    }
    return compose.setting(config.from_dict(given))


def test_a_batch_holds_both(tmp_path: pathlib.Path) -> None:
    s = setting(made(tmp_path), crop_padding=4)
    draw, rows = jax.random.key(1), np.array([2, 0, 1, 1])
    batch = compose.prepare(s, Feed(WHOLE, 4), "lower")(compose.examples(s)[0], rows, draw, {})
    mean, std = s.dataset.mean[:, None, None, None], s.dataset.std[:, None, None, None]
    seen = np.rint(255 * (np.asarray(batch.images) * std + mean)).astype(int)
    inside = seen[0] > 0
    expected = np.where(inside, label_of((seen[0] - 1) // 10, (seen[1] - 1) // 10) + seen[2], arrays.VOID)
    np.testing.assert_array_equal(batch.targets, expected)
    assert batch.targets.shape == (SIDE, SIDE, 4) and not inside.all()
    _, targets, _ = compose.prepare_evaluation(s)(compose.examples(s)[1], np.array([1]), np.ones(1))
    np.testing.assert_array_equal(targets[..., 0], MASK + 4)


def test_a_task_and_data_that_do_not_go_together_are_refused(tmp_path: pathlib.Path) -> None:
    small = {"network": {"auxiliary": False}, "runtime": {"devices": 1}}
    with pytest.raises(UserError, match="has masks; allowed: data with a label for each image"):
        compose.setting(config.from_dict({"data": {"source": str(made(tmp_path))}, **small}))
    with pytest.raises(UserError, match="a label for each image; allowed: data with masks"):
        compose.setting(config.from_dict({"task": {"name": "segmentation"}, **small}))


def test_masks_of_few_bits_and_a_test_folder_without_masks(tmp_path: pathlib.Path) -> None:
    root = made(tmp_path, "val")
    (root / "test/images").mkdir(parents=True)
    Image.fromarray(coded(0)).save(root / "test/images/0.png")
    (root / "train/images/notes.txt").write_text("no picture")
    data = load.load(Wanted(str(root)))
    assert data.test.size == 2 and len(data.notes) == 3
    assert data.notes[0].endswith(": test has no labels as train has them; evaluated on val")
    assert data.notes[1].endswith(": 1 file passed over (1 .txt)")
    assert data.notes[2] == "no training mask has a pixel of the label 38, 39, and test masks have 38, 39"
