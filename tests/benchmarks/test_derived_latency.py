"""The benchmark of the latency and its peer: the same logits and gradients, what is reported and what is refused."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import derived_latency
from dass_jax.architectures.darts import PUBLISHED, Genotype
from dass_jax.errors import UserError
from dass_jax.networks.derived import NetworkConfig, derived
from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS, flatten

TORCH = "PyTorch, the peer, is not installed (pip install torch==2.13.0)"
MIXED = Genotype(
    normal=((("sep_conv_5x5", 0), ("avg_pool_3x3", 1)), (("dil_conv_5x5", 2), ("skip_connect", 0))),
    reduce=((("skip_connect", 0), ("sep_conv_3x3", 1)), (("avg_pool_3x3", 1), ("dil_conv_3x3", 2))),
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("genotype", "stem", "image"),
    [(PUBLISHED["darts_v2"], "cifar", (8, 8, 3)), (MIXED, "cifar", (9, 11, 1)), (MIXED, "imagenet", (40, 36, 3))],
)
def test_logits_in_evaluation_and_gradients_in_training_are_the_peers(
    genotype: Genotype, stem: str, image: tuple[int, int, int], random_like: Any
) -> None:
    torch = pytest.importorskip("torch", reason=TORCH)
    from benchmarks import peer_derived, peer_variables

    config = NetworkConfig(classes=3, cells=3, channels=4, stem=stem, auxiliary=False)
    model, rng = derived(genotype, config), np.random.default_rng(0)
    v = random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), image)))
    v[BATCH_STATS] = jax.tree.map(lambda leaf: np.abs(leaf) + 0.1, v[BATCH_STATS])
    images, labels = rng.normal(size=(image[2], *image[:2], 4)), rng.integers(3, size=4)
    theirs, places = peer_derived.Derived(genotype, config, image[2]).double(), peer_derived.places(genotype, config)
    peer_variables.load(theirs, places, v)
    inputs = torch.from_numpy(np.moveaxis(images, -1, 0).copy())

    def loss(params: Any) -> Any:
        return cross_entropy(model.apply(params, v[BATCH_STATS], images, True)[0], labels)

    logits = jax.jit(lambda: model.apply(v[PARAMS], v[BATCH_STATS], images, False)[0])()
    np.testing.assert_allclose(logits, theirs.eval()(inputs).detach().numpy(), rtol=1e-8, atol=1e-8)
    gradients = flatten(jax.jit(jax.grad(loss))(v[PARAMS]))
    torch.nn.functional.cross_entropy(theirs.train()(inputs), torch.from_numpy(labels)).backward()
    named = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    wanted = flatten(peer_variables.gather(places, named, {PARAMS: v[PARAMS]})[PARAMS])
    assert gradients.keys() == wanted.keys() and all(np.any(leaf) for leaf in wanted.values())
    for path, leaf in gradients.items():
        np.testing.assert_allclose(leaf, wanted[path], rtol=1e-8, atol=1e-8, err_msg=path)


def test_it_compares_and_times_all_in_one_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install -r requirements-peer.txt)")
    file = tmp_path / "latency.json"
    options = "--genotype dass_99 --channels 4 --cells 2 --batch 2 --warmup 0 --repetitions 3"
    assert derived_latency.main([*options.split(), "--output", str(file)]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    assert len(record["seconds"]) == 6 and all(len(values) == 3 for values in record["seconds"].values())
    assert 0 < record["logits_apart"] < 1e-4 and record["machine"]["onnxruntime"] and record["batch"] == 2
    printed = capsys.readouterr().out
    assert all(case in printed for case in record["seconds"])


def test_rows_are_medians_and_ratios_to_onnx_runtime() -> None:
    rows = derived_latency.rows({"ours": [0.002, 0.001, 0.009], derived_latency.ONNX: [0.004] * 3})
    assert [row["median ms"] for row in rows] == [2, 4]
    assert [row["to ONNX Runtime"] for row in rows] == [0.5, 1]
    assert rows[0]["p90 ms"] == pytest.approx(7.6)


@pytest.mark.parametrize("other", [1.01, np.nan])
def test_networks_that_differ_are_not_timed(other: float) -> None:
    cases = {"one": lambda: np.ones((1, 2)), "other": lambda: np.full((1, 2), other)}
    with pytest.raises(UserError, match=r"^logits of one, other are apart by \S+; allowed: 0\.001$"):
        derived_latency.compare(cases)


@pytest.mark.parametrize(
    ("name", "low"), [("channels", 1), ("cells", 1), ("batch", 1), ("warmup", 0), ("repetitions", 1)]
)
def test_an_impossible_size_is_one_line(name: str, low: int) -> None:
    with pytest.raises(UserError, match=f"^--{name} = {low - 1}; allowed: at least {low}$"):
        derived_latency.main([f"--{name}={low - 1}"])
