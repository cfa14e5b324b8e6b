"""The network of DSO-NAS' blocks: counts, widths within a budget; outputs, gradients and statistics of PyTorch's."""

import functools
import json
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from dass_jax import accounting, compose, config, networks
from dass_jax.architectures import to_json
from dass_jax.architectures.dso import Blocks, connections, swept, whole
from dass_jax.errors import UserError
from dass_jax.networks import dso
from dass_jax.networks.dso import Fields
from dass_jax.nn.level_blocks import Sizes
from dass_jax.tasks import Pixels
from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS, flatten

CODE = ("sep3", "sep5", "max3", "avg3")


def count(a: Blocks, c: Fields, image: tuple[int, int, int] = (32, 32, 3), outputs: int = 10) -> accounting.Count:
    model = dso.dso(a, c, outputs)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    images = np.zeros((image[2], *image[:2], 1), np.float32)
    apply = functools.partial(model.apply, values[PARAMS], values[BATCH_STATS], images, False)
    kept = accounting.kept_of_fraction(shapes[PARAMS], model.rules, 1.0)
    return accounting.count(shapes[PARAMS], model.rules, kept, 1.0, apply)


@pytest.mark.parametrize(
    ("operations", "weights", "macs"), [(("sep3", "avg3"), 332, 18_728), (("sep3", "sep5"), 564, 33_576)]
)
def test_the_example_counted_by_hand(operations: tuple[str, ...], weights: int, macs: int) -> None:
    """One block of two levels of two operations, 4 channels, 8×8 pixels."""
    found = count(whole("share", 2, operations, 1, 0), Fields(stages=(1,), channels=4), (8, 8, 3))
    assert (found.prunable, found.macs) == (weights, macs)


def test_the_full_network_of_26_channels_has_the_published_three_million_weights() -> None:
    sizes = Sizes(10, (8, 8, 8), 26)
    assert dso.size(whole("share", 4, CODE, 24, 2), sizes, (3, 32, 32))[0] == 3_007_186
    assert dso.size(whole("full", 4, CODE, 24, 2), sizes._replace(channels=48), (3, 32, 32)) == (
        9_937_296,
        1_484_539_776,
    )


def drawn(rng: np.random.Generator, scope: str, levels: int, operations: tuple[str, ...], stages: Any) -> Blocks:
    def block() -> Any:
        every = connections(levels, len(operations))
        return swept((pair for pair in every if rng.random() < 0.5), levels, len(operations))

    branches = [("1x1",), ("3x3",), ("1x1", "3x3")]
    return Blocks(
        scope,
        levels,
        operations,
        tuple(block() for _ in range(1 if scope == "share" else sum(stages))),
        tuple(branches[rng.integers(3)] for _ in stages[1:]),
    )


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("scope", ["share", "full"])
def test_the_closed_form_counts_what_is_there(scope: str, stem: str) -> None:
    rng, stages = np.random.default_rng(len(scope)), (1, 2)
    a = drawn(rng, scope, 3, ("sep5", "max3", "sep7"), stages)
    c = Fields(stages=stages, channels=6, stem=stem)
    found = count(a, c, (16, 12, 2), 7)
    assert dso.size(a, Sizes(7, stages, 6, stem), (2, 16, 12)) == (found.prunable, found.macs)


def test_the_width_is_the_largest_within_the_budgets() -> None:
    a, image = whole("share", 2, ("sep3", "max3"), 1, 2), (3, 16, 16)

    def width(**fields: Any) -> int:
        return dso.channels(a, Fields(stages=(1, 1, 1), **fields), 10, image)

    def size(width: int) -> tuple[int, int]:
        return dso.size(a, Sizes(10, (1, 1, 1), width), image)

    (weights, macs), (more, more_macs) = size(20), size(21)
    assert width(channels=9) == 9
    for extra in (0, 1, more - weights - 1):
        assert width(weights=weights + extra) == 20
    assert width(weights=more) == 21
    assert width(macs=macs) == 20 and width(macs=more_macs - 1) == 20
    assert width(weights=more, macs=macs) == 20 and width(weights=weights, macs=2 * macs) == 20
    assert width(stem="imagenet", weights=10**5) % 2 == 0
    with pytest.raises(UserError) as caught:
        width(weights=10)
    assert str(caught.value) == f"network.weights = 10; allowed: at least {size(1)[0]}, the narrowest network's, or 0"
    with pytest.raises(UserError, match=f"network.macs = 9; allowed: at least {size(1)[1]}, the narrowest"):
        width(macs=9)


