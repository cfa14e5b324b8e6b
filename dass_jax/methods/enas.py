"""ENAS: shared weights, and a controller that learns by REINFORCE what to draw. Source: arXiv 1802.03268 Section 2.2
and the authors' code, as published.

    max_π E_{a~π} R(θ*; a)      θ* = argmin_θ E_{a~π} f(θ; a)

f is the loss on the training split; R = accuracy on a batch of the validation split + entropy_weight · H, H without
gradient. An epoch is one of θ, an architecture for each step, and then some updates of π, on the gradient of

    mean over samples of  −log π(a)·(R − b) + skip_weight · P

b is a moving mean of R, which each sample moves before it is compared with it. What H and P are, the space's policy
says. In the end architectures are drawn from π and scored on the whole validation split; the best is found.

Differences from the published code: batch normalisation takes the batch's statistics for the reward too; of θ only the
weights of the drawn architecture move, where weight decay and momentum there move all of them; auxiliary head and
dropout are left out of the search.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dass_jax import bilevel
from dass_jax.bilevel import State
from dass_jax.methods import sampled
from dass_jax.methods.method import Problem
from dass_jax.methods.sampled import CHILD, SAMPLED
from dass_jax.phases import VALIDATION, Curve, Feed, Phase, Search
from dass_jax.schema import Count, Decay, NotNegative, Rate
from dass_jax.tasks import Batch
from dass_jax.variables import BATCH_STATS, PARAMS, Variables

CONTROLLER = "controller"
"""The collection of the policy's parameters, and the level that trains them."""
BASELINE = "baseline"
"""The collection of b."""


@dataclasses.dataclass(frozen=True)
class Fields(sampled.Fields):
    """ENAS; the defaults are those for whole networks."""

    controller_steps: Count = 50
    """Updates of the controller after each epoch of θ."""
    samples: Count = 20
    """Architectures in each of them, each rewarded on a batch of its own."""
    controller_lr: Rate = 1e-3
    """Learning rate of the controller (Adam with β1 = 0 and TensorFlow's ε, constant)."""
    controller_epsilon: Rate = 1e-3
    """ε of that Adam."""
    entropy_weight: NotNegative = 1e-4
    """What the policy's entropy counts in the reward; an accuracy is between 0 and 1."""
    skip_weight: NotNegative = 0.8
    """Weight of the policy's penalty, in a space of skip connections."""
    baseline_rate: Decay = 0.01
    """How far each sample's reward moves the baseline."""


def reinforce(c: Fields, problem: Problem, space: Any) -> bilevel.Loss:
    """The surrogate loss of an update: its gradient by the controller is that of the expected reward, estimated.

    A batch is `samples` batches, stacked. Handed back are the baseline, and the samples with their accuracies.
    """
    policy, task = space.sampled.policy, problem.task

    def loss(v: Variables, batches: Batch, key: jax.Array) -> Any:
        def value_of(sample: tuple[Any, Batch]) -> Any:
            choice, batch = sample
            outputs, _ = space.apply(v[PARAMS], v[BATCH_STATS], choice, batch.images, True)
            return sampled.value_of(task, task.measured(outputs, batch.targets))

        def moved(baseline: jax.Array, reward: jax.Array) -> tuple[jax.Array, jax.Array]:
            baseline = baseline + c.baseline_rate * (reward - baseline)
            return baseline, baseline

        keys, fixed = jax.random.split(key, c.samples), jax.lax.stop_gradient(v[CONTROLLER])
        choices = jax.vmap(policy.sample, (None, 0))(fixed, keys)
        score = jax.vmap(policy.score, (None, 0))(v[CONTROLLER], choices)
        # Networks one after another: side by side, all operations would be computed.
        values = problem.average(jax.lax.map(value_of, (choices, batches))).astype(v[BASELINE].dtype)
        rewards = values + c.entropy_weight * jax.lax.stop_gradient(score.entropy).astype(values.dtype)
        baseline, baselines = jax.lax.scan(moved, v[BASELINE], rewards)
        advantages = rewards - baselines
        surrogate = (score.nll * jax.lax.stop_gradient(advantages) + c.skip_weight * score.penalty).mean()
        metrics = {
            "reward": rewards.mean(),
            "advantage": advantages.mean(),
            "nll": score.nll.mean(),
            "entropy": score.entropy.mean(),
            "penalty": score.penalty.mean(),
        }
        return surrogate, (metrics, {BASELINE: baseline, SAMPLED: {"choices": choices, "value": values}})

    return loss


def controller(c: Fields, problem: Problem, space: Any) -> bilevel.Algorithm:
    """An update of the controller."""
    adam = bilevel.with_rate(bilevel.adam_of_tensorflow(0.0, 0.999, c.controller_epsilon), CONTROLLER)
    return bilevel.descend(bilevel.Level(CONTROLLER, reinforce(c, problem, space), adam), problem.average)


def draw(space: Any) -> sampled.Draw:
    """From the policy as it is."""
    return lambda v, key: space.sampled.policy.sample(v[CONTROLLER], key)


def step(
    c: Fields, problem: Problem, space: Any, weights: sampled.Weights = sampled.dense_weights, project: Any = None
) -> bilevel.Algorithm:
    """θ or the controller, whose turn it is; see `sampled.child`."""
    child = sampled.child(c, problem, space, draw(space), weights, project)
    return bilevel.by_turns({CHILD: child, CONTROLLER: controller(c, problem, space)})


def fresh(c: Fields, problem: Problem, space: Any, key: jax.Array) -> Variables:
    """The first θ and controller; b is 0."""
    first, second, third = jax.random.split(key, 3)
    params = space.sampled.policy.init(second)
    choices = jax.lax.map(lambda one: space.sampled.policy.sample(params, one), jax.random.split(third, c.samples))
    return {
        **sampled.fresh(problem, space, first),
        CONTROLLER: params,
        BASELINE: jnp.zeros(()),
        SAMPLED: {"choices": choices, "value": jnp.zeros(c.samples)},
    }


def phase(c: Fields, problem: Problem, space: Any, algorithm: bilevel.Algorithm) -> Phase:
    """Epochs of θ, each followed by updates of the controller."""
    rate = sampled.child_rates(c)

    def rates(progress: np.ndarray) -> dict[str, Any]:
        return {
            "learning_rate": {CHILD: rate(progress), CONTROLLER: np.full_like(progress, c.controller_lr)},
        }

    def begin(key: jax.Array, state: Any) -> State:
        return algorithm.init(fresh(c, problem, space, key))

    return Phase(
        name="search",
        title="Shared weights and controller, alternating",
        epochs=c.epochs,
        algorithm=algorithm,
        begin=begin,
        feeds={
            CHILD: sampled.child_feed(c),
            CONTROLLER: Feed(VALIDATION, c.batch_size, c.samples, augment=False, steps=c.controller_steps),
        },
        by_turns=True,
        rates=rates,
        curves=(
            *problem.task.curves("child_"),
            Curve("controller_reward", "reward of the samples", "mean"),
            Curve("controller_nll", "−log probability of the samples", "", "nats"),
            Curve("controller_entropy", "the policy's entropy", "", "nats"),
            Curve("controller_penalty", "penalty of skip connections", "", "nats"),
        ),
        matrices=sampled.matrices(space),
        observe=sampled.observing(space),
    )


def search(c: Fields, problem: Problem) -> Search:
    """Search and scoring."""
    space = sampled.space_of(problem)
    searching = phase(c, problem, space, step(c, problem, space))
    return Search((searching, sampled.deriving(c, problem, space, draw(space))), sampled.found(space))
