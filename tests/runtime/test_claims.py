"""A claim: had by one, renewed while its holder lives, free when it is released or its holder gives no sign of life."""

import json
import pathlib
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dass_jax.runtime import claims


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW", 0.02)


def new(folder: pathlib.Path) -> int:
    number = claims.taken(folder, "run", claims.last(folder, "run"))
    assert number is not None
    return number


def test_of_many_who_ask_at_once_one_has_it(tmp_path: pathlib.Path) -> None:
    gate, found = threading.Barrier(16), list[int | None]()

    def ask() -> None:
        before = claims.last(tmp_path, "run")
        gate.wait()
        found.append(claims.taken(tmp_path, "run", before))

    for number in (1, 2, 3):
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found, key=str) == [number, *[None] * 15]
        found.clear()


def test_a_held_claim_shows_signs_of_life_and_what_is_said_last_and_then_how_it_ended(
    tmp_path: pathlib.Path, quick: None
) -> None:
    said, seen = ["a"], dict[str, claims.Seen]()
    assert claims.last(tmp_path, "run") == claims.Claim(0, "") and claims.looked(seen, "run", claims.Claim(0, ""))
    with claims.held(tmp_path, "run", new(tmp_path), lambda: said[-1]) as own:
        first = claims.last(tmp_path, "run")
        assert first.is_held and not claims.looked(seen, "run", first)
        said.append("b")
        while claims.last(tmp_path, "run").facts.get(claims.SAID) != "b":
            time.sleep(0.01)
        assert claims.last(tmp_path, "run").worker == claims.me()
        own.outcome = "done"
    last = claims.last(tmp_path, "run")
    assert (last.number, last.released, last.is_held) == (1, "done", False) and claims.looked(seen, "run", last)


def test_a_claim_whose_block_ends_by_an_error_is_released_as_stopped(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyError), claims.held(tmp_path, "run", new(tmp_path), str):
        raise KeyError
    assert claims.last(tmp_path, "run").released == "stopped" and new(tmp_path) == 2


def test_who_has_not_changed_for_a_lease_by_the_clock_of_who_looks_is_dead(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new(tmp_path)
    file, seen, now = tmp_path / "run.1", dict[str, claims.Seen](), [1000.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])

    def free() -> bool:
        return claims.looked(seen, "run", claims.last(tmp_path, "run"))

    assert not free()
    now[0] += claims.LEASE - 1
    assert not free()
    # Another clock wrote this: it is only another text.
    file.write_text(json.dumps({claims.BEAT: 3, claims.AT: "1970-01-01 00:00:00 UTC"}), encoding="utf-8")
    now[0] += 2
    assert not free()
    file.write_text("", encoding="utf-8")  # it is being written just now
    now[0] += claims.LEASE
    assert not free()
    now[0] += claims.LEASE
    assert free() and claims.last(tmp_path, "run").is_held


TEXTS = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=9)), lambda inner: st.lists(inner, max_size=3)
    ).map(lambda data: json.dumps(data).encode()),
    st.dictionaries(
        st.sampled_from([claims.WORKER, claims.RELEASED, claims.SAID]),
        st.one_of(st.none(), st.integers(), st.text(max_size=9)),
    ).map(lambda data: json.dumps(data).encode()),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
@given(TEXTS)
def test_whatever_a_claims_file_holds_it_is_held_or_released(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "run.1").write_bytes(content)
    found = claims.last(tmp_path, "run")
    assert found.number == 1 and found.is_held == (found.released is None) and isinstance(found.worker, str)
    (tmp_path / "run.1").unlink()