def test_the_network_has_the_width_of_its_budget() -> None:
    a = whole("share", 1, ("sep3",), 1, 0)
    budget = dso.size(a, Sizes(10, (1,), 11), (3, 8, 8))[0]
    assert count(a, Fields(stages=(1,), weights=budget + 3), (8, 8, 3)).prunable == budget


@pytest.mark.parametrize("stages", [(1, 1), (2, 1), (1, 1, 1)])
def test_blocks_of_their_own_for_other_stages_are_refused(stages: tuple[int, ...]) -> None:
    a = whole("full", 1, ("sep3",), 3, 1)
    message = (
        f"network.stages = {stages} with an architecture of 3 blocks in scope 'full' and 1 reductions; allowed: stages "
        "of so many, or one of scope 'share'"
    )
    if stages == (2, 1):
        dso.dso(a, Fields(stages=stages), 10)
        return
    with pytest.raises(UserError) as caught:
        dso.dso(a, Fields(stages=stages), 10)
    assert str(caught.value) == message


CIFAR = whole("share", 2, ("sep3", "max3"), 24, 2)._replace(reductions=(("1x1",), ("3x3",)))
"""Of CIFAR-10's three stages."""


@pytest.mark.parametrize(
    ("stages", "reductions"),
    [
        ((1, 2, 1, 1), (("1x1",), ("3x3",), ("1x1", "3x3"))),
        ((1, 2), (("1x1",),)),
        ((3,), ()),
    ],
)
def test_a_shared_block_goes_to_other_stages_with_its_reductions(stages: Any, reductions: Any) -> None:
    """As one that CIFAR-10 has found to ImageNet; a reduction that it lacks has both branches."""
    by_hand = CIFAR._replace(reductions=reductions)
    c = Fields(stages=stages, channels=4, stem="imagenet")
    assert count(CIFAR, c, (32, 32, 3)) == count(by_hand, c, (32, 32, 3))
    found, wanted = (dso.dso(a, c, 10).init(jax.random.key(0), (32, 32, 3)) for a in (CIFAR, by_hand))
    assert list(flatten(found[PARAMS])) == list(flatten(wanted[PARAMS]))


