"""Outputs for each pixel through the whole house: every backbone with DeepLab's head, streamed and in memory, on one
device and two, and a run from its folder of images and masks to its report."""

import json
import math
import pathlib
import tomllib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dass_jax import accounting, compose, config, feed, variables
from dass_jax.deploy import __main__ as deploy
from dass_jax.errors import UserError
from dass_jax.networks import NETWORKS, Entry, dso
from dass_jax.networks.model import of_module
from dass_jax.nn.heads import head, size_of
from dass_jax.nn.layers import batch_norm, one_device
from dass_jax.report import records, sections, style
from dass_jax.runtime import calls, epoch, parallel
from dass_jax.runtime.signals import Signals
from dass_jax.schema import Empty
from dass_jax.spaces import SPACES
from dass_jax.tasks import Pixels
from tests import runs

RNG = np.random.default_rng(0)
OUTPUTS = Pixels(5, 16, (1, 2), 4)
SIDE = 64
FIELDS: dict[str, Any] = {
    "darts": {"cells": 3, "channels": 2, "stem": "imagenet"},
    "nasbench201": {"cells": 1, "channels": 2},
    "dso": {"stages": (1, 1, 1, 1), "channels": 2, "stem": "imagenet"},
    "mobile": {"stages": (1, 2, 1, 1, 2), "width": 0.01},
    "enas_macro": {"channels": 2},
    "enas_micro": {"layers": 1, "channels": 2},
}
STRIDES = {"darts": 16, "nasbench201": 4, "dso": 16, "mobile": 16, "enas_macro": 4, "enas_micro": 4}
"""Of images to the head's maps: those of DARTS and DSO-NAS would be 32 times smaller."""
SPACE_FIELDS: dict[str, Any] = {
    "darts": {"nodes": 2},
    "dso": {"levels": 2, "operations": ("sep3", "max3")},
    "enas_macro": {"layers": 3},
}


def backbone(name: str) -> Any:
    """(space, an architecture of it, its network) with outputs for pixels."""
    c = SPACES[name].schema(**FIELDS[name], **SPACE_FIELDS.get(name, {}))
    space = SPACES[name].make(c, OUTPUTS, one_device, None)
    architecture = space.sample(np.random.default_rng(1))
    fields = NETWORKS[name].schema(**FIELDS[name])
    return space, architecture, NETWORKS[name].make(architecture, fields, OUTPUTS, False, one_device, None)


def zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize("name", FIELDS)
def test_every_backbone_has_outputs_for_each_pixel(name: str) -> None:
    space, architecture, net = backbone(name)
    shape = (SIDE, SIDE, 3)
    images = jax.ShapeDtypeStruct((3, SIDE, SIDE, 2), jnp.float32)
    choice = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, space.encode(architecture)))
    for part, init, apply in (
        ("space", space.init, lambda v, x, c: space.apply(v["params"], v["batch_stats"], c, x, True)[0]),
        ("network", net.init, lambda v, x, c: net.apply(v["params"], v["batch_stats"], x, False)[0]),
    ):
        v = jax.eval_shape(lambda init=init: init(jax.random.key(0), shape))
        found: list[Any] = []

        def forward(v: Any = v, apply: Any = apply, found: list[Any] = found) -> Any:
            found.append(apply(*zeros((v, images, choice))))
            return found[-1]

        pixels = accounting.positions(forward)["head/classifier"]
        assert found[0].shape == (5, SIDE, SIDE, 2), part
        assert pixels == (SIDE // STRIDES[name]) ** 2, part
        flat = variables.flatten(v["params"])
        channels = flat["head/branch_0/conv/conv/weight"].shape[1]
        own = {path: leaf for path, leaf in flat.items() if path.startswith("head/") and path.endswith("weight")}
        assert sum(math.prod(leaf.shape) for leaf in own.values()) == size_of(OUTPUTS, channels, pixels)[0], part


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_v2_s"])
def test_published_networks_have_outputs_for_each_pixel(name: str) -> None:
    net = NETWORKS[name].make(None, NETWORKS[name].schema(width=0.1), OUTPUTS, False, one_device, None)
    v = jax.eval_shape(lambda: net.init(jax.random.key(0), (16, 24, 3)))
    images = jnp.zeros((3, 16, 24, 2))
    found = jax.eval_shape(lambda: net.apply(*(zeros(v[part]) for part in ("params", "batch_stats")), images, True)[0])
    assert found.shape == (5, 16, 24, 2)


def test_weights_and_products_of_the_head_are_in_the_counts() -> None:
    """Exact against the closed form of DSO-NAS' network, which knows the head's and the strides."""
    _, architecture, net = backbone("dso")
    v = jax.eval_shape(lambda: net.init(jax.random.key(0), (SIDE, SIDE, 3)))

    def forward() -> Any:
        values = zeros(v)
        return net.apply(values["params"], values["batch_stats"], jnp.zeros((3, SIDE, SIDE, 1)), False)

    kept = accounting.kept_of_fraction(v["params"], net.rules, 1.0)
    count = accounting.count(v["params"], net.rules, kept, 1.0, forward)
    sizes = dso.Sizes(OUTPUTS, (1, 1, 1, 1), 2, "imagenet")
    assert dso.size(architecture, sizes, (3, SIDE, SIDE)) == (count.prunable, count.macs)


def test_an_auxiliary_classifier_is_refused() -> None:
    with pytest.raises(UserError, match=r"network\.auxiliary = true where each pixel has outputs; allowed: false"):
        NETWORKS["darts"].make(None, NETWORKS["darts"].schema(), OUTPUTS, True, one_device, None)


def folder(root: pathlib.Path) -> pathlib.Path:
    """Twelve images of blocks in four colours and five to test; a block's label is its colour, of which 3, the last, is
    ignored."""
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [90, 90, 90]], np.uint8)
    for part, number in (("train", 12), ("test", 5)):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for n in range(number):
            mask = np.kron(RNG.integers(0, 4, (2, 2)), np.ones((4, 4), int)).astype(np.uint8)
            noisy = np.clip(colours[mask] + RNG.integers(-20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / part / "images" / f"{n}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{n}.png")
    return root


class Spot(nn.Module):
    """A head and nothing else."""

    outputs: Pixels

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, path_scale: Any = None) -> Any:
        return head(self.outputs, batch_norm(train, affine=True), x.shape[1:3])(x), None


