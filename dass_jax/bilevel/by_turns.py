"""Algorithms that take steps at different times, as one: whose turn it is, is data, so that one program serves all."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dass_jax.bilevel.levels import Algorithm, State
from dass_jax.variables import RATES, Variables

TURN = "turn"
"""Among the rates of a step: the number of the algorithm that takes it."""


def by_turns(algorithms: Mapping[str, Algorithm]) -> Algorithm:
    """`update(state, {name: batch}, key, **extra) → (state, {name: Info})`: one step of the algorithm with the number
    `variables["rates"]["turn"]` among `algorithms`; only that one is computed.

    The infos of the others are zeros, and say by `taken` that no step was: averages leave them out.

    Args:
      algorithms: each of one level, which no other one trains.
    """

    def init(variables: Variables) -> State:
        optimizers = (algorithm.init(variables).optimizers for algorithm in algorithms.values())
        return State(dict(variables), {name: own for each in optimizers for name, own in each.items()})

    def update(state: State, batches: Mapping[str, Any], key: jax.Array, **extra: Any) -> tuple[State, dict[str, Any]]:
        steps = [_step(algorithm) for algorithm in algorithms.values()]
        given = [(state, batches[name], key, extra) for name in algorithms]
        shapes = [jax.eval_shape(step, *own) for step, own in zip(steps, given, strict=True)]
        moving = [{name for shape in shapes for name in shape[place]} for place in (0, 1)]
        nothing = [jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape[2]) for shape in shapes]

        def branch(number: int) -> Callable[[], Any]:
            def taken() -> Any:
                variables, optimizers, info = steps[number](*given[number])
                infos = [*nothing]
                infos[number] = info
                whole = state.variables, state.optimizers
                parts = zip(moving, whole, (variables, optimizers), strict=True)
                moved = [{name: (own if name in own else all_)[name] for name in names} for names, all_, own in parts]
                return *moved, dict(zip(algorithms, infos, strict=True))

            return taken

        turn = jnp.asarray(state.variables[RATES][TURN]).astype(jnp.int32)
        variables, optimizers, infos = jax.lax.switch(turn, [branch(number) for number in range(len(steps))])
        return State({**state.variables, **variables}, {**state.optimizers, **optimizers}), infos

    return Algorithm(init, update)


def _step(algorithm: Algorithm) -> Callable[..., Any]:
    """(state, batch, key, extra) → what a step replaces of variables and optimizers, and its info."""

    # jit, so that what is traced for its shapes is not traced again.
    @jax.jit
    def step(state: State, batch: Any, key: jax.Array, extra: Any) -> Any:
        after, infos = algorithm.update(state, batch, key, **extra)
        [info] = infos.values()
        moved = (
            {name: own for name, own in now.items() if own is not before[name]}
            for now, before in ((after.variables, state.variables), (after.optimizers, state.optimizers))
        )
        return *moved, info._replace(taken=jnp.ones((), jnp.int32))

    found: Callable[..., Any] = step
    return found
