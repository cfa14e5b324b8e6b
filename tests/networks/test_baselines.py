"""The published baselines against PyTorch: sizes, logits, gradients, statistics, dropped paths."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import accounting, variables
from dass_jax.networks import baselines
from dass_jax.networks.baselines import PLANS, baseline, of_width
from dass_jax.networks.model import Model, of_module
from dass_jax.nn.widths import scaled
from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS, flatten

torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")

from tests.networks import torch_baselines  # noqa: E402  (needs torch)

MOST, CLASSES, BATCH, SIZE = 2, 3, 4, 9
FACTOR = {"resnet18": 16, "mobilenet_v2": 8, "efficientnet_v2_s": 8}
PRUNABLE = {"resnet18": 11_164_352, "mobilenet_v2": 2_261_824, "efficientnet_v2_s": 20_001_224}
PUBLISHED = {"resnet18": 11_173_962, "mobilenet_v2": 2_296_922, "efficientnet_v2_s": 20_190_298}
"""Of the common CIFAR forms, and for EfficientNet torchvision's 21,458,488 with 10 classes instead of 1000."""


def shapes_of(model: Model, size: int = 32) -> Any:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), (size, size, 3)))


@pytest.mark.parametrize("name", PLANS)
def test_the_published_sizes_are_exact_and_so_are_the_peers(name: str) -> None:
    params = shapes_of(baseline(name, 10))[PARAMS]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PUBLISHED[name]
    with torch.device("meta"):
        peer = torch_baselines.Network(name, 10, 3)
    assert {f"params/{path}": math.prod(leaf.shape) for path, leaf in flatten(params).items()} == {
        torch_baselines.place(own): parameter.numel() for own, parameter in peer.named_parameters()
    }
    weights = [p for own, p in peer.named_parameters() if own.endswith("weight") and not own.endswith("norm.weight")]
    model = baseline(name, 10)
    stacks = variables.prunable(params, model.rules)
    prunable = sum(count * size for _, count, size in variables.layers(params, stacks))
    assert prunable == sum(p.numel() for p in weights) == PRUNABLE[name]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_v2_s"])
def test_multiply_accumulates_are_those_of_the_peers_layers(name: str) -> None:
    model = baseline(name, 10)
    shapes = shapes_of(model)
    found = accounting.count(
        shapes[PARAMS],
        model.rules,
        accounting.kept_of_fraction(shapes[PARAMS], model.rules, 0.01),
        0.01,
        lambda: model.apply(
            *(jax.tree.map(lambda x: jnp.zeros(x.shape), shapes[part]) for part in (PARAMS, BATCH_STATS)),
            jnp.zeros((3, 32, 32, 1)),
            False,
        ),
    )
    macs = 0

    def add(module: Any, inputs: Any, output: Any) -> None:
        nonlocal macs
        macs += module.weight.numel() * math.prod(output.shape[2:])

    with torch.device("meta"):
        peer = torch_baselines.Network(name, 10, 3).eval()
        for module in peer.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.register_forward_hook(add)
        peer(torch.zeros(1, 3, 32, 32))
    assert found.macs == macs > 0


def shortened(name: str) -> Model:
    """A part of the width and at most two blocks in a stage: every kind of block, few to compile."""
    plan, factor = PLANS[name], FACTOR[name]
    stages = tuple(
        stage._replace(channels=stage.channels // factor, repeats=min(stage.repeats, MOST)) for stage in plan.stages
    )
    last = None if plan.last is None else plan.last // factor
    plan = plan._replace(stem=plan.stem // factor, stages=stages, last=last)
    return of_module(baselines.Network(plan, CLASSES), (sum(stage.repeats for stage in stages),))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PLANS)
def test_logits_gradients_and_statistics_are_the_peers(name: str, random_like: Any) -> None:
    model, rng = shortened(name), np.random.default_rng(0)
    shapes = shapes_of(model, SIZE)
    params, stats = random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))
    images, labels = rng.normal(size=(3, SIZE, SIZE, BATCH)), rng.integers(CLASSES, size=BATCH)
    path_scale = np.full((*model.paths, BATCH), 1.25)
    path_scale[np.arange(model.paths[0]), rng.integers(BATCH, size=model.paths)] = 0.0

    peer = torch_baselines.Network(name, CLASSES, 3, factor=FACTOR[name], most=MOST).double()
    ours = flatten({PARAMS: params, BATCH_STATS: stats})
    theirs = {own: t for own, t in peer.state_dict().items() if not own.endswith("num_batches_tracked")}
    assert {torch_baselines.place(own) for own in theirs} == set(ours)
    for own, tensor in theirs.items():
        tensor.copy_(torch.from_numpy(ours[torch_baselines.place(own)]).reshape(tensor.shape))
    their_images = torch.from_numpy(np.moveaxis(images, -1, 0).copy())

    @jax.jit
    def run(params: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, auxiliary, moved = model.apply(params, stats, images, True, path_scale)
            assert auxiliary is None
            return cross_entropy(logits, labels), (logits, moved)

        return jax.grad(loss, has_aux=True)(params), model.apply(params, stats, images, False)[0]

    (gradients, (logits, moved)), evaluated = run(params)
    wanted = peer.eval()(their_images).detach()
    np.testing.assert_allclose(evaluated, wanted, rtol=1e-9, atol=1e-9)
    their_logits = peer.train()(their_images, torch.from_numpy(path_scale))
    torch.nn.functional.cross_entropy(their_logits, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(logits, their_logits.detach(), rtol=1e-8, atol=1e-8)
    found = flatten({PARAMS: gradients, BATCH_STATS: moved})
    for own, parameter in peer.named_parameters():
        path = torch_baselines.place(own)
        gradient = parameter.grad.numpy().reshape(found[path].shape)
        np.testing.assert_allclose(found[path], gradient, rtol=1e-6, atol=1e-8 * (1 + np.abs(gradient).max()))
        assert np.any(found[path]), f"{path}: a gradient of zeros shows nothing"
    for own, buffer in peer.named_buffers():
        if own.endswith("running_mean"):
            np.testing.assert_allclose(found[torch_baselines.place(own)], buffer, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("channels", "width", "rounded"),
    [(32, 1.0, 32), (32, 0.75, 24), (24, 0.5, 16), (16, 0.1, 8), (24, 0.35, 8), (24, 0.75, 24), (64, 1.4, 88)],
)
def test_channels_are_rounded_as_in_mobilenets(channels: int, width: float, rounded: int) -> None:
    assert scaled(channels, width) == rounded
    assert rounded % 8 == 0 and rounded >= 0.9 * channels * width


@pytest.mark.parametrize("name", PLANS)
def test_width_scales_every_convolution_but_never_narrows_the_last(name: str) -> None:
    plan = PLANS[name]
    assert of_width(plan, 1.0) == plan
    narrow, wide = of_width(plan, 0.5), of_width(plan, 2.0)
    assert narrow.stem < plan.stem < wide.stem == 2 * plan.stem
    assert all(a.channels <= b.channels for a, b in zip(narrow.stages, plan.stages, strict=True))
    if plan.last is not None:
        assert (narrow.last, wide.last) == (plan.last, 2 * plan.last)
    sizes = [
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes_of(baseline(name, 10, width), 8)[PARAMS]))
        for width in (0.25, 1.0)
    ]
    assert sizes[0] < sizes[1] / 3
