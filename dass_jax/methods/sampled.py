"""What searches of a sampled space have in common: weights that all architectures share, trained one architecture at a
time, and the choice of the best of some architectures on the whole validation split.

An architecture is integers, and they are data: a step draws one, and only its weights move.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import bilevel, relaxation, tasks
from dass_jax.bilevel import Info, State
from dass_jax.methods.method import Problem
from dass_jax.phases import TRAINING, VALIDATION, Curve, Feed, Matrix, Observation, Phase, single
from dass_jax.schedules import cosine, restarted
from dass_jax.schema import Count, Decay, NotNegative, Range, Rate
from dass_jax.tasks import Batch, Task
from dass_jax.variables import BATCH_STATS, PARAMS, Variables

ARCHITECTURE = "architecture"
"""The collection of the choice that a child's step has drawn."""
SAMPLED = "sampled"
"""The collection of several choices, {"choices": {name: int32 [M, rows]}, "value": [M]}; the largest value is best."""
SUMS = "sums"
"""The collection of the task's sums of each of them, [M, …], while they are scored."""
CHILD, CANDIDATES = "child", "candidates"
"""Levels."""
Draw = Callable[[Variables, jax.Array], Any]
"""(variables, key) → choice."""
Weights = Callable[[Variables], Any]
"""variables → the θ that the network sees."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """Fields of a search with shared weights. The defaults are ENAS' for whole networks."""

    epochs: Count = 310
    """Epochs of the shared weights."""
    batch_size: Count = 128
    """Images in a batch."""
    theta_lr: Rate = 0.05
    """First learning rate of the weights θ (SGD with Nesterov's momentum; a cosine with restarts, by epochs)."""
    final_lr: NotNegative = 5e-4
    """Learning rate at the end of each cosine."""
    restart_epochs: Count = 10
    """Epochs of the first cosine."""
    restart_factor: Annotated[int, Range(1, 100)] = 2
    """How much longer each following one is."""
    momentum: Decay = 0.9
    """Momentum of SGD."""
    weight_decay: NotNegative = 2.5e-4
    """λ of the penalty λ·Σw², whose gradient is 2λw, over all variables of the network that is trained in a step, BN's
    scales and offsets too. What is not part of it rests."""
    clip: NotNegative = 0.0
    """Largest global norm of θ's gradient; 0 = any, as the published code's clipping is without effect. Where most
    weights are pruned gradients explode without it."""
    candidates: Count = 100
    """Architectures that are drawn at the end and scored on the whole validation split, of which the best is found."""


def space_of(problem: Problem) -> Any:
    """The space. Raises ValueError if it is not a sampled one."""
    space = problem.space()
    if space.sampled is None:
        raise ValueError("a method of sampled spaces in a relaxed one")
    return space


def dense_weights(v: Variables) -> Any:
    """θ."""
    return v[PARAMS]


def child_loss(space: Any, task: Task, weights: Weights) -> bilevel.Loss:
    """The task's loss of the network that was drawn."""

    def loss(v: Variables, batch: Batch, key: Any) -> Any:
        outputs, batch_stats = space.apply(weights(v), v[BATCH_STATS], v[ARCHITECTURE], batch.images, True)
        metrics = task.measured(outputs, batch.targets)
        return task.loss(outputs, batch.targets), (metrics, {BATCH_STATS: batch_stats} if batch_stats else {})

    return loss


def child(
    c: Fields, problem: Problem, space: Any, draw: Draw, weights: Weights = dense_weights, project: Any = None
) -> bilevel.Algorithm:
    """A step of θ for one architecture that it draws.

    Args:
      weights: variables → the θ that the network sees.
      project: what follows the step, see `bilevel.Level`.
    """
    transform = bilevel.with_rate(bilevel.sgd_of_parts(c.momentum, c.weight_decay, c.clip), CHILD)
    level = bilevel.Level(PARAMS, child_loss(space, problem.task, weights), transform, project=project)
    descent = bilevel.descend(level, problem.average)

    def update(state: State, batch: Any, key: jax.Array, **extra: Any) -> Any:
        first, second = jax.random.split(key)
        choice = draw(state.variables, first)
        drawn = state._replace(variables={**state.variables, ARCHITECTURE: choice})
        moving = space.sampled.moving(state.variables[PARAMS], choice)
        return descent.update(drawn, batch, second, moving=moving, **extra)

    return bilevel.Algorithm(descent.init, update)


def child_rates(c: Fields) -> Callable[[np.ndarray], Any]:
    """θ's learning rate."""
    return restarted(cosine(c.theta_lr, c.final_lr), c.epochs, c.restart_epochs, c.restart_factor)


def child_feed(c: Fields) -> Feed:
    """What θ sees."""
    return Feed(TRAINING, c.batch_size)


def fresh(problem: Problem, space: Any, key: jax.Array) -> Variables:
    """The first θ, and an architecture that was drawn uniformly."""
    first, second = jax.random.split(key)
    choice = space.sampled.uniform(second)
    several = {"choices": jax.tree.map(lambda x: x[None], choice), "value": jnp.zeros(1)}
    return {**space.init(first, problem.image_shape), ARCHITECTURE: choice, SAMPLED: several}


