"""What searches of a relaxed space have in common: the supernet's loss, its optimizers, and what is looked at.

A relaxed space mixes all operations of an edge; α are the logits of the mixture. Source: DARTS (arXiv 1806.09055).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np

from dass_jax import bilevel, relaxation
from dass_jax.errors import UserError
from dass_jax.methods.method import Problem
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Curve, Feed, Matrix, Observation
from dass_jax.schedules import by_epoch, cosine
from dass_jax.schema import Count, CountOrZero, Decay, NotNegative, Rate
from dass_jax.tasks import Batch, Task
from dass_jax.variables import ALPHA, BATCH_STATS, PARAMS, Variables

Weights = Callable[[Variables], Any]
"""variables → the θ that the network sees."""
Relax = Callable[[Variables], dict[str, jax.Array]]
"""variables → the choice that a space's `apply` takes."""


@dataclasses.dataclass(frozen=True)
class Relaxed:
    """Fields of a search of a relaxed space."""

    epochs: Count = 50
    """Epochs of the search or, of a search in several steps, of its first one."""
    batch_size: Count = 64
    """Images in a batch, of each level."""
    accumulate: Count = 1
    """Equal parts of each device's batch that are worked through one after the other, for about the memory of one: a
    step uses the mean of their gradients. Batch normalisation uses each part's own statistics."""
    theta_lr: Rate = 0.025
    """First learning rate of the weights θ (SGD, cosine). DARTS."""
    final_lr: NotNegative = 1e-3
    """Last learning rate of the cosine schedules. DARTS."""
    momentum: Decay = 0.9
    """Momentum of SGD."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of SGD, as L2 in the gradient."""
    clip: Rate = 5.0
    """Largest global norm of the weights' gradient."""
    alpha_lr: Rate = 3e-4
    """Learning rate of the architecture parameters α (Adam, constant)."""
    alpha_beta1: Decay = 0.5
    """Decay of Adam's first moment for α."""
    alpha_beta2: Decay = 0.999
    """Decay of Adam's second moment for α."""
    alpha_weight_decay: NotNegative = 1e-3
    """Weight decay of α, as L2 in the gradient (coupled, before Adam's scaling)."""


@dataclasses.dataclass(frozen=True)
class Bilevel(Relaxed):
    """Fields of a bi-level search: α on the validation images, everything else on the training images."""

    one_level: bool = False
    """α and what is below it see all training images instead, each in batches of its own: a search on one level, with
    as many more steps in an epoch. Not in the paper; `entmax` searches so."""
    order: Literal["upper_first", "lower_first"] = "upper_first"
    """Which level steps first in an iteration: `upper_first` (α, then θ or s; DARTS and the authors' code) or
    `lower_first` (as DASS Algorithm 1 writes it)."""
    cosine: bool = False
    """Also record the cosine between α's gradient and its first-order part, at the cost of one more gradient."""
    stop_at_skips: CountOrZero = 0
    """End a dense search with the first epoch whose derived architecture has at least so many skip connections in the
    space's first matrix (DARTS: the normal cell), and go on with what comes next; 0 = never. DARTS+ (arXiv 1909.06035)
    uses 2. Only with one seed in a run."""


def dense_weights(v: Variables) -> Any:
    """θ."""
    return v[PARAMS]


def softmax_choice(v: Variables) -> dict[str, jax.Array]:
    """Edge weights softmax(α)."""
    return relaxation.softmax(v[ALPHA])


def supernet_loss(apply: Callable[..., Any], task: Task, relax: Relax, weights: Weights) -> bilevel.Loss:
    """The task's loss of the supernet under a relaxed choice; BN uses the batch's statistics.

    Args:
      apply: (params, batch_stats, choice, images, train) → (outputs, batch_stats), as a space offers it.
    """

    def loss(v: Variables, batch: Batch, key: Any) -> Any:
        outputs, batch_stats = apply(weights(v), v[BATCH_STATS], relax(v), batch.images, True)
        metrics = task.measured(outputs, batch.targets)
        return task.loss(outputs, batch.targets), (metrics, {BATCH_STATS: batch_stats})

    return loss


def alpha_transform(c: Relaxed) -> Any:
    """What moves α: Adam with coupled weight decay."""
    return bilevel.adam(c.alpha_beta1, c.alpha_beta2, c.alpha_weight_decay)


def sgd(c: Relaxed) -> Any:
    """What moves θ or s."""
    return bilevel.sgd(c.momentum, c.weight_decay, c.clip)


