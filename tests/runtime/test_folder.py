"""The run folder: who has it, and what a disk says that does not take it."""

import errno
import os
import pathlib

import pytest

from dass_jax.errors import UserError
from dass_jax.runtime import folder


def raised(error: BaseException, cause: BaseException | None = None) -> None:
    raise error from cause


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("form", ["plain", "cause", "words", "code"])
def test_what_the_disk_says_becomes_one_line(tmp_path: pathlib.Path, number: int, form: str) -> None:
    system = OSError(number, os.strerror(number), "somewhere")
    with pytest.raises(UserError) as caught, folder.writable(tmp_path):
        if form == "plain":
            raise system
        if form == "cause":
            raised(ValueError("writing failed"), system)
        if form == "code":
            raise ValueError(f"OUT_OF_RANGE: Failed to write 9 bytes to file 17: E [os_error_code='{number}']")
        raise ValueError(f'UNKNOWN: Error writing "x" [OS error {number}: E of the library]')
    message = str(caught.value)
    assert f"run folder {str(tmp_path)!r} cannot be written: {os.strerror(number)}; allowed: " in message


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOENT, "x"), UserError("x"), KeyboardInterrupt()])
def test_other_errors_stay_what_they_are(tmp_path: pathlib.Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, folder.writable(tmp_path):
        raise error
    assert caught.value is error


def test_a_folder_is_had_by_one_and_free_again_afterwards(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        with (
            folder.claimed(tmp_path),
            pytest.raises(UserError, match="in use by another process"),
            folder.claimed(tmp_path),
        ):
            pytest.fail("two have it")


def test_what_a_run_leaves_that_was_killed_at_once_is_as_good_as_nothing(tmp_path: pathlib.Path) -> None:
    assert folder.is_fresh(tmp_path)
    for name in ("lock", "config.tomlx3k2"):
        (tmp_path / name).touch()
    assert folder.is_fresh(tmp_path)
    (tmp_path / "thesis.tex").touch()
    assert not folder.is_fresh(tmp_path)
