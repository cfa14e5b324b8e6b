"""Features of finished networks: τ and maps against definitions, and a tiny experiment that leaves and draws them."""

import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import architectures, compose, pipeline, report, sparsity, variables
from dass_jax.architectures.darts import Genotype
from dass_jax.config import title
from dass_jax.deploy import check, images, source
from dass_jax.errors import UserError, guarded
from dass_jax.experiment import execute, features, plan, sharing
from dass_jax.experiment.__main__ import main
from dass_jax.networks.derived import NetworkConfig, cell_maps, derived
from dass_jax.nn.heads import Classifier
from dass_jax.report.experiment import data
from dass_jax.report.experiment import features as drawn
from dass_jax.runner import TRAINING
from dass_jax.runtime import shelf
from dass_jax.variables import BATCH_STATS, PARAMS
from tests import runs
from tests.runs import last, results, undrawn, workplace

CELL = ((("skip_connect", 0), ("avg_pool_3x3", 1)),)
GIVEN = Genotype(CELL, CELL)
EXPERIMENT = """
title = "Features"
base = "run.toml"
[axes]
seed = [0, 1]
[report]
tables = ["kendall"]
figures = ["kendall", "tsne"]
kendall_images = 5
tsne_images = 20
tsne_cell = 1
"""


def by_pairs(one: np.ndarray, other: np.ndarray) -> float:
    """τ-b by its definition: concordant less discordant pairs, over the geometric mean of the pairs without ties."""
    pairs = list(itertools.combinations(zip(one.tolist(), other.tolist(), strict=True), 2))
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in pairs]
    untied = [sum(sign[which] != 0 for sign in signs) for which in (0, 1)]
    return sum(x * y for x, y in signs) / np.sqrt(untied[0] * untied[1])


def test_kendall_is_taken_image_by_image_and_cell_by_cell() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 9, (19, 2, 3, 1), np.uint8)
    other = rng.integers(0, 9, (19, 2, 3, 1))

    def maps(v: Any, images: Any) -> Any:
        x = jax.numpy.moveaxis(images, 0, -1).astype("float32")
        return (v["scale"] * x, v["add"][: x.shape[0]] + x, 0 * x)

    # The first cell is turned upside down, the second moved by different amounts, the third is constant.
    one = {"scale": 1.0, "add": np.zeros((2, 3, 1, 1), np.float32)}
    two = {"scale": -1.0, "add": other[0][..., None].astype(np.float32)}
    found = features.kendall(maps, one, two, images)
    assert found.shape == (19, 3) and found[:, 0] == pytest.approx(-1) and np.isnan(found[:, 2]).all()
    wanted = [by_pairs(image.ravel(), (image + other[0]).ravel()) for image in images.astype(int)]
    np.testing.assert_allclose(found[:, 1], wanted, rtol=1e-12)


def test_pooled_features_are_means_over_pixels() -> None:
    images = np.random.default_rng(1).integers(0, 256, (21, 4, 5, 3), np.uint8)

    def maps(v: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 0 * x.T, v * jax.numpy.moveaxis(x, (0, 3), (3, 0)).astype("float32")

    found = features.pooled(maps, 2.0, images, 1)
    np.testing.assert_allclose(found, 2 * images.mean((1, 2)), rtol=1e-5)


def test_the_map_keeps_two_clusters_apart_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(2)
    far = np.repeat([[0.0], [50.0]], 15, axis=0) + rng.normal(size=(30, 4))
    found = features.embedded(far)
    assert found.shape == (30, 2) and found.dtype == np.float32
    near = np.linalg.norm(found[:, None] - found[None], axis=-1) + 1e9 * np.eye(30)
    assert all((row.argmin() < 15) == (index < 15) for index, row in enumerate(near))
    np.testing.assert_array_equal(found, features.embedded(far))


@pytest.mark.parametrize("channels", [0, 1])
def test_features_that_hardly_differ_have_a_map(channels: int) -> None:
    """scikit-learn's t-SNE ends the process when all images have the same features, as a dead network gives them."""
    dead = np.ones((12, 3), np.float32)
    dead[:, :channels] = np.arange(12)[:, None]
    found = features.embedded(dead)
    assert found.shape == (12, 2) and np.isfinite(found).all() and (found.any() == bool(channels))


def test_the_last_cell_s_map_is_what_the_classifier_sees() -> None:
    sizes = NetworkConfig(classes=3, cells=3, channels=2, auxiliary=False)
    net = derived(GIVEN, sizes)
    v = net.init(jax.random.key(0), (8, 8, 3))
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 2))
    found = jax.jit(cell_maps(GIVEN, sizes))(v[PARAMS], v[BATCH_STATS], images)
    assert [x.shape for x in found] == [(2, 8, 8, 2), (4, 4, 4, 2), (8, 2, 2, 2)]
    wanted, _, _ = jax.jit(net.apply, static_argnums=3)(v[PARAMS], v[BATCH_STATS], images, False)
    logits = Classifier(3).apply({"params": v[PARAMS]["head"]}, found[-1])
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("features")
    (folder / "cell.json").write_text(json.dumps(architectures.to_json(GIVEN)), encoding="utf-8")
    short = runs.GIVEN.replace("_epochs = 2", "_epochs = 1")
    with undrawn(), workplace(folder, f"architecture = {str(folder / 'cell.json')!r}\n{short}"):
        file = folder / "features.toml"
        file.write_text(EXPERIMENT, encoding="utf-8")
        code = guarded(lambda: main([str(file), "--out", str(folder / "out")]))
        yield SimpleNamespace(code=code, file=file, out=folder / "out", plan=plan.load(file))


