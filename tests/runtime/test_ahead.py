"""Works done ahead: in the order in which they are needed, each once, and never waited for in vain."""

import threading
from typing import Any

import jax
import pytest

from dass_jax.runtime.ahead import Ahead


class Trail:
    """Works that note when they are done; "slow" waits until it may go on."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.slow_has_begun, self.go_on = threading.Event(), threading.Event()

    def works(self, *names: str) -> dict[str, Any]:
        return {name: lambda name=name: self.work(name) for name in names}

    def work(self, name: str) -> str:
        if name == "slow":
            self.slow_has_begun.set()
            assert self.go_on.wait(10)
        self.done.append(name)
        return f"the {name} one"


@pytest.fixture
def trail() -> Trail:
    return Trail()


@pytest.fixture
def ahead(trail: Trail) -> Ahead:
    """At work on "slow"."""
    found = Ahead()
    found.add(trail.works("slow"))
    assert trail.slow_has_begun.wait(10)
    return found


def test_what_is_needed_first_is_done_first(ahead: Ahead, trail: Trail) -> None:
    ahead.add(trail.works("late"))
    ahead.add(trail.works("early", "next"), first=True)
    trail.go_on.set()
    while ahead.waiting:
        pass
    assert ahead.get("late") == "the late one" and trail.done == ["slow", "early", "next", "late"]


def test_a_work_that_has_begun_is_waited_for_and_one_that_has_not_is_forgotten(ahead: Ahead, trail: Trail) -> None:
    ahead.add(trail.works("late"))
    assert ahead.get("late") is None
    threading.Timer(0.05, trail.go_on.set).start()
    assert ahead.get("slow") == "the slow one"
    ahead.finish()
    assert trail.done == ["slow"]


def test_a_work_is_done_once(ahead: Ahead, trail: Trail) -> None:
    ahead.add(trail.works("slow"), first=True)
    trail.go_on.set()
    ahead.finish()
    ahead.add(trail.works("slow", "new"))
    assert ahead.get("slow") == "the slow one"
    while ahead.waiting:
        pass
    ahead.finish()
    assert trail.done == ["slow", "new"]


def test_after_drop_nothing_begins(ahead: Ahead, trail: Trail) -> None:
    ahead.add(trail.works("late"))
    ahead.drop()
    trail.go_on.set()
    ahead.finish()
    assert trail.done == ["slow"]


def test_a_work_that_fails_is_none_and_the_next_one_is_done(ahead: Ahead, trail: Trail) -> None:
    ahead.add({"wrong": lambda: 1 / 0, **trail.works("next")})
    trail.go_on.set()
    while ahead.waiting:
        pass
    assert ahead.get("wrong") is None and ahead.get("next") == "the next one" and ahead.get("unknown") is None


def test_precision_is_that_of_who_asks(x64: None) -> None:
    ahead = Ahead()
    ahead.add({"wide": lambda: jax.numpy.zeros(()).dtype.name})
    while ahead.waiting:
        pass
    assert ahead.get("wide") == "float64"
