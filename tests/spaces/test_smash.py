"""The SMASH space: the worked encoding, counts, draws, and every architecture's network against PyTorch's own."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.architectures import smash_sizes
from dass_jax.architectures.smash import Architecture, Block, Op
from dass_jax.errors import UserError
from dass_jax.spaces import smash_codes as codes
from dass_jax.spaces import smash_draws as draws
from dass_jax.spaces import smash_hyper as hyper
from dass_jax.spaces.smash import KEPT, smash
from dass_jax.spaces.smash_codes import BLOCK_NAMES, NOISE, Fields
from dass_jax.variables import BATCH_STATS, PARAMS, flatten, layers, prunable

TINY = Fields(depth=2, width=1, unit=2, filters=4, groups=2)
SMALL = Fields(depth=3, width=2, unit=2, filters=8, stem=3, kernel=5, dilation=2, extent=5, groups=2, hyper_growth=3,
               hyper_first=2, hyper_second=1, hyper_third=1)  # fmt: skip
REDUCED = Fields(depth=4, width=2, unit=4, filters=16, stem=3, kernel=5, dilation=2, extent=5, groups=4, hyper_growth=8,
                 hyper_first=3, hyper_second=4, hyper_third=2)  # fmt: skip
IMAGE = (8, 8, 2)
WORKED = Architecture(
    (
        Block(1, (Op((0, 1), (2,), 2, (5, 3), (2, 3), 2),)),
        Block(1, (Op((0, 1), (0, 1), 4, (3, 3), (1, 1), 1),)),
        Block(2, (Op((0,), (0,), 4, (3, 3), (1, 1), 1),)),
    )
)


@functools.cache
def drawing(c: Fields) -> Any:
    return jax.jit(lambda key, progress: draws.draw(codes.ranges(c), key, key, progress))


def size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("c", "image", "of_hyper", "total"),
    [
        # Of the published 4,252,055 all but the slots 1 to 3 of the windows, which are never used.
        (Fields(max_bottleneck=2), (32, 32, 3), 582_541, 4_252_055 - 3_612_672 + 1_204_224),
        (REDUCED, (8, 8, 1), 94_067, 116_893),
        (TINY, (8, 8, 1), 372_435, None),
    ],
)
def test_counts(c: Fields, image: Any, of_hyper: int, total: int | None) -> None:
    space = smash(c, 10)
    params = jax.eval_shape(lambda: space.init(jax.random.key(0), image))[PARAMS]
    assert size(params["hyper"]) == of_hyper
    assert total in (None, size(params))


def test_the_windows_that_may_be_pruned() -> None:
    space = smash(Fields(max_bottleneck=2), 10)
    params = jax.eval_shape(lambda: space.init(jax.random.key(0), (32, 32, 3)))[PARAMS]
    found = list(layers(params, prunable(params, space.written.windows if space.written else ())))
    assert found == [(f"{name}/kernel/weight", 1, 1_204_224 // 3) for name in BLOCK_NAMES]


def test_the_worked_example_of_an_encoding() -> None:
    r = codes.ranges(TINY)
    assert [tuple(memory) for memory in smash_sizes.memories(r.sizes)] == [(4, 12, 3), (4, 12, 5), (4, 16, 9)]
    choice = codes.encode(r, WORKED)
    encoding = jax.jit(functools.partial(hyper.encoding, r), static_argnames="legacy")
    image, mask = encoding(choice, legacy=True)
    assert (r.slices, mask.tolist()) == (18, [1] * 4 + [0] * 14)
    found = [[set(np.flatnonzero(np.asarray(image[1:, row, column]) == 1)) for row in (0, 1)] for column in range(4)]
    first, second = {0, 1, 10, 16, 19, 22, 26, 28, 30, 33}, {0, 1, 8, 9, 17, 20, 21, 24, 27, 30, 32}
    third = {0, 8, 18, 20, 21, 24, 27, 30, 32}
    assert found == [[first, set()], [second, second], [third, third], [set(), set()]]
    fixed = encoding(choice)[0]
    assert set(np.flatnonzero(np.asarray(fixed[1:, 0, 0]) == 1)) == first - {33} | {34}
    assert set(np.flatnonzero(np.asarray(fixed[1:, 0, 1]) == 1)) == second - {32} | {33}
    assert set(np.unique(image[1:])) == {-1, 1} and not image[0].any()


def test_the_worked_example_of_generated_weights() -> None:
    r = codes.ranges(TINY)
    b, a, s = np.indices((8, 2, r.slices))
    found = np.asarray(hyper.matrix(r, jnp.asarray(100.0 * s + 10 * a + b)))
    assert found[:4].tolist() == [[0, 4, 10, 14], [1, 5, 11, 15], [2, 6, 12, 16], [3, 7, 13, 17]]
    assert found[4].tolist() == [100, 104, 110, 114]
    weight = np.asarray(hyper.unit_norm(found[:4]))
    np.testing.assert_allclose(weight.T[2, 1], 11 / 1640**0.5, rtol=1e-6)


def test_the_reads_of_an_odd_bank_share_a_slice() -> None:
    """Banks of three units, of which two fill three slices: the middle one is of both."""
    r = codes.ranges(Fields())
    op = Op((0, 1), (2,), 24, (3, 3), (1, 1), 1)
    choice = codes.encode(r, Architecture((Block(3, (op,)), Block(2, ()), Block(2, ()))))
    image = np.asarray(jax.jit(functools.partial(hyper.encoding, r))(choice)[0])[1:]
    assert (image[:2, 0, :4] > 0).tolist() == [[True, True, False, False], [False, True, True, False]]
    assert (image[0, :, 0] > 0).tolist() == [True] * 3 + [False] * 5, "of three of eight units"


@functools.cache
def of_space() -> Any:
    """(gradient of Σ outputs · direction with outputs and statistics; outputs in evaluation), each compiled once."""
    space = smash(SMALL, 3)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def objective(params: Any, stats: Any, choice: Any, images: Any, direction: Any) -> Any:
        outputs, moved = space.apply(params, stats, choice, images, True)
        return (outputs * direction).sum(), (outputs, moved)

    return space, jax.jit(objective), jax.jit(functools.partial(space.apply, train=False))


def architectures(count: int) -> list[Architecture]:
    r, draw = codes.ranges(SMALL), drawing(SMALL)
    return [codes.decode(r, draw(jax.random.key(seed), 1.0)) for seed in range(count)]


EMPTY = Architecture((Block(2, ()), Block(1, ()), Block(4, ())))
ITSELF = Architecture((Block(4, (Op((0,), (0,), 8, (5, 3), (1, 2), 2),)), Block(3, ()), Block(2, ())))
MANY = Architecture((Block(2, (Op((0,), (1, 2, 3), 4, (3, 3), (2, 1), 1),)), Block(1, ()), Block(4, ())))


@pytest.mark.usefixtures("x64")
def test_masked_networks_are_the_cropped_ones_of_the_peer(random_like: Any) -> None:
    """Outputs, gradients of the hyper-network and the free weights, running statistics; in all one trace."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.spaces import torch_smash as peer

    space, objective, evaluated = of_space()
    r = codes.ranges(SMALL)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), IMAGE))
    params, stats = random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))
    rng = np.random.default_rng(3)
    images, direction = rng.normal(size=(2, 8, 8, 5)), rng.normal(size=(5, 3))
    theirs = torch.from_numpy(np.moveaxis(images, -1, 0).copy())
    for number, (a, keep) in enumerate([*((a, 1.0) for a in (*architectures(6), EMPTY, ITSELF, MANY)), (ITSELF, 0.3)]):
        noise = rng.normal(size=(r.sizes.most, r.slices)).astype(np.float32)
        choice = {**codes.encode(r, a), NOISE: noise.reshape(-1), KEPT: np.float32(keep)}
        (_, (outputs, moved)), gradient = objective(params, stats, choice, images, direction)
        tensors = {path: torch.from_numpy(leaf.copy()).requires_grad_() for path, leaf in flatten(params).items()}
        running = {path: torch.from_numpy(leaf.copy()) for path, leaf in flatten(stats).items()}
        wanted = peer.outputs(SMALL, a, tensors, running, noise, theirs, True, keep)
        np.testing.assert_allclose(outputs, wanted.detach(), rtol=1e-8, atol=1e-8, err_msg=str(number))
        (wanted * torch.from_numpy(direction)).sum().backward()
        for path, leaf in flatten(gradient).items():
            own = tensors[path].grad
            own = np.zeros(leaf.shape) if own is None else own
            np.testing.assert_allclose(leaf, own, rtol=1e-8, atol=1e-8, err_msg=f"{number}: {path}")
        if a not in (EMPTY, ITSELF):
            assert np.abs(gradient["hyper"]["first"]["weight"]).max() > 1e-6
        wanted = peer.outputs(SMALL, a, tensors, running, noise, theirs, False, keep)
        np.testing.assert_allclose(evaluated(params, stats, choice, images)[0], wanted.detach(), rtol=1e-8, atol=1e-8)
        for block in (1, 2, 3):
            name = f"norm_{block}"
            memory = smash_sizes.memories(r.sizes)[block - 1]
            used = smash_sizes.used_banks(r.sizes, memory, a.blocks[block - 1]) * a.blocks[block - 1].bank_size * 2
            still = np.asarray(moved[name]["mean"]) == stats[name]["mean"]
            assert still[used:].all() and not still[:used].any()
    assert objective._cache_size() == evaluated._cache_size() == 1


