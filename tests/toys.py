"""Phases that compile in a moment: a few numbers are pulled towards what images of sixteen pixels say.

They have a bit of everything that a runner must carry: images, noise, rates, running means, a level of two steps, two
levels with splits of their own, a phase without images, work after an epoch, and a program that is built anew.
"""

import io
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import bilevel, config, feed, runner, tasks
from dass_jax.bilevel import Level, State
from dass_jax.compose import Setting, prepare_evaluation
from dass_jax.data import arrays
from dass_jax.phases import TRAINING, VALIDATION, Curve, Feed, Observation, Phase, Rates, Rebuild, single
from dass_jax.runner import TRAINING as CHAIN
from dass_jax.runner import Chain, Evaluation, Runner, foreseen, run_chain
from dass_jax.runtime import checkpoint, epoch, keeping, parallel, seeds
from dass_jax.runtime.progress import Progress
from dass_jax.runtime.signals import Signals
from tests.runs import timeless

PLAIN = {"crop_padding": 0, "flip": False}


def setting(
    count: int = 1, devices: int = 1, axis: str = "batch", images: int = 96, data: Any = PLAIN, **runtime: Any
) -> Setting:
    """`count` seeds from 3 on, and so many training images and 10 test images of 4×4 pixels; one step a call."""
    given = {
        "seed": 3,
        "seeds": count,
        "controls": [],
        "data": data,
        "train": {"batch_size": 4},
        "runtime": {"compilation_cache": "", "call_seconds": 0, **runtime},
        "parallel": {"axis": axis},
    }
    rng = np.random.default_rng(0)
    total = images + 10
    pixels, labels = rng.integers(0, 256, (total, 4, 4, 1), np.uint8), rng.integers(0, 3, total).astype(np.int32)
    splits: list[Any] = [arrays.Split(pixels[rows], labels[rows]) for rows in (slice(images), slice(images, total))]
    mean, std = arrays.channel_statistics(splits[0].images)
    if data.get("streaming"):
        splits = [
            arrays.Source(own.size, lambda row, own=own: (own.images[row], own.labels[row]), str) for own in splits
        ]
    found = arrays.Dataset(*splits, 3, mean, std, (4, 4, 1))
    s = Setting(config.from_dict(given), found, parallel.all_devices(devices), tuple(range(3, 3 + count)))
    return s.of(s.seeds)


def pull(average: Any) -> bilevel.Loss:
    """Squares of what is left, with noise. As batch normalisation does, it looks at the mean over all devices, and
    carries a running one along."""

    def loss(v: Any, batch: tasks.Batch, key: jax.Array) -> Any:
        seen = batch.images.reshape(-1, batch.images.shape[-1])[:5]
        found = v["pull"]["w"] @ seen + v["pull"]["parts"].sum()
        if batch.path_scale is not None:
            found = found * batch.path_scale.mean(0)
        left = found - 0.5 * average(found.mean()) - batch.targets + v["rates"]["shift"]
        noise = 0.01 * (v["pull"]["w"] * jax.random.normal(key, (5,))).sum()
        means = {"mean": 0.9 * v["means"]["mean"] + 0.1 * average(seen.mean(1))}
        return (left**2).mean() + noise, ({"left": jnp.abs(left).mean()}, {"means": means})

    return loss


def calm(v: Any, nothing: None, key: jax.Array) -> Any:
    """To be had without images."""
    return (v["pull"]["w"] ** 2).sum() + v["push"].sum() ** 2, ({}, {})


def push(v: Any, batch: tasks.Batch, key: jax.Array) -> Any:
    return ((v["push"][0] - batch.images.mean((0, 1, 2))) ** 2).mean(), ({}, {})


def moved(level: str) -> Any:
    return bilevel.with_rate(bilevel.sgd(0.9, 0.0, 5.0), level)


def rates(*levels: str) -> Rates:
    return lambda progress: {"learning_rate": dict.fromkeys(levels, 0.1 * (1 - progress)), "shift": progress}


def fresh(key: jax.Array) -> dict[str, Any]:
    w = jax.random.normal(key, (5,))
    return {"pull": {"w": w, "parts": jnp.arange(4.0)}, "push": jnp.full(2, 0.5), "means": {"mean": jnp.zeros(5)}}


def halved(state: State) -> State:
    return state._replace(variables={**state.variables, "push": state.variables["push"] / 2})


def dance(average: Any, parts: Any) -> Phase:
    """With the entries `parts` of "parts", of which there are fewer and fewer; None: all."""
    low = Level("pull", pull(average), moved("low"), steps=2)
    steps = bilevel.in_turn({"high": Level("push", push, moved("high")), "low": low}, reduce=average)

    def begin(key: jax.Array, state: State) -> State:
        if parts is None:
            return steps.init(state.variables)

        def smaller(tree: Any) -> Any:
            return {**tree, "parts": tree["parts"][: len(parts)]}

        v = {**state.variables, "pull": smaller(state.variables["pull"])}
        trace = jax.tree.map(
            lambda x: smaller(x) if isinstance(x, dict) else x,
            state.optimizers["pull"],
            is_leaf=lambda x: isinstance(x, dict),
        )
        return State(v, {**state.optimizers, "pull": trace})

    def wanted(v: Any, built: Any) -> Any:
        left = 4 if built is None else len(built)
        return list(range(left - 1)) if left > 2 else None

    return Phase(
        "dance",
        "Two levels",
        3,
        steps,
        begin,
        {"high": Feed(VALIDATION, 16), "low": Feed(TRAINING, 8, batches=2)},
        rates("high", "low"),
        program=f"dance {parts}",
        curves=(Curve("left", "what is left"),),
        network=lambda v: {"pull": {"w": v["pull"]["w"]}, "means": v["means"]},
        rebuild=Rebuild(wanted, lambda before, now: dance(average, now)),
    )