@pytest.fixture
def spot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is compiled in a moment."""
    entry = Entry(Empty, lambda architecture, c, outputs, *_: of_module(Spot(outputs), (0,)), of_architecture=False)
    monkeypatch.setitem(NETWORKS, "spot", entry)


def written(root: pathlib.Path, streaming: str = "false") -> str:
    return f"""
controls = []
network = {{ name = "spot" }}
method = {{ name = "given" }}
task = {{ name = "segmentation", ignore = 3, rates = [1], depth = 4, names = ["red"] }}
data = {{ source = "{root}", crop_padding = 1, streaming = {streaming} }}
train = {{ recipe = "dense", epochs = 2, batch_size = 4 }}
[runtime]
devices = 1
"""


def test_an_evaluation_adds_up_over_devices_batches_and_parts(spot: None, tmp_path: pathlib.Path) -> None:
    """Five images in batches of two: the same matrix in memory and streamed, on one device and two."""
    root, found = folder(tmp_path), []
    for streaming, devices in (("false", 1), ("true", 1), ("true", 2)):
        s = compose.setting(config.from_dict(tomllib.loads(written(root, streaming))))
        s = s._replace(devices=parallel.all_devices(devices))

        def outputs(v: Any, images: jax.Array) -> jax.Array:
            return (v["w"] @ images.reshape(3, -1)).reshape(images.shape)

        total = s.layout.over_devices(parallel.total)
        function = epoch.evaluation(outputs, s.task.sums, compose.prepare_evaluation(s), total)
        network = s.layout.put({"w": 5 * np.eye(3, dtype=np.float32)[None]})

        def compile(name: str, function: Any, arguments: Any, donate: bool, s: Any = s) -> Any:
            return s.layout.program(function, arguments, donate)

        of = feed.streamed(s, 2 * 8 * 8 * 3) if streaming == "true" else feed.of(s)
        sums = calls.evaluate(of.evaluate(s, "evaluation", function, network, 2, compile), network, Signals(), 0.0)
        found.append(sums)
    masks = [np.asarray(Image.open(file)) for file in sorted((root / "test/masks").iterdir())]
    for sums in found:
        assert sums["confusion"].shape == (1, 3, 3) and sums["images"] == 5
        np.testing.assert_array_equal(sums["confusion"], found[0]["confusion"])
        assert sums["confusion"].sum() == sum((mask < 3).sum() for mask in masks)
        np.testing.assert_allclose(sums["loss"], found[0]["loss"], rtol=1e-6)
    assert s.task.figures({name: x[0] for name, x in found[0].items()})["pixel_accuracy"] > 99  # the colour says it


def test_a_run_trains_and_shows_what_it_predicts(spot: None, tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "data")
    with runs.workplace(tmp_path, written(root)), runs.undrawn():
        done = runs.command(tmp_path / "run")
    assert done.code == 0, done.err
    results = runs.results(done.folder)
    assert results["task"]["metric"] == "mIoU" and results["task"]["examples"] == 5
    assert set(results["evaluations"]["dense"]) == {"mIoU", "pixel_accuracy", "loss"}
    run = records.read(done.folder)
    (shown,) = run.shown
    masks = [np.asarray(Image.open(root / f"test/masks/{n}.png")) for n in range(4)]
    np.testing.assert_array_equal(shown.targets, masks)
    assert (shown.method, shown.labels, shown.names) == ("spot", 3, ("red",)) and shown.predictions.max() < 3
    with style.settings():
        assert "Predictions" in sections.predictions(run)
    out = tmp_path / "deployed"
    assert deploy.main([str(done.folder), "--out", str(out), "--formats", "stablehlo", "packed"]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["output"]["shape"] == [3, 8, 8] and "Output: [N, 3, 8, 8]." in (out / "report.md").read_text()
    dense = results["evaluations"]["dense"]
    for one in (report["masked"], report["compacted"], *report["files"].values()):
        assert (one["images"], one["predictions"]) == (5, 5 * 64)
        rounded = one is report["files"]["network.float16.packed"]
        assert one["mIoU"] == pytest.approx(dense["mIoU"], abs=1 if rounded else 1e-3)
    assert report["compacted"]["changed"] == 0