@pytest.mark.usefixtures("x64")
def test_one_program_serves_fifty_architectures(random_like: Any) -> None:
    space, _, evaluated = of_space()
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), IMAGE))
    params, stats = random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 5))
    choices = [{**space.encode(a), KEPT: np.float32(1)} for a in architectures(50)]
    found = np.stack([evaluated(params, stats, choice, images)[0] for choice in choices])
    assert evaluated._cache_size() == 1, "traced once"
    assert np.isfinite(found).all() and len(np.unique(found[:, 0, 0])) == 50


def test_a_thousand_draws_keep_to_the_rules() -> None:
    r, draw = codes.ranges(REDUCED), drawing(REDUCED)
    memories, seen = smash_sizes.memories(r.sizes), []
    for seed in range(1000):
        progress = (0.0, 0.3, 0.8, 1.0)[seed % 4]
        choice = draw(jax.random.key(seed), progress)
        a = codes.decode(r, choice)
        again = codes.encode(r, a)  # raises where a bank is read that was not written, and beyond every range
        for name in ("bank_size", *BLOCK_NAMES):
            np.testing.assert_array_equal(choice[name], again[name])
        kernels = r.kernels[: 1 + (progress >= 0.25)]
        for block, memory in zip(a.blocks, memories, strict=True):
            slices = sum(smash_sizes.slices_of(block, op) for op in block.ops)
            most = (0.5 + 0.5 * progress) * memory.slices
            assert slices <= most and 0.3 * memory.slices - 1 - block.bank_size < slices
            for op in block.ops:
                assert op.read and set(op.kernel) <= set(kernels)
            written = smash_sizes.used_banks(r.sizes, memory, block)
            first = memory.inputs // (r.sizes.unit * block.bank_size)
            assert set(range(first, written)) <= {bank for op in block.ops for bank in op.write}, "no bank is left out"
        if progress == 1.0:
            seen.append([len(block.ops) for block in a.blocks])
    # Of the published rules, from 4,000 samples: 3.3, 4.6, 7.7.
    np.testing.assert_allclose(np.mean(seen, 0), [3.3, 4.6, 7.7], rtol=0.12)
    assert len({str(codes.decode(r, draw(jax.random.key(1), 1.0))) for _ in range(2)}) == 1