@pytest.mark.parametrize("stages", [(1, 1, 1), (1, 1, 1, 1)])
def test_a_block_that_classification_found_is_a_backbone_of_segmentation(stages: Any) -> None:
    model = dso.dso(CIFAR, Fields(stages=stages, channels=4, stem="imagenet"), Pixels(5, 8, (1, 2), 4))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 48, 3)))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    images = np.zeros((3, 32, 48, 2), np.float32)
    outputs = jax.eval_shape(lambda: model.apply(ones[PARAMS], ones[BATCH_STATS], images, False)[0])
    assert outputs.shape == (5, 32, 48, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ()}, "network.stages = (); allowed: at least one number of blocks"),
        (
            {"stem": "imagenet", "channels": 7},
            "network.channels = 7; allowed: an even number, as the imagenet stem halves it",
        ),
        (
            {"stages": (1,), "auxiliary": True},
            "network.auxiliary = true with network.stages = (1,); allowed: at least two stages",
        ),
        (
            {"stages": (1, 1), "auxiliary": True},
            "network.auxiliary = true on a feature map of 16 pixels; allowed: 8 to 10 pixels a side, or "
            "network.auxiliary = false",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        dso.check(Fields(**fields), (32, 32, 3))
    assert str(caught.value) == message


def test_weights_are_drawn_as_in_the_published_code() -> None:
    model = dso.dso(whole("share", 2, ("sep5",), 1, 1), Fields(stages=(1, 1), channels=32), 100)
    leaves = flatten(jax.jit(lambda: model.init(jax.random.key(0), (8, 8, 3)))()[PARAMS])
    wanted = {
        "stem/conv/conv/weight": (2 / (32 * 9)) ** 0.5,
        "block_0/op_1_0/depthwise/conv/weight": (2 / (32 * 25)) ** 0.5,
        "block_0/op_1_0/pointwise/conv/weight": (2 / 32) ** 0.5,
        "block_0/outputs/conv/weight": (2 / 32) ** 0.5,
        "reduction_0/conv_3x3/conv/conv/weight": (2 / (64 * 9)) ** 0.5,
        "head/classifier/linear/weight": 0.01,
    }
    for path, deviation in wanted.items():
        np.testing.assert_allclose(leaves[path].std(), deviation, rtol=0.08, err_msg=path)
    assert (leaves["block_0/op_1_0/norm/scale"] == 1).all() and (leaves["norm/bias"] == 0).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scope", ["share", "full"])
def test_outputs_gradients_and_statistics_are_the_peers(scope: str, random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks.torch_dso import Net

    rng, stages = np.random.default_rng(1), (1, 1)
    stem = "imagenet" if scope == "full" else "cifar"
    a = drawn(rng, scope, 3, ("sep3", "avg3", "max3"), stages)
    assert all(len(block) > 4 for block in a.blocks)
    model = dso.dso(a, Fields(stages=stages, channels=4, stem=stem), 3)
    image = (20, 18, 2) if stem == "imagenet" else (10, 9, 2)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    params, stats = random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))
    images, labels = rng.normal(size=(2, *image[:2], 5)), rng.integers(3, size=5)
    blocks = a.blocks if scope == "full" else a.blocks * sum(stages)
    path_scale = rng.uniform(0.5, 2, (*model.paths, 5))
    assert model.paths == (2, max(map(len, a.blocks)))

    @jax.jit
    def run(params: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, auxiliary, moved = model.apply(params, stats, images, True, path_scale)
            assert auxiliary is None
            return cross_entropy(outputs, labels), (outputs, moved)

        return jax.grad(loss, has_aux=True)(params), model.apply(params, stats, images, False)[0]

    (gradients, (outputs, moved)), evaluated = run(params)
    values = {
        path: torch.from_numpy(leaf.copy()) for path, leaf in flatten({PARAMS: params, BATCH_STATS: stats}).items()
    }
    branches = [[(name, 1) for name in each] for each in a.reductions]
    their_images = torch.from_numpy(np.moveaxis(images, -1, 0).copy())
    everything = Net(values, False)(their_images, stages, a.operations, blocks, lambda *_: 1, branches)
    np.testing.assert_allclose(evaluated, everything, rtol=1e-8, atol=1e-8)

    def scale(block: int, source: str, target: str) -> Any:
        """Of the only input of an operation nothing is dropped."""
        alone = target != "out" and [other for _, other in blocks[block]].count(target) == 1
        own = path_scale[block, blocks[block].index((source, target))]
        return 1 if alone else torch.from_numpy(own)[:, None, None, None]

    given = stages, a.operations, blocks, scale, branches
    trained = {path: value.requires_grad_() for path, value in values.items() if path.startswith("params")}
    peer = Net({**values, **trained}, True)
    theirs = peer(their_images, *given)
    torch.nn.functional.cross_entropy(theirs, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(outputs, theirs.detach(), rtol=1e-8, atol=1e-8)
    found = flatten({PARAMS: gradients, BATCH_STATS: moved})
    for path, value in trained.items():
        np.testing.assert_allclose(found[path], value.grad, rtol=1e-8, atol=1e-8, err_msg=path)
    assert {**peer.moved, **trained}.keys() == found.keys()
    for path, value in peer.moved.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-8, atol=1e-8, err_msg=path)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("stem", "size", "stride"), [("cifar", 16, 3), ("imagenet", 56, 2)])
