"""The networks of SMASH architectures: the counts of the published code, PyTorch's outputs, and deployment."""

from typing import Any

import jax
import numpy as np
import pytest

from dass_jax import accounting
from dass_jax.architectures.smash import Architecture, Block, Op
from dass_jax.deploy import compact, evaluate, rewrite, trace
from dass_jax.errors import UserError
from dass_jax.networks.smash import Fields, check, smash
from dass_jax.variables import BATCH_STATS, PARAMS, flatten
from tests.deploy import networks

PUBLISHED = Architecture(
    (
        Block(8, (Op((0,), (1,), 64, (3, 3), (1, 1), 1),)),
        Block(8, (Op((0,), (0,), 64, (5, 3), (1, 2), 2),)),
        Block(4, (Op((0, 2), (1,), 32, (3, 5), (2, 1), 4), Op((1,), (3,), 32, (7, 7), (1, 1), 1))),
    )
)
SMALL = Fields(depth=2, width=1, unit=2, filters=4, stem=3)
# Dropped input channels, more writes than groups of channels, an unwritten bank below a written one, an empty block.
EVERY = Architecture(
    (
        Block(1, (Op((0, 1), (0, 2, 4), 2, (5, 3), (2, 3), 2), Op((0, 4), (1,), 1 * 2, (3, 3), (1, 1), 1))),
        Block(2, ()),
        Block(2, (Op((0,), (0, 2), 4, (3, 1), (1, 1), 1), Op((), (1,), 4, (3, 3), (1, 1), 1))),
    )
)
IMAGE = (8, 8, 3)


def test_counts_are_the_published_codes() -> None:
    """Of a network with dropped input channels: D = (2, 1, 4) banks, operations of 41,216, 35,072, 12,032, 51,328."""
    model = smash(PUBLISHED, Fields(max_bottleneck=2), 10)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 32, 3)))

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert size(shapes[PARAMS]) == 170_442
    found = [size(op) for n in (1, 2, 3) for _, op in sorted(shapes[PARAMS][f"block_{n}"].items())]
    assert found == [41_216, 35_072, 12_032, 51_328]
    values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    image = np.zeros((3, 32, 32, 1), np.float32)

    def forward() -> Any:
        return model.apply(values[PARAMS], values[BATCH_STATS], image, False)

    count = accounting.count(
        shapes[PARAMS], model.rules, accounting.kept_of_fraction(shapes[PARAMS], model.rules, 1.0), 1.0, forward
    )
    pixels = {"stem": 1024, "block_1": 1024, "block_2": 256, "block_3": 64, "transition_1": 1024, "transition_2": 256}
    weights = {path: leaf.size for path, leaf in flatten(shapes[PARAMS]).items() if path.endswith("/weight")}
    assert count.macs == sum(size * pixels.get(path.split("/")[0], 1) for path, size in weights.items())


def peer(a: Architecture, c: Fields, p: Any, stats: Any, x: Any, train: bool) -> Any:
    """The network in PyTorch, [N, O] of images [N, C, H, W], with grouped and dilated convolutions of its own."""
    import torch
    from torch.nn import functional

    def norm(x: Any, name: str) -> Any:
        mean, var = stats[f"{name}/mean"].clone(), stats[f"{name}/var"].clone()
        return functional.batch_norm(x, mean, var, p[f"{name}/scale"], p[f"{name}/bias"], training=train).relu()

    def pointwise(x: Any, name: str) -> Any:
        return functional.conv2d(x, p[f"{name}/conv/weight"][..., None, None])

    x = functional.conv2d(x, p["stem/conv/weight"], padding=c.stem // 2)
    for number, block in enumerate(a.blocks, 1):
        if number > 1:
            x = functional.avg_pool2d(pointwise(x, f"transition_{number - 1}"), 2)
        size = block.bank_size * c.unit
        banks = {bank: part for bank, part in enumerate(x.split(size, 1)) if part.shape[1] == size}
        for index, op in enumerate(block.ops):
            if not op.read:
                continue
            name = f"block_{number}/op_{index}"
            y = torch.cat([banks[bank] for bank in op.read], 1)
            y = norm(pointwise(norm(y, f"{name}/norm_1"), f"{name}/pointwise"), f"{name}/norm_2")
            padding = [side // 2 * step for side, step in zip(op.kernel, op.dilation, strict=True)]
            y = functional.conv2d(
                y, p[f"{name}/kernel/conv/weight"], padding=padding, dilation=op.dilation, groups=op.groups
            )
            parts = y.split(size, 1)
            for place, bank in enumerate(op.write):
                banks[bank] = banks.get(bank, 0) + parts[place % len(parts)]
        x = torch.cat([banks.get(bank, torch.zeros_like(banks[0])) for bank in range(max(banks) + 1)], 1)
        x = norm(x, f"norm_{number}")
    return x.mean((2, 3)) @ p["head/classifier/linear/weight"].T + p["head/classifier/bias"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("train", [True, False])
def test_outputs_and_gradients_are_the_peers(train: bool, random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    model = smash(EVERY, SMALL, 3)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE))
    params, stats = random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))
    rng = np.random.default_rng(0)
    images, direction = rng.normal(size=(3, 8, 8, 4)), rng.normal(size=(4, 3))

    def objective(params: Any) -> Any:
        outputs = model.apply(params, stats, images, train)[0]
        return (outputs * direction).sum(), outputs

    gradient, outputs = jax.jit(jax.grad(objective, has_aux=True))(params)
    tensors = {path: torch.from_numpy(leaf.copy()).requires_grad_() for path, leaf in flatten(params).items()}
    running = {path: torch.from_numpy(leaf.copy()) for path, leaf in flatten(stats).items()}
    wanted = peer(EVERY, SMALL, tensors, running, torch.from_numpy(np.moveaxis(images, -1, 0).copy()), train)
    np.testing.assert_allclose(outputs, wanted.detach(), rtol=1e-8, atol=1e-8)
    (wanted * torch.from_numpy(direction)).sum().backward()
    for path, leaf in flatten(gradient).items():
        np.testing.assert_allclose(leaf, tensors[path].grad, rtol=1e-8, atol=1e-8, err_msg=path)


@pytest.mark.usefixtures("x64")
def test_a_sparse_network_is_traced_compacted_and_evaluated() -> None:
    model = smash(EVERY, SMALL, 3)
    params, statistics = networks.sparse_values(model, IMAGE, 0.6, 0)
    forward = networks.logits(model)
    traced = trace.trace(forward, params, statistics, IMAGE)
    images = networks.images(traced)
    wanted = jax.jit(forward)(params, statistics, images.transpose(1, 2, 3, 0))
    assert np.ptp(wanted, axis=0).min() > 1e-3, "each output depends on the image"
    simple = rewrite.simplified(traced)
    for one in (traced, simple, compact.compact(simple)):
        np.testing.assert_allclose(evaluate.evaluate(one, images), wanted, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_made() -> None:
    with pytest.raises(UserError, match="block 1: bank_size = 8; allowed: 1, 2"):
        smash(PUBLISHED, SMALL, 3)
    with pytest.raises(UserError, match=r"image = 8×6; allowed: height and width that are multiples of 4"):
        check(SMALL, (8, 6, 3))
    with pytest.raises(UserError, match=r"network\.stem = 2; allowed: an odd number"):
        check(Fields(stem=2), IMAGE)
