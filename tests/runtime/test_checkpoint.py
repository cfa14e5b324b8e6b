"""Checkpoints: the same bits come back, and damage costs one epoch, not the run."""

import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax.errors import UserError
from dass_jax.runtime import checkpoint

STATE = {
    "float32": np.array([[0.1, -0.0, np.inf], [np.nan, 1e-45, 3e38]], np.float32),
    "nested": (np.array([-(2**31), 2**31 - 1], np.int32), {"uint8": np.arange(256, dtype=np.uint8).reshape(4, 64)}),
    "bool": np.array([True, False, True]),
    "scalar": np.int32(7),
    "empty": np.zeros((0, 3), np.float32),
    "key": jax.random.key_data(jax.random.key(5)),
}
FACTS = {"saved": 3, "at": {"phase": "step1", "epoch": 2}, "seconds": 0.1, "results": {"dass": [1.5, None, "text"]}}


def small_state(step: int) -> dict[str, np.ndarray]:
    return {"weight": np.full((3, 5), step, np.float32)}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the checkpoints 1, 2 and 3, not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with checkpoint.manager(folder, keep=3) as manager:
        for step in (1, 2, 3):
            checkpoint.save(manager, step, small_state(step), {"step": step})
    return folder


@pytest.fixture
def copied(three: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A copy of that folder, free to be damaged."""
    yield shutil.copytree(three, tmp_path / "checkpoints")


def newest(folder: pathlib.Path) -> checkpoint.Checkpoint | None:
    with checkpoint.manager(folder, keep=3) as manager:
        return checkpoint.newest(manager)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a checkpoint that hold arrays or facts, not orbax's notes on the time of day."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > 0]


def truncate(folder: pathlib.Path) -> None:
    for path in files(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bits(folder: pathlib.Path) -> None:
    """One bit in the middle of every file."""
    for path in files(folder):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(bytes(data))


def empty(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES: list[Callable[[pathlib.Path], None]] = [truncate, flip_bits, empty]


def test_every_type_comes_back_bit_for_bit(tmp_path: pathlib.Path) -> None:
    with checkpoint.manager(tmp_path, keep=2) as manager:
        checkpoint.save(manager, 3, STATE, FACTS)
    found = newest(tmp_path)
    assert found is not None and (found.step, found.facts, found.skipped) == (3, FACTS, ())
    restored = checkpoint.restore(STATE, found.leaves)
    assert jax.tree.structure(restored) == jax.tree.structure(STATE)
    for path, leaf in checkpoint.leaves_of(STATE).items():
        there = found.leaves[path]
        assert (there.dtype, there.shape, there.tobytes()) == (leaf.dtype, leaf.shape, leaf.tobytes()), path


def test_a_key_goes_on_with_the_same_random_numbers(tmp_path: pathlib.Path) -> None:
    with checkpoint.manager(tmp_path, keep=2) as manager:
        checkpoint.save(manager, 1, {"key": jax.random.key_data(jax.random.key(11))}, {})
    found = newest(tmp_path)
    assert found is not None
    key = jax.random.wrap_key_data(jnp.asarray(found.leaves["['key']"]))
    expected = jax.random.normal(jax.random.key(11), (8,))
    np.testing.assert_array_equal(jax.random.normal(key, (8,)), expected)


def test_only_the_newest_checkpoints_stay(tmp_path: pathlib.Path) -> None:
    with checkpoint.manager(tmp_path, keep=2) as manager:
        for step in (1, 2, 3, 4):
            checkpoint.save(manager, step, small_state(step), {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_no_checkpoint_at_all_is_none(tmp_path: pathlib.Path) -> None:
    assert newest(tmp_path / "new") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_a_damaged_checkpoint_is_used_and_said(copied: pathlib.Path, damage: Any) -> None:
    damage(copied / "3")
    found = newest(copied)
    assert found is not None and (found.step, found.facts) == (2, {"step": 2})
    np.testing.assert_array_equal(found.leaves["['weight']"], small_state(2)["weight"])
    assert len(found.skipped) == 1 and found.skipped[0].startswith("checkpoint 3 is damaged (")
    assert len(found.skipped[0].split("(", 1)[1]) > 5, "the reason is given"


def test_two_damaged_checkpoints_are_both_said(copied: pathlib.Path) -> None:
    truncate(copied / "3")
    flip_bits(copied / "2")
    found = newest(copied)
    assert found is not None and found.step == 1
    assert [text.split(" is ")[0] for text in found.skipped] == ["checkpoint 3", "checkpoint 2"]


def test_each_damaged_file_alone_is_harmless_or_noticed(copied: pathlib.Path, three: pathlib.Path) -> None:
    """Whichever file is hit, what is read is never wrong: the newest state, or the one before."""
    for path in files(three / "3"):
        hit = copied / path.relative_to(three)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        hit.write_bytes(bytes(data))
        found = newest(copied)
        assert found is not None and found.step in (2, 3) and len(found.skipped) == 3 - found.step, path.name
        np.testing.assert_array_equal(found.leaves["['weight']"], small_state(found.step)["weight"])
        assert found.facts == {"step": found.step}, path.name
        hit.write_bytes(path.read_bytes())


def test_what_a_broken_off_save_left_behind_is_ignored(copied: pathlib.Path) -> None:
    shutil.copytree(copied / "3", copied / "4.orbax-checkpoint-tmp-1234")
    found = newest(copied)
    assert found is not None and (found.step, found.skipped) == (3, ())


def test_nothing_but_damage_is_an_error_that_names_the_folder(copied: pathlib.Path) -> None:
    for step, damage in zip((1, 2, 3), DAMAGES, strict=True):
        damage(copied / str(step))
    with pytest.raises(UserError) as caught:
        newest(copied)
    message = str(caught.value)
    assert str(copied) in message and "none of 3" in message and "checkpoint 3" in message
    assert "allowed: " in message and "\n" not in message


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ({"a": np.zeros(3), "b": np.zeros(2), "c": np.zeros(1)}, "['c']"),
        ({"a": np.zeros(3)}, "['b']"),
        ({"a": np.zeros((3, 1)), "b": np.zeros(2)}, "['a']"),
    ],
    ids=["missing", "left over", "another shape"],
)
def test_a_state_that_does_not_fit_the_program_is_refused(template: Any, named: str) -> None:
    leaves = checkpoint.leaves_of({"a": np.zeros(3), "b": np.zeros(2)})
    with pytest.raises(ValueError, match="disagree") as caught:
        checkpoint.restore(template, leaves)
    assert named in str(caught.value)


def test_shapes_without_values_serve_as_a_template() -> None:
    state = {"a": np.arange(3, dtype=np.int32), "b": (np.ones(2, bool),)}
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state))
    restored = checkpoint.restore(shapes, checkpoint.leaves_of(state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