def test_an_experiment_leaves_what_its_figures_show(done: SimpleNamespace) -> None:
    assert done.code == 0
    read = data.read(done.out)
    for row in read.rows:
        found = data.features(read, row)
        assert found["kendall"].shape == (5, 1) and found["embedding"].shape == (20, 2)
        assert found["asked"] == {"kendall_images": 5, "tsne_images": 20, "tsne_cell": 1}
        assert set(found["labels"].tolist()) <= set(range(10))
    assert {path.name for path in (done.out / "figures").iterdir()} == {"kendall.svg", "tsne_1.svg"}
    lines = (done.out / "tables" / "kendall.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "cell,given τ × 100,std" and [line.split(",")[0] for line in lines[1:]] == ["1", "mean"]
    seeds = np.array([data.features(read, row)["kendall"].mean(0) for row in read.rows])
    assert float(lines[1].split(",")[1]) == pytest.approx(100 * seeds[:, 0].mean(), abs=0.06)
    assert float(lines[2].split(",")[2]) == pytest.approx(100 * seeds.mean(1).std(ddof=1), abs=0.06)


def test_the_two_networks_are_the_ends_of_pretraining_and_fine_tuning(done: SimpleNamespace) -> None:
    run = done.plan.runs[0]
    own, s = done.out / "runs" / run.name, compose.setting(run.config)
    phases, test = compose.training(s, GIVEN).phases, s.dataset.test
    shared = sharing.shelf(run.config, execute.machine(run), done.out / "shared")
    dense = shelf.take(pipeline.on_shelf(s, shared(title(run.config), TRAINING, phases[0], GIVEN)))
    for kept, which, chain in ((dense, "dense", phases[:1]), (last(own), "sparse", phases)):
        v = features._variables(s, chain, kept)
        kept_share = np.mean(np.concatenate([m.ravel() for m in jax.tree.leaves(v[variables.MASKS])]))
        assert kept_share == 1 if which == "dense" else kept_share < 0.7
        maps = jax.jit(compose.cell_maps(s, GIVEN))(v, test.images)
        logits = Classifier(10).apply({"params": sparsity.apply_masks(v[PARAMS], v[variables.MASKS])["head"]}, maps[-1])
        right = 100 * float((logits.argmax(-1) == test.labels).mean())
        wanted = results(own)["evaluations"][which]["accuracy"]
        assert right == pytest.approx(wanted, abs=0.01), "the accuracy that the run has"


def test_a_run_of_an_experiment_can_be_deployed(done: SimpleNamespace) -> None:
    own = done.out / "runs" / done.plan.runs[0].name
    found, evaluations, kept = source.trained(own), results(own)["evaluations"], results(own)["parameters"]["kept"]
    steps = sorted(int(path.name) for path in (own / "checkpoints").iterdir())
    other = source.trained(own / "checkpoints" / str(steps[-1]))
    assert (found.name, found.kept, found.network.result) == (other.name, kept, other.network.result)
    jax.tree.map(np.testing.assert_array_equal, found.params, other.params)
    assert found.network.result == evaluations["sparse"]["accuracy"]
    assert found.network.architecture == results(own)["architecture"]
    outcome = check.compare(images.tested(found, None, False).found, {})["masked"]
    assert outcome.figures == pytest.approx(evaluations["sparse"], abs=1e-3) and outcome.images == 360
    dense = source.trained(own / "checkpoints" / str(steps[-3]))
    assert (dense.keep, dense.network.result) == (None, evaluations["dense"]["accuracy"])


def test_more_is_done_only_where_it_is_asked_for(done: SimpleNamespace, tmp_path: pathlib.Path) -> None:
    run = done.plan.runs[0]
    own = done.out / "runs" / run.name
    assert features.is_complete(run, done.plan.report, own)
    other = plan.Report(figures=("tsne",), tsne_images=20, tsne_cell=2)
    assert not features.is_complete(run, other, own) and features.is_complete(run, plan.Report(), tmp_path)
    (tmp_path / "features.npz").write_bytes(b"damaged")
    assert not features.is_complete(run, done.plan.report, tmp_path)


def test_without_the_dense_network_a_line_says_so_and_a_second_call_mends_it(
    done: SimpleNamespace, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(done.out, tmp_path / "out")
    name = done.plan.runs[0].name
    (out / "runs" / name / "features.npz").unlink()
    shared = (out / "shared").rename(tmp_path / "aside")
    assert guarded(lambda: main([str(done.file), "--out", str(out)])) == 1
    said = capsys.readouterr().err
    assert f"'kendall' compares {name} with its dense network, which is not in shared/; allowed: " in said
    read = data.read(out)
    assert [row.status for row in read.rows] == ["finished", "finished"] and "not in shared/" in read.rows[0].error
    assert len(drawn.similarity(read, data.groups(read)[0]).cells) == 1, "of the other seed"
    shutil.rmtree(out / "shared", ignore_errors=True)
    shared.rename(out / "shared")
    assert guarded(lambda: main([str(done.file), "--out", str(out)])) == 0
    before, after = ((folder / "runs" / name / "features.npz").read_bytes() for folder in (done.out, out))
    assert before == after and data.read(out).rows[0].error == ""


def test_a_damaged_file_is_named(done: SimpleNamespace, tmp_path: pathlib.Path) -> None:
    out = shutil.copytree(done.out, tmp_path / "out")
    (out / "runs" / done.plan.runs[0].name / "features.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"features\.npz cannot be read"):
        report.experiment.build(out)
