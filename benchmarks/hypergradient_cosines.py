"""How near each hypergradient is to the exact one while a search runs: its cosine with it, and its error.

    python benchmarks/hypergradient_cosines.py [--config FILE] [--epochs 0 2 7] [--pairs 8] [--only PATTERN]
                                               [--radii 1e-2 1e-4 1e-6 1e-8] [--output FILE.json]

The search of a configuration (its method, data, space and rates; digits_dass by default) is run by first order in
float64, without augmentation. At the start of the given epochs of each of its phases α's gradient is taken by every
estimator on the same pairs of batches. Exact is `unrolled(1)`: automatic differentiation through the lower level's next
step, momentum, decay and clipping included, which `finite_difference` approximates; the others answer for a lower level
that has converged. `error` is the length of the difference in terms of the exact gradient's length, so that the error
of first order is the share that the second derivatives have. Medians over the pairs, the cosine's range in brackets.
"""

import argparse
import functools
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.subjects import searched
from dass_jax import bilevel, compose
from dass_jax.bilevel import Level, Point, Sample, State
from dass_jax.bilevel.norms import flat
from dass_jax.data.augment import normalise
from dass_jax.methods import METHODS
from dass_jax.nn.layers import one_device
from dass_jax.phases import Phase
from dass_jax.runtime import compilation
from dass_jax.spaces import SPACES
from dass_jax.tasks import Batch

EXACT = "unrolled(1)"
KEY = jax.random.key(0)


def estimators(radii: Sequence[float], only: str) -> dict[str, bilevel.Hypergradient]:
    """The exact one, then all others whose name matches."""
    found = {"first_order()": bilevel.first_order()}
    found |= {f"finite_difference({radius:g})": bilevel.finite_difference(radius) for radius in radii}
    found["amended(0.1)"] = bilevel.amended(0.1)
    found["neumann(4, 0.01)"] = bilevel.neumann(4, 0.01)
    found["conjugate_gradient(4, 0.1)"] = bilevel.conjugate_gradient(4, 0.1)
    return {EXACT: bilevel.unrolled(1), **{name: made for name, made in found.items() if re.search(only, name)}}


def doubled(tree: Any) -> Any:
    """Its floating point numbers as float64."""
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def phases(s: compose.Setting, hypergradient: bilevel.Hypergradient) -> Sequence[Phase]:
    """Those of the configuration's search."""
    method, chosen = s.config.method, s.config.space
    space = SPACES[chosen.name].make(chosen.fields, s.task.outputs, one_device, None)
    problem = searched(space, s.dataset.classes, s.image_shape, s.config.sparsity.keep)
    problem = problem._replace(hypergradient=hypergradient, distribution=s.config.sparsity.distribution, task=s.task)
    return METHODS[method.name].search(method.fields, problem).phases


