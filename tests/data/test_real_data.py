"""Real pictures, where they are: the folder that the variable DASS_JAX_DATA names (its README.md says what it holds).

CIFAR-10 and MNIST against their published statistics; Imagenette as a data set that TFDS writes, as class folders, and
streamed through a training that is interrupted.
"""

import functools
import importlib.util
import io
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dass_jax.data import arrays, load
from dass_jax.data.load import Wanted
from tests.runs import SYSTEM, command, interrupted, last, metrics, results, timeless, undrawn, workplace

FOLDER = pathlib.Path(os.environ.get("DASS_JAX_DATA", ""))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "imagenette224_small.zip").is_file(), reason="DASS_JAX_DATA names no folder with the real data"
)
CLASSES = ("n01440764", "n02102040", "n02979186")
EACH = {"train": 8, "val": 4}


@functools.cache
def pictures() -> dict[str, list[tuple[bytes, int]]]:
    """ "train" and "val" → (JPEG, label) of a few pictures of three of Imagenette's classes, class by class."""
    with zipfile.ZipFile(FOLDER / "imagenette224_small.zip") as archive:
        names = sorted(archive.namelist())

        def some(part: str, label: int) -> list[tuple[bytes, int]]:
            own = [name for name in names if f"/{part}/{CLASSES[label]}/" in name and name.endswith(".JPEG")]
            return [(archive.read(name), label) for name in own[: EACH[part]]]

        return {part: [pair for label in range(3) for pair in some(part, label)] for part in EACH}


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """TFDS' folder with "small", whose records hold the JPEG files as they are."""
    datasets = pytest.importorskip("tensorflow_datasets", reason="the extra `data` is not installed")

    class Small(datasets.core.GeneratorBasedBuilder):
        VERSION = datasets.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {"image": datasets.features.Image(shape=(None, None, 3), encoding_format="jpeg")}
            features["label"] = datasets.features.ClassLabel(names=list(CLASSES))
            return datasets.core.DatasetInfo(builder=self, features=datasets.features.FeaturesDict(features))

        def _split_generators(self, manager: Any) -> Any:
            return {name: self._generate_examples(part) for name, part in (("train", "train"), ("validation", "val"))}

        def _generate_examples(self, part: str) -> Iterator[Any]:
            for number, (jpeg, label) in enumerate(pictures()[part]):
                yield number, {"image": jpeg, "label": label}

    folder = tmp_path_factory.mktemp("tfds")
    datasets.disable_progress_bar()
    Small(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """CIFAR-10's parts as the folder's own script writes them."""
    spec = importlib.util.spec_from_file_location("unpack", FOLDER / "unpack.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("npz")
    module.cifar10(folder)
    return folder


def test_cifar10_is_whole_and_has_its_published_statistics(unpacked: pathlib.Path) -> None:
    data = load.load(Wanted(str(unpacked / "cifar10.npz")))
    assert (data.train.size, data.test.size, data.classes, data.shape) == (50_000, 10_000, 10, (32, 32, 3))
    np.testing.assert_allclose(data.mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(data.std, [0.2470, 0.2435, 0.2616], atol=5e-5)
    assert isinstance(data.train, arrays.Split) and isinstance(data.test, arrays.Split)
    assert (
        np.bincount(data.train.labels).tolist() == [5000] * 10 and np.bincount(data.test.labels).tolist() == [1000] * 10
    )


def test_mnist_has_its_published_statistics() -> None:
    data = load.load(Wanted(str(FOLDER / "mnist.npz")))
    assert (data.train.size, data.test.size, data.classes, data.shape) == (60_000, 10_000, 10, (28, 28, 1))
    assert (float(data.mean[0]), float(data.std[0])) == pytest.approx((0.1307, 0.3081), abs=5e-5)


def test_what_tfds_has_written_are_the_pictures_with_their_classes(prepared: pathlib.Path) -> None:
    data = load.load(Wanted("tfds:small", folder=str(prepared)))
    assert isinstance(data.train, arrays.Split) and isinstance(data.test, arrays.Split)
    assert (data.classes, data.shape) == (3, (224, 224, 3))
    for split, part in ((data.train, "train"), (data.test, "val")):
        known = {pixels(jpeg).tobytes(): label for jpeg, label in pictures()[part]}
        found = {image.tobytes(): int(label) for image, label in zip(*split, strict=True)}
        assert found == known and len(found) == 3 * EACH[part]


def test_class_folders_are_the_same_data(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for part, found in pictures().items():
        for number, (jpeg, label) in enumerate(found):
            (tmp_path / part / CLASSES[label]).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / CLASSES[label] / f"{number}.JPEG").write_bytes(jpeg)
    one = load.load(Wanted(str(tmp_path), image_size=32))
    other = load.load(Wanted("tfds:small", folder=str(prepared), image_size=32))
    assert isinstance(one.train, arrays.Split) and isinstance(other.train, arrays.Split)
    pairs = [{(image.tobytes(), int(label)) for image, label in zip(*x.train, strict=True)} for x in (one, other)]
    assert pairs[0] == pairs[1] and len(pairs[0]) == 24
    np.testing.assert_array_equal((one.mean, one.std), (other.mean, other.std))


def test_a_streamed_training_on_random_boxes_goes_on_to_the_same_bits(
    prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    data = f'source = "tfds:small", folder = "{prepared}", streaming = true, image_size = 16, crop_scale = 0.08'
    data += ', crop_padding = 0, statistics = "imagenet", brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.2'
    text = f"""
controls = []
plugins = ["{SYSTEM}"]
data = {{ {data} }}
space = {{ name = "ladder" }}
sparsity = {{ keep = 0.3 }}
method = {{ name = "random" }}
train = {{ batch_size = 8, pretrain_epochs = 2, score_epochs = 1, finetune_epochs = 1 }}
[runtime]
devices = 1
"""
    with undrawn(), workplace(tmp_path, text) as folder:
        whole = command(folder / "whole")
        stopped = interrupted(folder / "stopped", 1)
        resumed = command(folder / "stopped")
    assert (whole.code, stopped.code, resumed.code) == (0, 130, 0), whole.err
    assert timeless(metrics(whole.folder)) == timeless(metrics(resumed.folder))
    assert results(whole.folder)["task"]["examples"] == 12
    one, other = last(whole.folder), last(resumed.folder)
    assert all(leaf.tobytes() == other.leaves[path].tobytes() for path, leaf in one.leaves.items())


@pytest.mark.skipif(not (FOLDER / "camvid_small.zip").is_file(), reason="DASS_JAX_DATA has no CamVid")
def test_camvid_has_its_labels_where_its_things_are(tmp_path: pathlib.Path) -> None:
    with zipfile.ZipFile(FOLDER / "camvid_small.zip") as archive:
        archive.extractall(tmp_path)
    root = tmp_path / "camvid_small"
    data = load.load(Wanted(str(root), image_size=96))
    assert (data.train.size, data.test.size, data.classes, data.shape) == (20, 6, 12, (96, 96, 3))
    assert isinstance(data.train, arrays.Split) and data.train.labels.shape == (20, 96, 96)
    places = np.broadcast_to(np.arange(96)[:, None], (20, 96, 96))
    means = [[x[data.train.labels == n].mean() for n in range(12)] for x in (data.train.images.mean(-1), places)]
    assert means[0][0] > 2 * max(means[0][1:]), "the sky is the lightest"
    assert int(np.argmin(means[1])) == 0 and int(np.argmax(means[1])) == 3, "it is above all, and the road below"
    whole = load.load(Wanted(str(root)))
    assert isinstance(whole.test, arrays.Split) and whole.shape == (360, 480, 3)
    first = sorted((root / "test/masks").iterdir())[0]
    np.testing.assert_array_equal(whole.test.labels[0], np.asarray(Image.open(first)))
