"""The network of any genotype is the genotype's own, on the same weights."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures.darts import OPERATIONS, PUBLISHED, Genotype
from dass_jax.networks.any_genotype import Fields, any_genotype, derived_of, genotype_of, numbers
from dass_jax.networks.derived import NetworkConfig, derived
from dass_jax.networks.model import Model
from dass_jax.spaces.darts import sample
from dass_jax.variables import BATCH_STATS, PARAMS, flatten, unflatten

# A normal cell, then both reductions; the second image has odd sides.
C, CLASSES, SHAPE = Fields(cells=3, channels=4, nodes=2), 3, (7, 6, 2)
CHOSEN = (
    Genotype(
        ((("sep_conv_5x5", 0), ("max_pool_3x3", 1)), (("dil_conv_3x3", 1), ("skip_connect", 2))),
        ((("skip_connect", 0), ("sep_conv_3x3", 1)), (("max_pool_3x3", 0), ("dil_conv_5x5", 1))),
    ),
    Genotype(
        ((("avg_pool_3x3", 0), ("dil_conv_5x5", 1)), (("sep_conv_3x3", 0), ("sep_conv_3x3", 2))),
        ((("avg_pool_3x3", 0), ("dil_conv_3x3", 1)), (("sep_conv_5x5", 0), ("sep_conv_5x5", 2))),
    ),
)
DRAWN = tuple(genotype_of(numbers(sample(np.random.default_rng(seed), 2))) for seed in range(3))


def test_the_chosen_cells_have_every_operation_at_both_strides() -> None:
    cells = [(reduces, cell) for genotype in CHOSEN for reduces, cell in enumerate(genotype)]
    used = {(name, reduces and source < 2) for reduces, cell in cells for node in cell for name, source in node}
    assert used == set(itertools.product(OPERATIONS, (False, True)))


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_numbers_say_a_genotype_whatever_the_order_of_a_nodes_inputs(nodes: int) -> None:
    for seed in range(20):
        genotype = sample(np.random.default_rng(seed), nodes)
        found = genotype_of(numbers(genotype).ravel().astype(np.uint8))
        assert [[set(node) for node in cell] for cell in found] == [[set(node) for node in cell] for cell in genotype]
        assert all([source for _, source in node] == sorted(s for _, s in node) for cell in found for node in cell)
    assert genotype_of(numbers(PUBLISHED["dass_90"])) != PUBLISHED["dass_90"]  # whose inputs are in no order


def laid(tree: Any, genotype: Genotype, shapes: Any, rest: float) -> Any:
    """The leaves of the genotype's own network where they lie in the one of all genotypes; elsewhere `rest`."""
    found, own = {path: np.full(leaf.shape, rest) for path, leaf in flatten(shapes).items()}, flatten(tree)
    for path, leaf in found.items():
        for edge, name in derived_of(path, genotype, C.cells).items():
            leaf[... if edge is None else edge] = own.pop(name)
    assert not own
    return unflatten(found)


def both(net: Model, params: Any, stats: Any, images: Any) -> Any:
    """(logits of evaluation and of training, the gradients of a loss of the latter, statistics after it)."""

    def loss(params: Any) -> Any:
        logits, _, moved = net.apply(params, stats, images, True)
        return (logits**2 * jnp.arange(1, CLASSES + 1)).sum(), (logits, moved)

    gradients, (logits, moved) = jax.grad(loss, has_aux=True)(params)
    return (net.apply(params, stats, images, False)[0], logits), gradients, moved


@functools.cache
def program() -> Any:
    return jax.jit(lambda genotype, *given: both(any_genotype(CLASSES, C, genotype), *given))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("genotype", [*CHOSEN, *DRAWN])
def test_it_is_the_genotypes_own_network(genotype: Genotype, random_like: Any) -> None:
    """Logits, gradients by every weight and running averages, in float64; other weights have no gradient."""
    own = derived(genotype, NetworkConfig(CLASSES, C.cells, C.channels, auxiliary=False))
    every = any_genotype(CLASSES, C, numbers(genotype))
    own_shapes, shapes = (jax.eval_shape(lambda n=n: n.init(jax.random.key(0), SHAPE)) for n in (own, every))
    params, stats = (random_like(own_shapes[name], 1) for name in (PARAMS, BATCH_STATS))
    stats = jax.tree.map(lambda leaf: 1 + leaf**2, stats)
    images = np.random.default_rng(2).normal(size=(SHAPE[2], *SHAPE[:2], 5))
    wanted = jax.jit(functools.partial(both, own))(params, stats, images)
    given = (laid(params, genotype, shapes[PARAMS], 0.5), laid(stats, genotype, shapes[BATCH_STATS], 0.5))
    logits, gradients, moved = program()(numbers(genotype), *given, images)
    np.testing.assert_allclose(logits, wanted[0], rtol=1e-8)
    for found, tree, rest in ((gradients, wanted[1], 0.0), (moved, wanted[2], 0.5)):
        expected = flatten(laid(tree, genotype, found, rest))
        for path, leaf in flatten(found).items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-8, atol=1e-10, err_msg=path)
    assert program()._cache_size() == 1  # for all genotypes
