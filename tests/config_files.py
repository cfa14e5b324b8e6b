"""What the tests of configurations share: a file to read, and the promise that every refusal keeps."""

import pathlib

import pytest

from dass_jax.errors import UserError


def written(folder: pathlib.Path, text: str) -> str:
    """The path of `folder`/run.toml, which holds `text`."""
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    """The error's text: one line that says what is allowed."""
    message = str(caught.value)
    assert "\n" not in message and "allowed: " in message
    return message
