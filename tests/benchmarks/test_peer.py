"""Our fused supernet against the peer of the benchmarks, PyTorch edge by edge: values, gradients and a whole step."""

import functools
import importlib.util
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from dass_jax import bilevel, relaxation
from dass_jax.errors import UserError
from dass_jax.methods import darts as method
from dass_jax.methods import dass, relaxed
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.tasks import Batch
from dass_jax.tasks.classification import classification, cross_entropy
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, SCORES, flatten, prunable
from tests import supernets

torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")

from benchmarks import peer, peer_variables  # noqa: E402  (needs torch)

pytestmark = pytest.mark.usefixtures("x64")
BATCH, TOLERANCE = 4, 1e-8


class Pair(NamedTuple):
    """Both networks with equal variables."""

    config: SupernetConfig
    variables: Any
    theirs: Any
    batches: dict[str, Batch]
    """Of each level."""
    counts: dict[str, int]
    """Values per channel that the peer's BN layers see, by module name; filled by a forward pass."""


def pair(config: SupernetConfig, image: tuple[int, int, int], random_like: Any) -> Pair:
    space, rng = darts(config), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), image))
    params, statistics = random_like(shapes[PARAMS], 1), random_like(shapes[BATCH_STATS], 2)
    alpha = {name: rng.normal(size=choice.shape) for name, choice in space.choices.items()}
    variables = {PARAMS: params, BATCH_STATS: jax.tree.map(np.abs, statistics), ALPHA: alpha}
    theirs = peer.supernet(config, image[2]).double()
    peer_variables.load(theirs, peer_variables.places(config), variables)
    batches = {
        level: Batch(rng.normal(size=(image[2], *image[:2], BATCH)), rng.integers(config.classes, size=BATCH))
        for level in ("upper", "lower")
    }
    return Pair(config, variables, theirs, batches, count_values(theirs))


def search_step(p: Pair, collection: str, weights: relaxed.Weights, clip: float) -> bilevel.Algorithm:
    """Ours, by first order."""
    space = darts(p.config)
    loss = relaxed.supernet_loss(space.apply, classification(p.config.classes), relaxed.softmax_choice, weights)
    return method.step(collection, loss, relaxed.Bilevel(clip=clip), supernets.problem(space, 3, (8, 8, 1)))


def rates(lower: float) -> dict[str, float]:
    """Of both levels; the peer's α has the paper's."""
    return {"upper": relaxed.Bilevel.alpha_lr, "lower": lower}


def count_values(theirs: Any) -> dict[str, int]:
    counts: dict[str, int] = {}

    def count(name: str, module: Any, inputs: Any, output: Any) -> None:
        counts[name] = output.numel() // output.shape[1]

    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(functools.partial(count, name))
    return counts


def to_torch(batch: Batch) -> tuple[Any, Any]:
    return torch.from_numpy(np.moveaxis(batch.images, -1, 0).copy()), torch.from_numpy(batch.targets)


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
    "8×8, pixel matrices": (SupernetConfig(classes=3, cells=3, channels=4, nodes=2), (8, 8, 3)),
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
        return cross_entropy(logits, batch.targets), (logits, updates)

    ours = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logits, statistics)), gradients = ours(trained, p.variables[BATCH_STATS], p.batches["upper"])

    images, labels = to_torch(p.batches["upper"])
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
    step = search_step(p, PARAMS, relaxed.dense_weights, clip)
    update, state = jax.jit(step.update), step.init(p.variables)
    optimizers = peer.optimizers(p.theirs)
    batches = [to_torch(batch) for batch in p.batches.values()]
    for _ in range(2):
        state, info = update(state, p.batches, jax.random.key(0), learning_rate=rates(0.025))
        norm = float(info["lower"].gradient_norm)
        assert norm > 2 * clip
        # PyTorch divides by norm + 1e-6.
        losses = peer.search_step(p.theirs, optimizers, *batches, clip * (norm + 1e-6) / norm)
        wanted = dict(zip(("upper", "lower"), losses, strict=True))
        assert not differing({name: level.loss for name, level in info.items()}, wanted)
    v = state.variables
    trained = {name: v[name] for name in (PARAMS, ALPHA)}
    assert not differing(
        flatten(trained),
        flatten(peer_variables.gather(peer_variables.places(p.config), peer_variables.tensors(p.theirs), trained)),
    )
    assert not differing(as_torch_counts(p, p.variables[BATCH_STATS], v[BATCH_STATS], 4), statistics_of(p))