def value_of(task: Task, metrics: Any) -> Any:
    """What architectures are compared by: the task's first metric, more being better, percents as shares."""
    metric = task.metrics[0]
    sign = 1.0 if metric.higher_is_better else -1.0
    return metrics[metric.name] * (sign / 100 if metric.unit == "%" else sign)


def scoring(problem: Problem, space: Any, train: bool = True) -> bilevel.Algorithm:
    """Adds up the task's sums of each candidate, one batch of the validation split at a time; nothing is trained.

    Args:
      train: batch normalisation takes the batch's statistics; false: running averages.
    """

    def update(state: State, batch: Batch, key: jax.Array, **extra: Any) -> Any:
        v = state.variables

        def of_one(choice: Any) -> Any:
            outputs, _ = space.apply(v[PARAMS], v[BATCH_STATS], choice, batch.images, train)
            return problem.task.sums(outputs, batch.targets, batch.counted)

        # One after another: side by side, all operations would be computed. A mean over devices is as good as a sum,
        # as figures are of sums over the sums of examples.
        found = problem.average(jax.lax.map(of_one, v[SAMPLED]["choices"]))
        sums = jax.tree.map(lambda x, own: x + own.astype(x.dtype), v[SUMS], found)
        info = Info(None, {"images": batch.counted.sum()}, None)
        return state._replace(variables={**v, SUMS: sums}), {CANDIDATES: info}

    return single(bilevel.Algorithm(lambda variables: State(dict(variables), {}), update), CANDIDATES)


def unscored(problem: Problem, choices: Any, count: int) -> Variables:
    """The collections of so many choices, before they are scored."""
    blank = tasks.blank(problem.task.outputs, problem.image_shape)
    shape = jax.eval_shape(lambda: problem.task.sums(*blank, jnp.zeros(1)))
    # Counts too are means over devices.
    sums = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), jnp.result_type(x, jnp.float32)), shape)
    return {SAMPLED: {"choices": choices, "value": jnp.zeros(count)}, SUMS: sums}


def scored(task: Task, v: Variables) -> Variables:
    """The variables with the value of each choice, once the sums are of the whole split; on the host."""
    before = np.asarray(v[SAMPLED]["value"])
    parts = [jax.tree.map(lambda x, n=n: np.asarray(x)[n], v[SUMS]) for n in range(len(before))]
    value = [value_of(task, task.figures(part)) for part in parts]
    return {**v, SAMPLED: {**v[SAMPLED], "value": np.asarray(value, before.dtype)}}


def deriving(c: Fields, problem: Problem, space: Any, draw: Draw) -> Phase:
    """The phase that draws candidates and scores them; its one epoch is the validation split."""
    algorithm = scoring(problem, space)

    def begin(key: jax.Array, state: State) -> State:
        keys = jax.random.split(key, c.candidates)
        choices = jax.lax.map(lambda one: draw(state.variables, one), keys)
        return algorithm.init({**state.variables, **unscored(problem, choices, c.candidates)})

    def after_epoch(state: State) -> State:
        return state._replace(variables=scored(problem.task, state.variables))

    return Phase(
        name="derive",
        title="Scoring of candidates on the whole validation split",
        epochs=1,
        algorithm=algorithm,
        begin=begin,
        feeds={CANDIDATES: Feed(VALIDATION, c.batch_size, augment=False, whole=True)},
        curves=(Curve("best", "value of the candidates", "best"), Curve("mean", "value of the candidates", "mean")),
        matrices=matrices(space),
        observe=observing(space),
        after_epoch=after_epoch,
    )


def found(space: Any) -> Callable[[Any, int], Any]:
    """(variables, seed) → the best of the architectures that were drawn together last."""

    def best(v: Any, seed: int) -> Any:
        place = int(np.asarray(v[SAMPLED]["value"]).argmax())
        return space.decode(jax.tree.map(lambda x: np.asarray(x)[place], v[SAMPLED]["choices"]))

    return best


def observing(space: Any) -> Callable[[Variables], Observation]:
    """Of the architectures that were drawn together last: best and mean value, how often each row has each column, and
    the entropy of that."""

    def observe(v: Variables) -> Observation:
        shares = {
            name: np.eye(len(choice.columns))[np.asarray(v[SAMPLED]["choices"][name])].mean(0)
            for name, choice in space.choices.items()
        }
        value = np.asarray(v[SAMPLED]["value"], np.float64)
        entropy = {f"entropy_{name}": float(relaxation.entropy(matrix)) for name, matrix in shares.items()}
        return Observation({"best": float(value.max()), "mean": float(value.mean()), **entropy}, shares)

    return observe


def matrices(space: Any) -> dict[str, Matrix]:
    """How the shares are drawn."""
    return {
        name: Matrix(choice.title, choice.rows, choice.columns, "share of those drawn", choice.grid)
        for name, choice in space.choices.items()
    }
