"""What a recipe is given and what it gives: phases that train a network."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from dass_jax import bilevel, sparsity, variables
from dass_jax.networks.model import Model
from dass_jax.phases import WHOLE, Feed, Phase, Training, single
from dass_jax.schedules import Schedule, by_epoch, cosine, linear, warmed
from dass_jax.schema import Count, CountOrZero, Decay, NotNegative, Rate
from dass_jax.tasks import Batch, Task
from dass_jax.variables import BATCH_STATS, MASKS, PARAMS, Variables


@dataclasses.dataclass(frozen=True)
class Batches:
    """Fields of every recipe: how batches are made, and when the network is evaluated."""

    batch_size: Count = 128
    """Images in a batch."""
    accumulate: Count = 1
    """Equal parts of each device's batch that are worked through one after the other, for about the memory of one: a
    step uses the mean of their gradients. Evaluations take as many images at once as there are in a part."""
    evaluate_every: CountOrZero = 1
    """Epochs between evaluations on the test images, for the learning curves only: nothing is chosen by them.
    0 = only at the end of a phase."""


@dataclasses.dataclass(frozen=True)
class Fields(Batches):
    """Fields of every recipe that trains: what moves the weights."""

    final_lr: NotNegative = 0.0
    """Last learning rate, in each phase."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls while fresh weights are trained; in later phases along a cosine. DSO-NAS has `linear`
    for ImageNet."""
    warmup_epochs: CountOrZero = 0
    """Epochs in which the learning rate of fresh weights rises from `warmup_lr`, step by step, before it falls; at most
    all but one. DSO-NAS has 5 for ImageNet."""
    warmup_lr: Rate = 0.1
    """First learning rate of these epochs. DSO-NAS."""
    label_smoothing: Decay = 0.0
    """Share of each target that is spread over all classes alike, in what is minimised; evaluations know nothing of it.
    DARTS and DSO-NAS have 0.1 for ImageNet."""
    momentum: Decay = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum in the place of the plain one, for the weights. ENAS and DSO-NAS."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of SGD, as L2 in the gradient."""
    clip: Rate = 5.0
    """Largest global norm of the gradient."""


class Problem(NamedTuple):
    """A network to be trained, and by what means."""

    net: Model
    """With its auxiliary head, if it has one."""
    task: Task
    image_shape: tuple[int, int, int]
    """[H, W, C]."""
    keep: float
    """Fraction of the weights that survive pruning."""
    average: bilevel.Reduce
    """The mean over the devices that share a batch."""
    auxiliary_weight: float
    """Of the auxiliary head's loss."""
    drop_path: float
    """Probability, reached at the end of a phase, that a path is dropped; 0: no draws are made for it."""
    name: str
    """Of the network: programs of equal networks are shared."""
    distribution: sparsity.Distribution = "layer"
    """How the weights that survive are shared out over the layers."""
    chosen: Callable[[Any], Any] | None = None
    """Scores → masks, in the place of what `keep` and `distribution` say: counts that are data."""

    def stacks(self, params: Any) -> Any:
        """The prunable leaves of the network's θ, as `variables.prunable`."""
        return variables.prunable(params, self.net.rules)

    def masks(self, scores: Any, params: Any) -> Any:
        """The masks that scores of the network's θ have."""
        if self.chosen is not None:
            return self.chosen(scores)
        return sparsity.topk_masks(scores, self.stacks(params), self.keep, self.distribution)


class Entry(NamedTuple):
    """A recipe as configurations name it: `[train] recipe`."""

    about: str
    """In a few words, for `--help`."""
    schema: type
    train: Callable[[Any, Problem], Training]
    """(fields, problem) → training."""
    prunes: bool = True
    """Whether `sparsity.keep` says how many weights are left."""


