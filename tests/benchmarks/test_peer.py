"""Our fused supernet against the peer of the benchmarks, PyTorch edge by edge: values, gradients and a whole step."""

import functools
import importlib.util
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from dass_jax import bilevel, build, config, relaxation
from dass_jax.errors import UserError
from dass_jax.methods import dass
from dass_jax.methods.losses import Batch, cross_entropy
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, flatten

torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")

from benchmarks import peer, peer_variables  # noqa: E402  (needs torch)

pytestmark = pytest.mark.usefixtures("x64")
BATCH, TOLERANCE = 4, 1e-8


class Pair(NamedTuple):
    """Both networks with equal variables."""

    config: SupernetConfig
    loss: Any
    variables: Any
    theirs: Any
    batches: list[Batch]
    counts: dict[str, int]
    """Values per channel that the peer's BN layers see, by module name; filled by a forward pass."""


def pair(config: SupernetConfig, image: tuple[int, int, int], random_like: Any) -> Pair:
    space, rng = darts(config), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), image))
    params, statistics = random_like(shapes[PARAMS], 1), random_like(shapes[BATCH_STATS], 2)
    alpha = {name: rng.normal(size=shape) for name, shape in space.alpha_shapes.items()}
    variables = {PARAMS: params, BATCH_STATS: jax.tree.map(np.abs, statistics), ALPHA: alpha}
    theirs = peer.supernet(config, image[2]).double()
    peer_variables.load(theirs, peer_variables.places(config), variables)
    loss = dass.supernet_loss(space.apply, relaxation.softmax, dass.dense_weights)
    batches = [
        Batch(rng.normal(size=(image[2], *image[:2], BATCH)), rng.integers(config.classes, size=BATCH))
        for _ in range(2)
    ]
    return Pair(config, loss, variables, theirs, batches, count_values(theirs))


def count_values(theirs: Any) -> dict[str, int]:
    counts: dict[str, int] = {}

    def count(name: str, module: Any, inputs: Any, output: Any) -> None:
        counts[name] = output.numel() // output.shape[1]

    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(functools.partial(count, name))
    return counts


def to_torch(batch: Batch) -> tuple[Any, Any]:
    return torch.from_numpy(np.moveaxis(batch.images, -1, 0).copy()), torch.from_numpy(batch.labels)


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """One line for each leaf that is not the same, or not there."""
    lines = [f"{name}: only in one of both" for name in sorted(found.keys() ^ wanted.keys())]
    for name in sorted(found.keys() & wanted.keys()):
        one, other = (np.asarray(leaves[name]).squeeze() for leaves in (found, wanted))
        if one.shape != other.shape or not np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
            apart = np.abs(one - other).max() if one.shape == other.shape else f"{one.shape} and {other.shape}"
            lines.append(f"{name}: apart by {apart}")
    return lines


def as_torch_counts(p: Pair, before: Any, after: Any, passes: int) -> dict[str, np.ndarray]:
    """Our running statistics by the peer's names, after as many forward passes.

    PyTorch moves its running variance by the unbiased estimate, we by the batch's variance itself (as Flax does).
    """
    places = peer_variables.places(p.config)
    old, new = (peer_variables.split(places, {BATCH_STATS: statistics}) for statistics in (before, after))
    for name in new:
        if name.endswith("running_var"):
            kept, count = 0.9**passes * old[name], p.counts[name.removesuffix(".running_var")]
            new[name] = kept + (new[name] - kept) * count / (count - 1)
    return new


def statistics_of(p: Pair) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in peer_variables.tensors(p.theirs).items() if ".running_" in name}


CASES = {
    "8×8, pixel matrices": (SupernetConfig(classes=3, cells=3, channels=4, nodes=3), (8, 8, 3)),
    "9×11, shifts, without none": (SupernetConfig(classes=3, cells=3, channels=2, nodes=1, none=False), (9, 11, 1)),
    "ImageNet stem": (SupernetConfig(classes=3, cells=2, channels=4, nodes=1, stem="imagenet"), (40, 36, 3)),
}


