"""Folded networks for inference give the logits of the networks they came from."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import variables
from dass_jax.architectures.darts import OPERATIONS, PUBLISHED, Genotype
from dass_jax.networks.derived import NetworkConfig, derived
from dass_jax.networks.inference import fold, inference

TRUNK = NetworkConfig(classes=3, cells=3, channels=4, auxiliary=False)


def every_operation(seed: int) -> Genotype:
    """Two cells, each with all operations, in random order and from random inputs."""
    rng = np.random.default_rng(seed)

    def cell() -> Any:
        operations = [*rng.permutation(OPERATIONS), rng.choice(OPERATIONS)]
        pairs = [tuple(str(name) for name in pair) for pair in zip(operations[::2], operations[1::2], strict=True)]
        return tuple(tuple((name, int(rng.integers(node + 2))) for name in pair) for node, pair in enumerate(pairs))

    return Genotype(cell(), cell())


def trained(model: Any, image: tuple[int, int, int], random_like: Any) -> tuple[Any, Any]:
    """Parameters and statistics of no particular value; variances are positive."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    statistics = variables.flatten(random_like(shapes["batch_stats"], 1))
    positive = {path: np.abs(leaf) + 0.1 if path.endswith("/var") else leaf for path, leaf in statistics.items()}
    return random_like(shapes["params"], 0), variables.unflatten(positive)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("genotype", "config", "image", "batch"),
    [
        (PUBLISHED["darts_v2"], TRUNK._replace(cells=6), (16, 16, 3), 1),
        (PUBLISHED["darts_v2"], TRUNK._replace(stem="imagenet"), (40, 36, 3), 2),
        (every_operation(3), TRUNK, (9, 11, 1), 3),
        (every_operation(4), TRUNK, (8, 8, 2), 1),
        (every_operation(5), TRUNK._replace(stem="imagenet", cells=2), (41, 47, 3), 2),
        (every_operation(6), TRUNK._replace(auxiliary=True), (32, 32, 3), 1),
    ],
)
def test_folded_logits_are_the_networks(
    genotype: Genotype, config: NetworkConfig, image: tuple[int, int, int], batch: int, random_like: Any
) -> None:
    model = derived(genotype, config)
    params, statistics = trained(model, image, random_like)
    images = np.random.default_rng(5).normal(size=(image[2], *image[:2], batch))
    wanted = jax.jit(lambda: model.apply(params, statistics, images, False)[0])()
    found = jax.jit(lambda: inference(genotype, config)(fold(params, statistics), images))()
    assert found.shape == (batch, 3) and jnp.ptp(wanted, axis=1).min() > 1e-3
    chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_the_random_cells_have_every_operation_at_both_strides() -> None:
    used = set()
    for genotype, reduces in itertools.product(map(every_operation, (3, 4, 5, 6)), (False, True)):
        cell = genotype.reduce if reduces else genotype.normal
        used |= {(name, reduces and source < 2) for node in cell for name, source in node}
    assert used == set(itertools.product(OPERATIONS, (False, True)))


def test_folding_leaves_a_bias_of_each_norm_and_keeps_pruned_weights_zero(random_like: Any) -> None:
    model = derived(every_operation(3), TRUNK._replace(auxiliary=True))
    params, statistics = trained(model, (32, 32, 3), random_like)
    stacks = variables.flatten(variables.prunable(params, model.rules))
    pruned = {
        path: np.where(np.arange(leaf.size).reshape(leaf.shape) % 3, 0, leaf) if path in stacks else leaf
        for path, leaf in variables.flatten(params).items()
    }
    folded = variables.flatten(fold(variables.unflatten(pruned), statistics))
    wanted = {path for path in pruned if not path.startswith("auxiliary/") and not path.endswith("/scale")}
    assert folded.keys() == wanted
    for path in wanted & stacks.keys():
        assert np.count_nonzero(folded[path]) == np.count_nonzero(pruned[path]), path
