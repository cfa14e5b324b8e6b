"""A system that nobody has heard of, added from outside: this file is its plugin, and no file of the package names it.

CONTRIBUTING's "add a space", "a method", "a task" and "a recipe" are followed here. The space is a ladder of rungs, each
with one of two operations; the method has three phases, of which one has no α and no images, and one level takes two
optimiser steps; the task is no classification.
"""

import dataclasses
import io
import json
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dass_jax import bilevel, count, experiment, relaxation, sparsity
from dass_jax.architectures import FAMILIES, Edge, Family, Graph
from dass_jax.errors import UserError
from dass_jax.methods import METHODS, Problem
from dass_jax.methods import Entry as MethodEntry
from dass_jax.networks import NETWORKS
from dass_jax.networks import Entry as NetworkEntry
from dass_jax.networks.model import of_module
from dass_jax.nn.initial import initialise
from dass_jax.nn.layers import SparseLinear
from dass_jax.phases import TRAINING, VALIDATION, WHOLE, Curve, Feed, Matrix, Observation, Phase, Search, Training
from dass_jax.recipes import RECIPES, recipe
from dass_jax.recipes import Entry as RecipeEntry
from dass_jax.schema import Count, Rate
from dass_jax.spaces import SPACES, Choice, Space
from dass_jax.spaces import Entry as SpaceEntry
from dass_jax.tasks import TASKS, Metric, Task
from dass_jax.tasks import Entry as TaskEntry
from tests.runs import command, interrupted, killed, metrics, results, timeless, workplace

# ── the system ───────────────────────────────────────────────────────────────────────────────────────────────────────

OPERATIONS = ("wave", "fold")


class Ladder(NamedTuple):
    """The operation of each rung, from the ground."""

    rungs: tuple[str, ...]


def ladder_of(data: Any, origin: str) -> Ladder:
    rungs = data.get("rungs")
    if not isinstance(rungs, list) or not rungs or any(rung not in OPERATIONS for rung in rungs):
        raise UserError(f"{origin}: rungs = {rungs!r}; allowed: a list of {', '.join(OPERATIONS)}")
    return Ladder(tuple(rungs))


def graphs(a: Ladder) -> tuple[Graph, ...]:
    nodes = ("ground", *(f"rung {n}" for n in range(len(a.rungs))))
    return (Graph("ladder", nodes, tuple(map(Edge, nodes, nodes[1:], a.rungs))),)


FAMILIES["ladder"] = Family("ladder", Ladder, lambda a: {"rungs": list(a.rungs)}, ladder_of, graphs)


@dataclasses.dataclass(frozen=True)
class LadderFields:
    height: Count = 3
    """Rungs."""


class Climb(nn.Module):
    """Images [C, H, W, N] up the rungs, each a mixture of both operations, to outputs [N, O]."""

    height: int
    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, weights: Any, train: bool = True, path_scale: Any = None) -> Any:
        x = images.mean(2).reshape(-1, images.shape[-1])
        for n in range(self.height):
            y = SparseLinear(4, name=f"rung_{n}")(x)
            x = weights[n, 0] * jnp.sin(y) + weights[n, 1] * jnp.abs(y)
        return SparseLinear(self.outputs, name="top")(x).T


RULES = ((r".*/weight", 0), (r".*/bias", None))


def one_hot(a: Ladder) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[[OPERATIONS.index(rung) for rung in a.rungs]]


def ladder_space(c: LadderFields, outputs: int, average: Any, dtype: Any) -> Space:
    climb, rows = Climb(c.height, outputs), tuple(f"rung {n}" for n in range(c.height))

    def init(key: jax.Array, shape: Any) -> Any:
        images, choice = jnp.zeros((shape[2], *shape[:2], 2)), jnp.zeros((c.height, 2))
        shapes = jax.eval_shape(lambda: climb.init(key, images, choice))
        return initialise(key, {**shapes, "batch_stats": {}}, RULES)

    return Space(
        init=init,
        apply=lambda params, stats, choice, images, train: (climb.apply({"params": params}, images, choice["path"]), stats),
        encode=lambda a: {"path": one_hot(a)},
        decode=lambda choice: Ladder(tuple(OPERATIONS[i] for i in np.asarray(choice["path"]).argmax(1))),
        sample=lambda generator: Ladder(tuple(generator.choice(OPERATIONS, c.height).tolist())),
        choices={"path": Choice("the way up", rows, OPERATIONS)},
        rules=RULES,
    )


class Fixed(nn.Module):
    """The network of a ladder."""

    ladder: Ladder
    outputs: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, path_scale: Any = None) -> Any:
        return Climb(len(self.ladder.rungs), self.outputs, name="climb")(images, one_hot(self.ladder)), None


SPACES["ladder"] = SpaceEntry(LadderFields, ladder_space)
NETWORKS["ladder"] = NetworkEntry(
    LadderFields, lambda a, c, outputs, auxiliary, average, dtype: of_module(Fixed(a, outputs), ())
)


