"""A data set that tensorflow-datasets writes, read back without TensorFlow; and absent ones, answered at once."""

import io
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dass_jax.data import arrays, load, tfds
from dass_jax.data.load import Wanted
from dass_jax.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (7, 6, 6, 3), np.uint8),
    "validation": RNG.integers(0, 256, (4, 6, 6, 3), np.uint8),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """TFDS' folder, with "tiny": no labels in test, 7 images to train and 4 to validate, image n of class n % 3."""
    datasets = pytest.importorskip("tensorflow_datasets", reason="the extra `data` is not installed")

    class Tiny(datasets.core.GeneratorBasedBuilder):
        VERSION = datasets.core.Version("1.0.0")

        def _info(self) -> Any:
            image, label = datasets.features.Image(shape=(None, None, 3)), datasets.features.ClassLabel(num_classes=3)
            return datasets.core.DatasetInfo(
                builder=self, features=datasets.features.FeaturesDict({"image": image, "label": label})
            )

        def _split_generators(self, manager: Any) -> Any:
            parts = {name: self._generate_examples(images, 3) for name, images in IMAGES.items()}
            return {**parts, "test": self._generate_examples(IMAGES["train"][:2], 0)}

        def _generate_examples(self, images: np.ndarray, classes: int) -> Iterator[Any]:
            for number, pixels in enumerate(images):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                yield number, {"image": buffer.getvalue(), "label": number % classes if classes else -1}

    folder = tmp_path_factory.mktemp("tfds")
    datasets.disable_progress_bar()
    Tiny(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def no_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TFDS that must not be asked."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)


def by_pixels(images: np.ndarray, labels: np.ndarray) -> dict[bytes, int]:
    return {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


def test_a_prepared_data_set_is_read_back(written: pathlib.Path) -> None:
    data = load.load(Wanted("tfds:tiny", folder=str(written)))
    assert isinstance(data.train, arrays.Split) and isinstance(data.test, arrays.Split)
    assert (data.classes, data.shape) == (3, (6, 6, 3))
    for split, images in ((data.train, IMAGES["train"]), (data.test, IMAGES["validation"])):
        assert by_pixels(*split) == by_pixels(images, np.arange(len(images)) % 3)  # TFDS shuffles what it writes
    assert "tensorflow" not in sys.modules


def test_it_streams_too(written: pathlib.Path) -> None:
    data = load.load(Wanted("tfds:tiny", folder=str(written), streaming=True, limit=5))
    assert isinstance(data.train, arrays.Source) and data.train.size == 5
    known = by_pixels(IMAGES["train"], np.arange(7) % 3)
    for row in range(5):
        image, label = data.train.example(row)
        assert known[image.tobytes()] == label
    assert data.train.name(0).startswith("data.source = 'tfds:tiny': image ")


@pytest.mark.usefixtures("no_builder")
@pytest.mark.parametrize("name", ["cifar10", "imagenet2012", "some_corpus/its_config"])
def test_absent_data_are_answered_at_once_with_the_command(tmp_path: pathlib.Path, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        load.load(Wanted(f"tfds:{name}", folder=str(tmp_path)))
    assert time.monotonic() - start < 1
    assert str(caught.value).startswith(f"data.source = 'tfds:{name}' is not prepared in '{tmp_path}'; allowed: ")
    assert f"tfds.builder('{name}', file_format='array_record', data_dir='{tmp_path}').download" in str(caught.value)


@pytest.mark.usefixtures("no_builder")
def test_the_default_folder_is_that_of_tfds(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    with pytest.raises(UserError, match=r"is not prepared in '.*/there'"):
        tfds.opened("mnist", "")
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"is not prepared in '{tmp_path}/tensorflow_datasets'"):
        tfds.opened("mnist", "")


def test_data_in_another_format_and_names_that_are_none_are_refused(tmp_path: pathlib.Path) -> None:
    version = tmp_path / "old" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"name": "old", "fileFormat": "tfrecord"}')
    with pytest.raises(
        UserError, match="is there as tfrecord; allowed: array_record, as this prepares it: pip install"
    ):
        tfds.opened("old", str(tmp_path))
    for name in ("", "../old", "a b", "x;y"):
        with pytest.raises(UserError, match="allowed: tfds:NAME"):
            tfds.opened(name, str(tmp_path))


@pytest.mark.usefixtures("no_builder")
def test_a_missing_package_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x" / "1.0.0").mkdir(parents=True)
    (tmp_path / "x" / "1.0.0" / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    with pytest.raises(UserError, match=r"tensorflow_datasets\); allowed: after pip install 'dass_jax\[data\]'"):
        tfds.opened("x", str(tmp_path))


def test_damaged_files_are_one_line(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(written / "tiny", tmp_path / "tiny")
    shard = next(tmp_path.glob("tiny/1.0.0/*train.array_record*"))
    content = bytearray(shard.read_bytes())
    content[100:200] = bytes(100)
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"image \d of train cannot be read"):
        load.load(Wanted("tfds:tiny", folder=str(tmp_path)))
    shard.unlink()
    with pytest.raises(UserError, match="train cannot be read: "):
        load.load(Wanted("tfds:tiny", folder=str(tmp_path)))


def test_a_description_that_is_none_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x" / "1.0.0").mkdir(parents=True)
    (tmp_path / "x" / "1.0.0" / "dataset_info.json").write_text("{no json")
    with pytest.raises(UserError, match="cannot be read"):
        tfds.opened("x", str(tmp_path))