def test_a_whole_step_2_is_the_peers(random_like: Any) -> None:
    """α on θ⊙m by Adam, then s by SGD, straight through, three times; masks from the scores by PyTorch's own top-k."""
    p = pair(SupernetConfig(classes=3, cells=3, channels=4, nodes=1), (8, 8, 1), random_like)
    keep, rate, clip, space = 0.3, 0.5, 0.5, darts(p.config)
    # Under a mask many channels are constant and all maxima tied: we share their gradient, PyTorch takes the first.
    for weights in p.variables[ALPHA].values():
        weights[:, p.config.operations.index("max_pool_3x3")] = -100
    peer_variables.load(p.theirs, peer_variables.places(p.config), p.variables)
    stacks = prunable(p.variables[PARAMS], space.rules)
    step = search_step(p, SCORES, dass.sparse_weights(stacks, keep), clip)
    update, state = jax.jit(step.update), step.init(dass.with_scores(p.variables, stacks))
    sparse = Sparse(p.theirs, rate)
    alpha, batches = peer.optimizers(p.theirs).alpha, [to_torch(batch) for batch in p.batches.values()]
    flipped = 0
    for _ in range(3):
        state, info = update(state, p.batches, jax.random.key(0), learning_rate=rates(rate))
        norm = float(info["lower"].gradient_norm)
        assert norm > 2 * clip
        before, wanted = sparse.masks, {}
        sparse.mask(keep)
        flipped += before != {} and any(bool((m != before[name]).any()) for name, m in sparse.masks.items())
        for level, (images, labels) in zip(("upper", "lower"), batches, strict=True):
            value = torch.nn.functional.cross_entropy(p.theirs(images), labels)
            p.theirs.zero_grad()
            value.backward()
            wanted[level] = value.detach()
            # PyTorch divides by norm + 1e-6.
            alpha.step() if level == "upper" else sparse.step(clip * (norm + 1e-6) / norm)
        assert not differing({name: level.loss for name, level in info.items()}, wanted)
    assert flipped, "masks that never change show nothing"
    places, v = peer_variables.places(p.config), state.variables
    found = {ALPHA: v[ALPHA], PARAMS: v[SCORES]}
    theirs = {**peer_variables.tensors(p.theirs), **sparse.detached()}
    assert not differing(flatten(found), flatten(peer_variables.gather(places, theirs, found)))
    assert not differing(flatten(v[PARAMS]), flatten(p.variables[PARAMS]))
    assert not differing(as_torch_counts(p, p.variables[BATCH_STATS], v[BATCH_STATS], 6), statistics_of(p))


class Sparse:
    """Scores and masks of all convolutions and linear layers of the peer, one tensor at a time."""

    def __init__(self, theirs: Any, rate: float) -> None:
        kinds = (torch.nn.Conv2d, torch.nn.Linear)
        self.layers = {f"{name}.weight": m.weight for name, m in theirs.named_modules() if isinstance(m, kinds)}
        self.theta = {name: weight.detach().clone() for name, weight in self.layers.items()}
        self.scores = {name: torch.nn.Parameter(self._initial(theta)) for name, theta in self.theta.items()}
        self.optimizer = torch.optim.SGD(self.scores.values(), lr=rate, momentum=0.9, weight_decay=3e-4)
        self.masks: dict[str, Any] = {}

    @staticmethod
    def _initial(theta: Any) -> Any:
        return (6 / theta[0].numel()) ** 0.5 * theta / theta.abs().max()

    def mask(self, keep: float) -> None:
        """Puts θ⊙m into the network."""
        self.masks = {}
        for name, scores in self.detached().items():
            kept = scores.numel() - int((1 - keep) * scores.numel())
            mask = torch.zeros(scores.numel(), dtype=scores.dtype)
            mask[scores.abs().flatten().topk(kept).indices] = 1
            self.masks[name] = mask.reshape(scores.shape)
            self.layers[name].data.copy_(self.theta[name] * self.masks[name])

    def step(self, clip: float) -> None:
        """Eq. 7 from the gradients by θ⊙m that the network holds."""
        for name, scores in self.scores.items():
            scores.grad = torch.sign(scores.detach()) * self.theta[name] * self.layers[name].grad
        torch.nn.utils.clip_grad_norm_(self.scores.values(), clip)
        self.optimizer.step()

    def detached(self) -> dict[str, Any]:
        """The scores by the names of the weights."""
        return {name: scores.detach() for name, scores in self.scores.items()}


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