def batches(s: compose.Setting, phase: Phase, epoch: int) -> Iterator[dict[str, Batch]]:
    """Of an epoch: {level: batch}, each level's split in an order of its own."""
    train = compose.examples(s)[0]
    mean, std = jnp.asarray(s.dataset.mean), jnp.asarray(s.dataset.std)
    orders = {}
    for number, (level, feed) in enumerate(phase.feeds.items()):
        assert feed is not None
        rows = compose.split_rows(s, feed.split, s.seeds[0])
        rows = np.random.default_rng((epoch, number)).permutation(rows)
        orders[level] = rows[: len(rows) // feed.batch * feed.batch].reshape(-1, feed.batch)
    for step in range(min(map(len, orders.values()))):
        own = {level: rows[step] for level, rows in orders.items()}
        yield {
            level: Batch(doubled(normalise(train.images[rows], mean, std)), jnp.asarray(train.targets[rows]))
            for level, rows in own.items()
        }


def trail(s: compose.Setting, wanted: Sequence[int]) -> Iterator[tuple[str, int, tuple[Level, Level], State, Any, Any]]:
    """(phase, epoch, levels, state, batches, learning rates) at the start of the wanted epochs."""
    levels: list[tuple[Level, Level]] = []

    def noting(upper: Level, lower: Level, point: Point, reduce: Any) -> Any:
        levels.append((upper, lower))
        return bilevel.first_order()(upper, lower, point, reduce)

    state = None
    for phase in phases(s, noting):
        # Each function of a program is mapped by itself, and a process may map only so many: the last phase's go.
        jax.clear_caches()
        state = doubled(phase.begin(KEY, state))
        turn = jax.jit(phase.algorithm.update, compiler_options=compilation.options(jax.default_backend()))
        levels.clear()
        for epoch in range(min(phase.epochs, max(wanted) + 1)):
            firsts = phase.rates(np.array([float(epoch)]))["learning_rate"]
            rates = {level: jnp.asarray(rate[0], jnp.float64) for level, rate in firsts.items()}
            given = list(batches(s, phase, epoch))
            if not levels:  # no turn of the phase has been traced yet
                jax.eval_shape(functools.partial(phase.algorithm.update, learning_rate=rates), state, given[0], KEY)
            if epoch in wanted:
                yield phase.name, epoch, levels[-1], state, given, rates
            print(f"{phase.name}: epoch {epoch}", file=sys.stderr, flush=True)
            for each in given:
                state, infos = turn(state, each, KEY, learning_rate=rates)
            print(f"loss above {float(infos['upper'].loss):.3f}", file=sys.stderr, flush=True)


def compiled(levels: tuple[Level, Level], estimator: bilevel.Hypergradient) -> Callable[[Point], jax.Array]:
    """Point → the estimate of dF/dα as one vector."""
    upper, lower = levels
    return compilation.hastily(lambda point: flat(estimator(upper, lower, point, bilevel.levels.same)[0]))


def rows(s: compose.Setting, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One for each phase, epoch and estimator."""
    programs: dict[tuple[str, str], Any] = {}
    for phase, epoch, levels, state, given, rates in trail(s, options.epochs):
        found: dict[str, list[np.ndarray]] = {}
        for name, estimator in estimators(options.radii, options.only).items():
            print(f"{phase}: epoch {epoch}, {name}", file=sys.stderr, flush=True)
            of = programs.setdefault((phase, name), compiled(levels, estimator))
            lower = state.optimizers[levels[1].collection]
            for pair in given[: options.pairs]:
                samples = (Sample(pair["upper"], KEY), Sample(pair["lower"], KEY))
                point = Point(state.variables, lower, *samples, {"learning_rate": rates})
                found.setdefault(name, []).append(np.asarray(of(point)))
        exact = found.pop(EXACT)
        for name, gradients in found.items():
            cosines, errors = zip(*map(compared, gradients, exact), strict=True)
            yield {
                "phase": phase,
                "epoch": epoch,
                "estimator": name,
                "cosine": f"{np.median(cosines):.3f} ({min(cosines):.2f} to {max(cosines):.2f})",
                "error": f"{np.median(errors):.2g}",
            }


def compared(one: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """(cosine, length of the difference in terms of the exact one's)."""
    length = np.linalg.norm(exact)
    cosine = one @ exact / (np.linalg.norm(one) * length)
    return float(cosine), float(np.linalg.norm(one - exact) / length)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the table, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(measure.DIGITS), help="whose search is run")
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 2, 7], help="of each phase")
    parser.add_argument("--pairs", type=int, default=8, help="of batches at each epoch")
    parser.add_argument("--radii", type=float, nargs="+", default=[1e-2, 1e-4, 1e-6, 1e-8], help="of finite_difference")
    parser.add_argument("--only", default="", help="regular expression: the estimators beside the exact one")
    parser.add_argument("--output", help="JSON file for machine, versions and rows")
    options = parser.parse_args(arguments)
    with jax.enable_x64(True):
        measure.tell(parser, options, lambda c: list(rows(compose.setting(c), options)))


if __name__ == "__main__":
    main()