def phases(s: Setting) -> tuple[Phase, ...]:
    average = s.layout.over_devices(parallel.mean)
    walk = single(bilevel.descend(Level("pull", pull(average), moved("low")), average), "low")
    nap = single(bilevel.descend(Level("push", calm, moved("low")), average), "low")
    feeds = {"low": Feed(TRAINING, 16)}
    return (
        Phase(
            "walk",
            "One level",
            2,
            walk,
            lambda key, _: walk.init(fresh(key)),
            feeds,
            rates("low"),
            observe=lambda v: Observation({"height": float(v["pull"]["w"].sum())}, {"push": v["push"][None]}),
        ),
        Phase(
            "nap",
            "Without images",
            2,
            nap,
            lambda key, state: nap.init(state.variables),
            {"low": None},
            rates("low"),
            after_epoch=halved,
        ),
        dance(average, None),
    )


def outputs(v: Any, images: jax.Array) -> jax.Array:
    seen = images.reshape(-1, images.shape[-1])[:5] - v["means"]["mean"][:, None]
    return (v["pull"]["w"][:3, None] * seen[:3]).T


def evaluating(s: Setting) -> Evaluation:
    total = s.layout.over_devices(parallel.total)
    return Evaluation("evaluation", epoch.evaluation(outputs, s.task.sums, prepare_evaluation(s), total))


def observed(r: Runner, s: Setting, seen: list[tuple[int, Any]]) -> Any:
    """`Chain.look`: what phases observe and, of those with a network, what it makes of the test images. The variables
    are noted in `seen`."""
    evaluation = evaluating(s)

    def look(phase: Phase, epochs: int, v: Any) -> list[dict[str, Any]]:
        seen.append((epochs, v))
        parts = seeds.members(v, len(s.seeds))
        if phase.observe is not None:
            return [dict(phase.observe(part).metrics) for part in parts]
        if phase.network is None:
            return [{} for _ in parts]
        networks = seeds.stacked([phase.network(part) for part in parts])
        return [
            {f"test_{name}": value for name, value in figures.items()}
            for figures in runner.evaluate(r, s, evaluation, networks)
        ]

    return look


class Ran(NamedTuple):
    """What a run of the phases has left."""

    state: Any
    seen: list[tuple[int, Any]]
    """(epochs done, variables) as often as this process has looked at them."""
    lines: list[dict[str, Any]]
    """Of metrics, without what only the clock knows."""
    leaves: dict[str, np.ndarray]
    """Of the newest checkpoint."""
    said: str
    facts: dict[str, Any]


def run(
    folder: pathlib.Path,
    s: Setting,
    programs: dict[str, Any],
    signals: Signals | None = None,
    chosen: tuple[Phase, ...] | None = None,
    shared: pathlib.Path | None = None,
    ahead: bool = False,
    method: str = "toy",
) -> Ran:
    """Runs or continues the phases in a folder.

    Args:
      programs: those that are compiled already; runs of one setting may share them.
      chosen: phases in the place of the usual ones.
      shared: where the end of the first phase is left and looked for.
      ahead: programs are compiled before they are needed, as in a run, which goes on for a while after a stop.
    """
    folder.mkdir(exist_ok=True)
    stream, seen = io.StringIO(), list[tuple[int, Any]]()
    with keeping.opened(folder, 3) as (keeper, (newest, said)), pytest.MonkeyPatch.context() as patch:
        if not ahead:
            patch.setattr(foreseen, "programs", lambda *_: {})
        print(*said, sep="\n", file=stream)
        facts = json.loads(json.dumps(newest.facts if newest else keeping.NOTHING))
        r = Runner(Progress(stream), signals or Signals(), keeper, feed.of(s), newest, facts, programs)
        chain = Chain(method, CHAIN, chosen or phases(s), observed(r, s, seen), lambda _: shared, evaluating(s))
        state = run_chain(r, s, chain)
        r.ahead.finish()
    return left(folder)._replace(state=state, seen=seen, said=stream.getvalue())


def left(folder: pathlib.Path) -> Ran:
    """What lies in a folder."""
    with checkpoint.manager(folder / "checkpoints", keep=3) as manager:
        found = checkpoint.newest(manager)
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8") if (folder / "metrics.jsonl").exists() else ""
    lines = [timeless(json.loads(line)) for line in text.splitlines()]
    leaves, facts = (found.leaves, found.facts) if found else ({}, {})
    return Ran(None, [], lines, leaves, "", facts)