def test_architectures_of_one_budget_use_it_up_and_perturbations_keep_to_it() -> None:
    c = dataclasses.replace(REDUCED, least_budget=0.5, most_budget=0.5)
    r, draw = codes.ranges(c), drawing(c)
    change = jax.jit(functools.partial(draws.perturb, r))

    def spent(choice: Any) -> list[tuple[int, int]]:
        return [
            (sum(smash_sizes.slices_of(b, op) for op in b.ops), b.bank_size) for b in codes.decode(r, choice).blocks
        ]

    memories, most = smash_sizes.memories(r.sizes), []
    for seed in range(60):
        choice = draw(jax.random.key(seed), 1.0)
        for (slices, bank), memory in zip(spent(choice), memories, strict=True):
            assert memory.slices // 2 - bank < slices <= memory.slices // 2
        for (slices, _), memory in zip(spent(draw(jax.random.key(seed), 0.0)), memories, strict=True):
            assert slices <= memory.slices // 4, "grown half way"
        for step in range(5):
            choice = change(choice, jax.random.key(step))
        most.append([slices <= memory.slices // 2 for (slices, _), memory in zip(spent(choice), memories, strict=True)])
    assert np.all(most)


def test_perturbations_stay_in_the_space() -> None:
    r = codes.ranges(REDUCED)
    change = jax.jit(functools.partial(draws.perturb, r))
    choice, moved = drawing(REDUCED)(jax.random.key(2), 1.0), 0
    for seed in range(300):
        after = change(choice, jax.random.key(seed))
        a, b = codes.decode(r, choice), codes.decode(r, after)
        codes.encode(r, b)
        assert [(x.bank_size, len(x.ops)) for x in a.blocks] == [(x.bank_size, len(x.ops)) for x in b.blocks]
        np.testing.assert_array_equal(choice[NOISE], after[NOISE])
        moved += a != b
        choice = after
    assert moved > 250


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 1}, "space.filters = 64; allowed: at most"),
        ({"stem": 4}, "space.stem = 4; allowed: an odd number"),
        ({"groups": 3}, "space.groups = 3; allowed: a power of two"),
        ({"extent": 5}, "space.extent = 5; allowed: at least space.kernel = 7"),
        ({"most_budget": 0.2}, "space.least_budget = 0.3; allowed: at most space.most_budget = 0.2"),
    ],
)
def test_fields_that_do_not_go_together(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        codes.ranges(Fields(**changes))
