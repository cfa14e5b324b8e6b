"""Which programs a chain will need, and what compiles them."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from dass_jax.compose import Setting
from dass_jax.phases import Phase
from dass_jax.runner.chain import Chain, Evaluation, batch_of_evaluation, named, on_its_own, template
from dass_jax.runner.runner import Runner
from dass_jax.runtime import parallel


def programs(r: Runner, s: Setting, chain: Chain, first: int = 0) -> dict[str, Callable[[], Any]]:
    """Name → what compiles it, in the order in which they are needed: the programs of the phases from `first` on and
    that of the evaluation, without those that are there or that the phase before compiles itself."""
    like, chain = s.layout.like, on_its_own(s, chain)
    if like is None or s.config.data.streaming or not chain.phases:
        return {}

    def compiled(feed: Callable[..., Any], *given: Any) -> Any:
        """The program that a feed asks for, first of all."""
        found: list[Any] = []

        def compile(name: str, function: Any, arguments: Any, donate: bool) -> Any:
            found.append(s.layout.program(function, arguments, donate))
            return found[0]

        feed(s, *given, compile)
        return found[0]

    def evaluating(evaluation: Evaluation, phases: tuple[Phase, ...]) -> Any:
        assert phases[-1].network is not None
        network = parallel.over_seeds(len(s.seeds), phases[-1].network, (0,))
        shapes, batch = jax.eval_shape(network, template(s, phases).variables), batch_of_evaluation(s)
        return compiled(r.feed.evaluate, evaluation.name, evaluation.function, like(shapes), batch.size // batch.parts)

    def advancing_on(phase: Phase, phases: tuple[Phase, ...]) -> Any:
        return compiled(r.feed.advance, phase, like(template(s, phases)))

    there = {*r.programs, *(named(s, phase.program) for phase in chain.phases[max(first - 1, 0) : first])}
    needed: list[tuple[int, str, Callable[[], Any]]] = []
    for number in range(first, len(chain.phases)):
        phase, phases = chain.phases[number], chain.phases[: number + 1]
        needed.append((number, named(s, phase.program), functools.partial(advancing_on, phase, phases)))
    evaluated = next((number for number, phase in enumerate(chain.phases) if phase.network is not None), None)
    if chain.evaluation is not None and evaluated is not None:
        evaluation, phases = chain.evaluation, chain.phases[: evaluated + 1]
        needed.append((evaluated, named(s, evaluation.name), functools.partial(evaluating, evaluation, phases)))
    works: dict[str, Callable[[], Any]] = {}
    for _, name, work in sorted(needed, key=lambda one: one[0]):
        if name not in there:
            works.setdefault(name, work)
    return works
