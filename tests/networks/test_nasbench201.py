"""The network of a NAS-Bench-201 cell: the benchmark's counts, and outputs, gradients and statistics of PyTorch's."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import accounting
from dass_jax.architectures.nasbench201 import Cell, of_key
from dass_jax.errors import UserError
from dass_jax.networks.nasbench201 import nasbench201
from dass_jax.nn.skeletons import Sizes
from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS, flatten

# Of the benchmark's own files, for CIFAR-10.
TABLE = {
    "000000": (73_306, 7_783_050),
    "111111": (73_306, 7_783_050),
    "444444": (73_306, 7_783_050),
    "222222": (241_306, 31_376_010),
    "333333": (1_531_546, 220_119_690),
    "333132": (1_073_466, 153_272_970),
    "333133": (1_288_506, 184_730_250),
    "223133": (858_426, 121_815_690),
    "303101": (559_386, 78_561_930),
    "421211": (129_306, 15_647_370),
    "334034": (802_426, 113_951_370),
    "111020": (101_306, 11_715_210),
    "010120": (101_306, 11_715_210),
    "010101": (73_306, 7_783_050),
}


def count(cell: Cell, sizes: Sizes, size: int = 32) -> accounting.Count:
    model = nasbench201(cell, sizes)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (size, size, 3)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    images = np.zeros((3, size, size, 1), np.float32)
    apply = functools.partial(model.apply, variables[PARAMS], variables[BATCH_STATS], images, False)
    return accounting.count(
        shapes[PARAMS], model.rules, accounting.kept_of_fraction(shapes[PARAMS], model.rules, 0.5), 0.5, apply
    )


def published(found: accounting.Count, outputs: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates as the benchmark counts them: with the biases of the linear layer."""
    return found.total, found.macs + outputs


@pytest.mark.parametrize("key", TABLE)
def test_parameters_and_macs_are_the_benchmarks(key: str) -> None:
    assert published(count(of_key(key), Sizes()), 10) == TABLE[key]


def test_counts_of_random_cells_are_the_closed_form() -> None:
    """With one cell in a stage, where an operation counts for a fifth."""
    for digits in np.random.default_rng(0).integers(5, size=(100, 6)):
        key = "".join(map(str, digits))
        pointwise, dense = key.count("2"), key.count("3")
        params = 73_306 + 28_000 * pointwise // 5 + 243_040 * dense // 5
        macs = 7_783_050 + 3_932_160 * pointwise // 5 + 35_389_440 * dense // 5
        assert published(count(of_key(key), Sizes(cells=1)), 10) == (params, macs), key


@pytest.mark.parametrize("key", ["333132", "421211"])
def test_counts_on_the_other_data_sets_are_the_closed_form(key: str) -> None:
    params, macs = TABLE[key]
    assert published(count(of_key(key), Sizes(100)), 100) == (params + 5850, macs + 5850)
    # 16×16 pixels: all but the linear layer costs a quarter. The data set has 120 classes.
    assert published(count(of_key(key), Sizes(120), 16), 120) == (params + 7150, (macs - 650) // 4 + 7800)


def test_every_weight_may_be_pruned_but_no_norm_and_no_bias() -> None:
    found = count(of_key("333132"), Sizes())
    # Scales and offsets: stem, two blocks of two norms, five operations in 15 cells, the last norm; the classifier's
    # biases.
    assert found.total - found.prunable == 2 * (16 + 2 * 32 + 2 * 64 + 5 * 5 * (16 + 32 + 64) + 64) + 10
    assert found.kept == found.prunable // 2


@pytest.mark.parametrize("size", [(6, 8), (8, 7)])
def test_an_image_that_cannot_be_halved_twice_is_one_line(size: tuple[int, int]) -> None:
    model = nasbench201(of_key("111111"), Sizes(cells=1))
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), (*size, 3)))
    assert str(error.value) == f"image = {size[0]}×{size[1]}; allowed: height and width that are multiples of 4"


# All operations, into and out of every node; edges out of a node that nothing enters; no path at all.
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("key", ["323414", "032123", "002023"])
def test_outputs_gradients_and_statistics_are_the_peers(key: str, random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks import torch_nasbench201 as peers

    sizes, rng = Sizes(outputs=3, cells=1, channels=4), np.random.default_rng(1)
    model = nasbench201(of_key(key), sizes)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (8, 12, 2)))
    params, stats = random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))
    images, labels = rng.normal(size=(2, 8, 12, 5)), rng.integers(3, size=5)
    ours, peer = flatten({PARAMS: params, BATCH_STATS: stats}), peers.network(of_key(key), *sizes, images=2).double()
    assert {peers.place(name, fused=False)[0] for name in peers.tensors(peer)} == set(ours)
    peers.load(peer, ours, fused=False)
    counts = peers.count_values(peer)

    @jax.jit
    def run(params: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, auxiliary, moved = model.apply(params, stats, images, True)
            assert auxiliary is None
            return cross_entropy(outputs, labels), (outputs, moved)

        return jax.grad(loss, has_aux=True)(params), model.apply(params, stats, images, False)[0]

    (gradients, (outputs, moved)), evaluated = run(params)
    their_images = torch.from_numpy(np.moveaxis(images, -1, 0).copy())
    np.testing.assert_allclose(evaluated, peer.eval()(their_images).detach(), rtol=1e-8, atol=1e-8)
    their_outputs = peer.train()(their_images)
    torch.nn.functional.cross_entropy(their_outputs, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(outputs, their_outputs.detach(), rtol=1e-8, atol=1e-8)
    found = flatten({PARAMS: gradients, BATCH_STATS: moved})
    for name, parameter in peer.named_parameters():
        gradient = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        own = peers.at_place(name, found, fused=False).reshape(gradient.shape)
        np.testing.assert_allclose(own, gradient, rtol=1e-8, atol=1e-8, err_msg=name)
    for name, buffer in peer.named_buffers():
        if name in counts or name.endswith("running_mean"):
            before, own = (peers.at_place(name, leaves, fused=False) for leaves in (ours, found))
            of_sample = counts[name] / (counts[name] - 1) if name in counts else 1
            wanted = 0.9 * before + (own - 0.9 * before) * of_sample
            np.testing.assert_allclose(buffer, wanted, rtol=1e-8, atol=1e-8, err_msg=name)