def dial(classes: int, _: Any) -> Task:
    """The digit is a number on a dial, of which the network shall come near."""

    def square(y: jax.Array, t: jax.Array) -> jax.Array:
        return (y[:, 0] - t) ** 2

    return Task(
        name="dial",
        outputs=1,
        loss=lambda y, t: square(y, t).mean(),
        measured=lambda y, t: {"miss": jnp.sqrt(square(y, t).mean())},
        sums=lambda y, t, counted: {"squares": (square(y, t) * counted).sum(), "seen": counted.sum()},
        figures=lambda found: {"miss": (found["squares"] / found["seen"]) ** 0.5},
        metrics=(Metric("miss", "ticks", higher_is_better=False),),
    )


@dataclasses.dataclass(frozen=True)
class WanderFields:
    batch_size: Count = 16
    """Images in a batch."""
    accumulate: Count = 1
    """Parts of a batch."""
    epochs: Count = 2
    """Epochs of each phase."""
    pace: Rate = 0.01
    """Learning rate."""


def wander(c: WanderFields, problem: Problem) -> Search:
    space = problem.space()

    def climbing(v: Any, batch: Any, key: Any) -> Any:
        outputs, _ = space.apply(v["params"], {}, relaxation.softmax(v["alpha"]), batch.images, True)
        return problem.task.loss(outputs, batch.targets), ({"sway": jnp.abs(outputs).mean()}, {})

    def musing(v: Any, batch: None, key: Any) -> Any:
        return ((v["mood"] - v["rates"]["calm"]) ** 2).sum(), ({}, {})

    def fresh(key: jax.Array) -> Any:
        alpha = relaxation.init(key, {"path": space.choices["path"].shape})
        return {**space.init(key, problem.image_shape), "alpha": alpha, "mood": jnp.zeros(3)}

    def descending(*levels: tuple[str, str, Any, int]) -> bilevel.Algorithm:
        made = {
            name: bilevel.Level(collection, loss, bilevel.with_rate(bilevel.sgd(0.5, 0.0, 1.0), name), steps)
            for name, collection, loss, steps in levels
        }
        return bilevel.in_turn(made, reduce=problem.average)

    stroll = descending(("legs", "params", climbing, 2))
    muse = descending(("mood", "mood", musing, 1))
    leap = descending(("eyes", "alpha", climbing, 1), ("legs", "params", climbing, 1))

    def going(*levels: str) -> Any:
        return lambda progress: {"learning_rate": dict.fromkeys(levels, c.pace * (1 - progress)), "calm": 1 + progress}

    def observe(v: Any) -> Observation:
        path = relaxation.softmax(v["alpha"])["path"]
        return Observation({"cheer": float(v["mood"].sum())}, {"path": path})

    common: dict[str, Any] = {"epochs": c.epochs, "observe": observe}
    drawn: dict[str, Any] = {
        "curves": (Curve("legs_sway", "sway", "legs", "cm"), Curve("cheer", "cheer", "", "smiles")),
        "matrices": {"path": Matrix("the way up", space.choices["path"].rows, OPERATIONS, "pull")},
    }
    images = Feed(TRAINING, c.batch_size)
    phases = (
        Phase("stroll", "Strolling", algorithm=stroll, begin=lambda key, _: stroll.init(fresh(key)),
              feeds={"legs": images._replace(batches=2)}, rates=going("legs"), **common),
        Phase("muse", "Musing", algorithm=muse, begin=lambda _, state: muse.init(state.variables),
              feeds={"mood": None}, rates=going("mood"), **common),
        Phase("leap", "Leaping", algorithm=leap, begin=lambda _, state: leap.init(state.variables),
              feeds={"eyes": Feed(VALIDATION, c.batch_size), "legs": images}, rates=going("eyes", "legs"), **common, **drawn),
    )  # fmt: skip
    return Search(phases, lambda v, seed: space.decode(relaxation.softmax(v["alpha"])))


@dataclasses.dataclass(frozen=True)
class PolishFields(recipe.Fields):
    rubs: Count = 2
    """Epochs."""


def polish(c: PolishFields, problem: recipe.Problem) -> Training:
    algorithm = recipe.descending("params", recipe.network_loss(problem, sparsity.masked_weights), optax.sgd(0.01), problem)
    phase = Phase("rub", "Rubbing", c.rubs, algorithm, lambda key, _: algorithm.init(recipe.fresh(problem, key)),
                  {"params": Feed(WHOLE, c.batch_size)}, network=recipe.masked)  # fmt: skip
    return Training((phase,), recipe.outputs(problem), {"rub": "shiny"})


TASKS["dial"] = TaskEntry(recipe.Fields if False else LadderFields, dial)
METHODS["wander"] = MethodEntry(WanderFields, wander, lambda c: 3 * c.epochs)
RECIPES["polish"] = RecipeEntry(PolishFields, polish, lambda c: c.rubs)
