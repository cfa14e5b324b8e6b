"""What runs share is laid down whole by one of any number of processes, and looked at without being changed."""

import pathlib

import numpy as np
import pytest

from dass_jax.runtime import checkpoint, shelf

STATE = {"w": np.arange(6, dtype=np.float32)}


def test_what_another_has_laid_down_meanwhile_stays(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, take = tmp_path / "shared" / "phase", shelf.take
    for number in (1, 2):
        # Neither sees the other's: both are at work on it at the same time.
        monkeypatch.setattr(shelf, "take", lambda place: None)
        (tmp_path / str(number)).mkdir()
        shelf.put(place, STATE, {"whose": number}, tmp_path / str(number))
    found = take(place)
    assert found is not None and found.facts == {"whose": 1} and (found.leaves["['state']['w']"] == STATE["w"]).all()
    assert not [*(tmp_path / "1").iterdir(), *(tmp_path / "2").iterdir()]


def test_what_a_killed_process_has_half_laid_down_is_in_nobodys_way(tmp_path: pathlib.Path) -> None:
    place, own = tmp_path / "shared" / "phase", tmp_path / "run"
    (own / "shared" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    shelf.put(place, STATE, {}, own)
    assert shelf.take(place) is not None and not list(own.iterdir())
    assert [path.name for path in place.iterdir()] == ["1"]


def test_to_look_at_what_another_is_writing_changes_nothing(tmp_path: pathlib.Path) -> None:
    with checkpoint.manager(tmp_path / "phase", keep=1) as manager:
        checkpoint.save(manager, 1, {"state": STATE, "infos": []}, {})
        manager.wait_until_finished()
    before = sorted(tmp_path.rglob("*"))
    assert shelf.take(tmp_path / "phase") is not None and sorted(tmp_path.rglob("*")) == before