def test_the_auxiliary_head_reads_the_last_reduction_in_training_only(
    stem: str, size: int, stride: int, random_like: Any
) -> None:
    """And is PyTorch's: BN, ReLU, mean, 1×1, BN, ReLU, 2×2, BN, ReLU, mean, linear."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    c = Fields(stages=(1, 1), channels=2, stem=stem, auxiliary=True)
    a = whole("share", 1, ("sep3",), 1, 1)
    model = networks.NETWORKS["dso"].make(a, c, 3, True, lambda x: x, None)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (size, size, 1)))
    params, stats = random_like(shapes[PARAMS], 1), random_like(shapes[BATCH_STATS], 2)
    images = np.random.default_rng(0).normal(size=(1, size, size, 4))
    seen = []

    def watched(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        found = call(*args, **kwargs)
        if context.module.name == "reduction_0":
            seen.append(found)
        return found

    with nn.intercept_methods(watched):
        logits, auxiliary, _ = model.apply(params, stats, images, True)
    (read,) = seen
    head = {path: torch.from_numpy(np.array(leaf)) for path, leaf in flatten(params["auxiliary"]).items()}
    functional = torch.nn.functional

    def norm_relu(x: Any, name: str) -> Any:
        scale, bias = (head[f"{name}/{part}"] for part in ("scale", "bias"))
        return functional.relu(functional.batch_norm(x, None, None, scale, bias, True, 0, 2e-5))

    x = norm_relu(torch.from_numpy(np.moveaxis(np.asarray(read), -1, 0).copy()), "norm_0")
    x = functional.avg_pool2d(x, 5, stride)
    assert x.shape[2:] == (2, 2)
    x = norm_relu(functional.conv2d(x, head["conv_1/conv/weight"][:, :, None, None]), "norm_1")
    x = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), head["conv_2/conv/weight"])
    x = norm_relu(x, "norm_2").mean((2, 3))
    wanted = functional.linear(x, head["head/classifier/linear/weight"], head["head/classifier/bias"])
    np.testing.assert_allclose(auxiliary, wanted, rtol=1e-8, atol=1e-8)
    evaluated, nothing, _ = jax.eval_shape(lambda: model.apply(params, stats, images, False))
    assert nothing is None and evaluated.shape == logits.shape
    plain = networks.NETWORKS["dso"].make(a, c, 3, False, lambda x: x, None)
    assert "auxiliary" not in jax.eval_shape(lambda: plain.init(jax.random.key(0), (size, size, 1)))[PARAMS]


def test_what_is_dropped_grows_with_the_place_of_the_block() -> None:
    published = dso.depths((8, 8, 8), 4)
    assert [round(112 * published[block]) for block in (0, 1, 7, 8, 15, 16, 23)] == [1, 5, 29, 37, 65, 74, 102]
    assert dso.depths((1, 2), 2) == (1 / 6, 3 / 6, 5 / 6)
    drops = dso.dso(whole("share", 2, ("sep3",), 1, 1), Fields(stages=(1, 2)), 10).drops
    assert drops == ((1 / 6,), (3 / 6,), (5 / 6,))
    entry = networks.NETWORKS["dso"]
    assert (entry.drop_path(Fields(drop_path=0.5)), entry.auxiliary_weight(Fields(auxiliary_weight=0.3))) == (0.5, 0.3)


DIGITS = {
    "controls": [],
    "data": {"source": "digits", "crop_padding": 1},
    "space": {"name": "dso", "scope": "full", "levels": 1, "operations": ["sep3"], "stages": [1, 1], "channels": 2},
    "method": {"name": "dso", "epochs": 2, "batch_size": 8},
    "network": {"stages": [1, 1]},
    "train": {"recipe": "dense", "batch_size": 8},
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": {"stages": [2, 1]}}, "network.stages = (2, 1) with an architecture of 2 blocks"),
        (
            {"method": {"name": "given"}, "architecture": json.dumps(to_json(whole("full", 2, ("sep3",), 2, 1)))},
            "architecture: levels = 2; allowed: 1, as the space's fields say",
        ),
    ],
)
def test_what_does_not_fit_the_space_is_refused_before_anything_is_searched(changed: Any, message: str) -> None:
    compose.setting(config.from_dict(DIGITS))
    with pytest.raises(UserError, match=re.escape(message)):
        compose.setting(config.from_dict({**DIGITS, **changed}))