def rates(c: Relaxed, epochs: int, **firsts: float) -> Callable[[np.ndarray], dict[str, Any]]:
    """Learning rates of the level "upper" (α: constant) and of others (a cosine from the given value, by epochs)."""
    schedules = {level: by_epoch(cosine(first, c.final_lr), epochs) for level, first in firsts.items()}

    def at(progress: np.ndarray) -> dict[str, Any]:
        falling = {level: schedule(progress) for level, schedule in schedules.items()}
        return {"learning_rate": {"upper": np.full_like(progress, c.alpha_lr), **falling}}

    return at


def feeds(c: Bilevel, *lower: str) -> Mapping[str, Feed]:
    """The level "upper" sees the validation images, all others the training images; on one level all see all."""
    above, below = (WHOLE, WHOLE) if c.one_level else (VALIDATION, TRAINING)
    return {"upper": Feed(above, c.batch_size), **{level: Feed(below, c.batch_size) for level in lower}}


def fresh(problem: Problem, space: Any, key: jax.Array) -> Variables:
    """The first θ, BN statistics and α of a search."""
    first, second = jax.random.split(key)
    shapes = {name: choice.shape for name, choice in space.choices.items()}
    return {**space.init(first, problem.image_shape), ALPHA: relaxation.init(second, shapes)}


def observing(space: Any, relax: Relax, derive: Callable[[Any], Any]) -> Callable[[Variables], Observation]:
    """The choice's matrices; of each the entropy of its rows in nats, and how many skip connections it would give if
    the architecture were derived now, by `derive` (choice → architecture)."""

    def observe(v: Variables) -> Observation:
        choice = {name: np.asarray(matrix) for name, matrix in relax(v).items()}
        entropy = {f"entropy_{name}": float(relaxation.entropy(matrix)) for name, matrix in choice.items()}
        skips = {f"skips_{name}": float(number) for name, number in space.skips(derive(choice)).items()}
        return Observation({**skips, **entropy}, choice)

    return observe


STYLES = ("solid", "dashed", "dotted")


def choice_curves(space: Any) -> tuple[Curve, ...]:
    """How what `observing` sees is drawn."""
    lines = [(name, choice.title, STYLES[i % 3]) for i, (name, choice) in enumerate(space.choices.items())]
    return (
        *(Curve(f"skips_{name}", "skip connections", title, "", style) for name, title, style in lines),
        *(Curve(f"entropy_{name}", "entropy of the rows", title, "nats", style) for name, title, style in lines),
    )


def bilevel_curves(space: Any, task: Task, above: str = "validation") -> tuple[Curve, ...]:
    """How a bi-level phase is drawn; `above` is what the images of α are called."""
    turned = Curve("upper_cosine", "α's gradient against its first-order part", "cosine")
    return (*task.curves("lower_", "upper_", above), turned, *choice_curves(space))


def matrices(space: Any) -> dict[str, Matrix]:
    """How the space's choice is drawn."""
    return {
        name: Matrix(choice.title, choice.rows, choice.columns, "weight", choice.grid)
        for name, choice in space.choices.items()
    }


def stopping(c: Bilevel, space: Any) -> Callable[[Mapping[str, float]], bool] | None:
    """The rule of `stop_at_skips`. Raises UserError in a space that knows no skip connections."""
    first = next(iter(space.choices))
    if c.stop_at_skips and first not in space.skips(space.sample(np.random.default_rng(0))):
        raise UserError(f"method.stop_at_skips = {c.stop_at_skips} in a space without skip connections; allowed: 0")
    return (lambda metrics: metrics[f"skips_{first}"] >= c.stop_at_skips) if c.stop_at_skips else None


def carried(whole: Any, state: bilevel.State, live: Mapping[str, Any], before: Any) -> bilevel.State:
    """What a smaller program keeps of a state: θ, statistics and momentum of what lives."""

    def smaller(tree: Any) -> Any:
        return whole.carried(tree, live, before)

    v = {**state.variables, **{name: smaller(state.variables[name]) for name in (PARAMS, BATCH_STATS)}}
    momentum = jax.tree.map(
        lambda x: smaller(x) if isinstance(x, dict) else x,
        state.optimizers[PARAMS],
        is_leaf=lambda x: isinstance(x, dict),
    )
    return bilevel.State(v, {**state.optimizers, PARAMS: momentum})