@pytest.mark.parametrize(("sizes", "image"), CASES.values(), ids=CASES)
def test_logits_loss_gradients_and_statistics_are_the_peers(
    sizes: SupernetConfig, image: tuple[int, int, int], random_like: Any
) -> None:
    p = pair(sizes, image, random_like)
    trained = {name: p.variables[name] for name in (PARAMS, ALPHA)}

    def loss(trained: Any, statistics: Any, batch: Batch) -> Any:
        weights = relaxation.softmax(trained[ALPHA])
        logits, updates = darts(sizes).apply(trained[PARAMS], statistics, weights, batch.images, True)
        return cross_entropy(logits, batch.labels), (logits, updates)

    ours = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logits, statistics)), gradients = ours(trained, p.variables[BATCH_STATS], p.batches[0])

    images, labels = to_torch(p.batches[0])
    their_logits = p.theirs(images)
    their_loss = torch.nn.functional.cross_entropy(their_logits, labels)
    their_loss.backward()
    assert not differing(
        {"logits": logits, "loss": value},
        {"logits": their_logits.detach().numpy(), "loss": their_loss.detach().numpy()},
    )
    # With two cells, both reductions, PyTorch has no gradient to the normal cell's α at all.
    their_gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in p.theirs.named_parameters()
    }
    assert not differing(
        flatten(gradients), flatten(peer_variables.gather(peer_variables.places(sizes), their_gradients, trained))
    )
    shown = [*jax.tree.leaves(gradients[PARAMS]), gradients[ALPHA]["reduce"]]
    assert all(np.any(leaf) for leaf in shown), "a gradient of zeros shows nothing"
    assert not differing(as_torch_counts(p, p.variables[BATCH_STATS], statistics, 1), statistics_of(p))


def test_a_whole_search_step_is_the_peers(random_like: Any) -> None:
    """α by Adam, then θ by SGD with weight decay and an active clip, twice, so that moments and momentum count."""
    p = pair(SupernetConfig(classes=3, cells=3, channels=2, nodes=1), (8, 8, 1), random_like)
    clip = 0.05
    step = dass.step(
        PARAMS,
        p.loss,
        *build.search_transforms(config.Search(clip=clip)),
        bilevel.first_order(),
        "upper_first",
        bilevel.levels.same,
    )
    update, state = jax.jit(step.update), step.init(p.variables)
    optimizers = peer.optimizers(p.theirs)
    batches = [to_torch(batch) for batch in p.batches]
    for _ in range(2):
        state, info = update(state, p.batches, jax.random.key(0), learning_rate=0.025)
        norm = float(info.lower.gradient_norm)
        assert norm > 2 * clip
        # PyTorch divides by norm + 1e-6.
        losses = peer.search_step(p.theirs, optimizers, *batches, clip * (norm + 1e-6) / norm)
        wanted = dict(zip(("upper", "lower"), losses, strict=True))
        assert not differing({name: level.loss for name, level in info._asdict().items()}, wanted)
    v = state.variables
    trained = {name: v[name] for name in (PARAMS, ALPHA)}
    assert not differing(
        flatten(trained),
        flatten(peer_variables.gather(peer_variables.places(p.config), peer_variables.tensors(p.theirs), trained)),
    )
    assert not differing(as_torch_counts(p, p.variables[BATCH_STATS], v[BATCH_STATS], 4), statistics_of(p))


def test_the_comparison_names_the_leaf_that_differs() -> None:
    one, other = {"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "b": np.array([1, 1.5])}
    assert differing(one, one) == []
    assert differing(one, other) == ["b: apart by 0.5"]
    assert len(differing(one, {"a": np.ones(2), "b": np.array([1, 1 + 1e-6])})) == 1
    assert differing({"a": np.ones(2)}, {}) == ["a: only in one of both"]
    assert differing({"a": np.full(2, np.nan)}, {"a": np.ones(2)}) == ["a: apart by nan"]


def test_without_pytorch_the_peer_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    spec = importlib.util.spec_from_file_location("peer_without_torch", pathlib.Path(peer.__file__))
    with pytest.raises(UserError, match=r"^PyTorch is missing; pip install torch==[\d.]+$"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
