"""Every shipped configuration, as far as it goes without its data: stand-ins have their shapes and nothing else."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import architectures, compose, config
from dass_jax.compose import Setting
from dass_jax.data import arrays, load, tfds
from dass_jax.errors import UserError
from dass_jax.nn.layers import one_device
from dass_jax.variables import PARAMS, flatten

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.toml"))
SHAPES = {
    "digits": (8, 8, 1),
    "cifar10.npz": (32, 32, 3),
    "tfds:cifar10": (32, 32, 3),
    "mnist.npz": (28, 28, 1),
    "tfds:imagenet2012": (224, 224, 3),
    "camvid": (360, 480, 3),
}
"""By `data.source`."""
IMAGES, OF_CAMVID = 10_000, 367
"""As many as there are at least; all of CamVid's are read."""


def stand_in(shape: tuple[int, int, int]) -> Callable[[str, str], Any]:
    """`load.opened` of black images; those of ImageNet are of 300×260 pixels and read one by one."""

    def found(one: Any, classes: int) -> arrays.Opened:
        digest = (lambda: f"black {shape}",) * 2 if isinstance(one, arrays.Source) else None
        return arrays.Opened(one, one, tuple(map(str, range(classes))), stamps=digest)

    def opened(source: str, folder: str, most_bytes: int | None) -> arrays.Opened:
        if shape[0] == 224:
            one = arrays.Source(IMAGES, lambda row: (np.zeros((300, 260, 3), np.uint8), row % 1000), str)
            return found(one, 1000)
        if shape == SHAPES["camvid"]:
            pair = np.zeros(shape, np.uint8), np.zeros(shape[:2], np.uint8)
            one = arrays.Source(OF_CAMVID, lambda row: pair, str, masks=True)
            return found(one, 12)
        images = np.broadcast_to(np.zeros(shape, np.uint8), (IMAGES, *shape))
        split = arrays.Split(images, np.arange(IMAGES, dtype=np.int32) % 10)
        return found(split, 10)

    return opened


def setting_of(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Setting, tuple[int, int, int]]:
    found = config.load(path)
    shape = SHAPES[found.data.source]
    monkeypatch.setattr(load, "opened", stand_in(shape))
    return compose.setting(found), shape


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_builds_its_setting(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s, shape = setting_of(path, monkeypatch)
    size = s.config.data.image_size
    assert s.image_shape == ((size, size, shape[-1]) if size else shape)
    images = OF_CAMVID if shape == SHAPES["camvid"] else IMAGES
    assert s.dataset.train.size == (s.config.data.limit or images)
    assert isinstance(s.dataset.train, arrays.Source) == s.config.data.streaming


def test_an_imagenet_file_has_the_network_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = (path for path in CONFIGS if path.stem == "imagenet_dass_small")
    s, _ = setting_of(path, monkeypatch)
    model = compose.model(s, architectures.load(s.config.architecture), auxiliary=True, average=one_device)
    params = flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), s.image_shape))[PARAMS])
    heads = [leaf.shape for path, leaf in params.items() if path.endswith("linear/weight")]
    # Two reductions double 48 channels to 192, of which a cell's four nodes make 768; the auxiliary head has 768 too.
    assert sorted(heads) == [(1000, 768), (1000, 768)]
    image = compose.view(s, "pretrain", 0, 128)(np.zeros((300, 260, 3), np.uint8), 5)
    assert image.shape == compose.centred(s)(np.zeros((300, 260, 3), np.uint8), 0).shape == (224, 224, 3)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.startswith("imagenet")], ids=lambda p: p.stem)
def test_absent_images_are_answered_at_once_with_the_command_of_the_header(
    path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(UserError, match="is not prepared in") as caught:
        compose.setting(config.load(path))
    assert time.monotonic() - start < 1
    prepare = tfds.command("imagenet2012", "")
    assert prepare in str(caught.value) and prepare in path.read_text(encoding="utf-8")