def network_loss(problem: Problem, weights: Callable[[Variables], Any], parts: int = 1) -> bilevel.Loss:
    """The task's loss of a network, plus `auxiliary_weight` times the auxiliary head's where there is one.

    Args:
      weights: variables → the θ that the network sees.
      parts: of each batch, one after the other; see `bilevel.accumulated`.
    """
    task = problem.task

    def loss(v: Variables, batch: Batch, key: Any) -> Any:
        outputs, auxiliary, batch_stats = problem.net.apply(
            weights(v), v[BATCH_STATS], batch.images, True, batch.path_scale
        )
        value = task.loss(outputs, batch.targets)
        if auxiliary is not None:
            value = value + problem.auxiliary_weight * task.loss(auxiliary, batch.targets)
        return value, (task.measured(outputs, batch.targets), {BATCH_STATS: batch_stats})

    return bilevel.accumulated(loss, parts)


def descending(
    collection: str, loss: bilevel.Loss, transform: Any, problem: Problem, project: Any = None
) -> bilevel.Algorithm:
    """One level, called like the collection that it trains: θ or the scores; `project` as `bilevel.Level` has it."""
    level = bilevel.Level(collection, loss, bilevel.with_rate(transform, collection), project=project)
    return single(bilevel.descend(level, problem.average), collection)


def train_weights(c: Fields, problem: Problem) -> bilevel.Algorithm:
    """θ's kept entries under the masks in `variables["masks"]`."""
    transform = optax.chain(bilevel.sgd(c.momentum, c.weight_decay, c.clip, c.nesterov), bilevel.freeze_pruned())
    loss = network_loss(problem, sparsity.masked_weights, c.accumulate)
    return bilevel.under_masks(descending(PARAMS, loss, transform, problem))


DECAYS = {"cosine": cosine, "linear": linear}


def learning_rate(
    c: Fields, first: float, epochs: int, cycles: Callable[[Schedule, int], Schedule] = lambda falling, epochs: falling
) -> Schedule:
    """Progress → learning rate of fresh weights: step by step while it rises, then by epochs.

    Args:
      first: from which it falls.
      cycles: (how it falls, epochs of that) → how it does so several times.
    """
    rising = min(c.warmup_epochs, epochs - 1)
    falling = cycles(DECAYS[c.decay](first, c.final_lr), epochs - rising)
    return warmed(by_epoch(falling, epochs - rising), rising / epochs, c.warmup_lr)


def phase(c: Fields, problem: Problem, collection: str, rate: Schedule, **given: Any) -> Phase:
    """A phase of a network's training on all training images.

    Args:
      collection: which is trained, by `descending`.
      rate: progress → learning rate.
      given: fields of the phase.
    """
    dropped = by_epoch(linear(0.0, problem.drop_path), given["epochs"])
    drops = problem.drop_path > 0
    paths = {"paths": problem.net.paths, "drops": problem.net.drops} if drops else {}

    def rates(progress: np.ndarray) -> dict[str, Any]:
        dropping = {"drop_path": dropped(progress)} if drops else {}
        return {"learning_rate": {collection: rate(progress)}, **dropping}

    return Phase(
        feeds={collection: Feed(WHOLE, c.batch_size, cutout=True, **paths)},
        rates=rates,
        curves=problem.task.curves("", "test_", "test"),
        **given,
    )


def fresh(problem: Problem, key: jax.Array) -> Variables:
    """A network's first variables, all of its weights kept."""
    v = problem.net.init(key, problem.image_shape)
    return {**v, MASKS: sparsity.dense_masks(v[PARAMS], problem.stacks(v[PARAMS]))}


def outputs(problem: Problem) -> Callable[[Variables, jax.Array], jax.Array]:
    """`Training.outputs` of θ⊙m."""
    return lambda v, images: problem.net.apply(sparsity.masked_weights(v), v[BATCH_STATS], images, False)[0]


def masked(v: Variables) -> Variables:
    """What is evaluated of a network with masks."""
    return {name: v[name] for name in (PARAMS, BATCH_STATS, MASKS)}
