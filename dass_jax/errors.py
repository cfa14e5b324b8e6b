"""The one error a user causes and can mend: one line that names the field, the value and what is allowed.

The commands (`dass_jax.train`, `dass_jax.count`, `dass_jax.report`) turn a `UserError` into `error: <line>` and exit
code 2. Everything else that is raised is a fault of this package and keeps its traceback.
"""

import argparse
import contextlib
import difflib
import os
import pathlib
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, NoReturn


class UserError(Exception):
    """Wrong input; the message is one complete line."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it."""
        return [f"error: {self}"]


class Stopped(KeyboardInterrupt):
    """A signal has asked the command to end, and what it has done so far is kept."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it."""
        return ["interrupted: the same cell resumes from the last checkpoint"]


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name closest to `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def odd_space(text: str) -> str:
    """`" (line 3, column 7 holds …)"` for the first character of a text that only looks like a space, or the empty
    string: editors and web pages put them in, and no format takes them for spaces."""
    for number, line in enumerate(text.splitlines(), start=1):
        for column, letter in enumerate(line, start=1):
            if letter not in " \t" and (letter.isspace() or letter in "\u200b\u2060\ufeff"):
                name = unicodedata.name(letter, "a control character")
                return f" (line {number}, column {column} holds U+{ord(letter):04X}, {name}, in the place of a space)"
    return ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are `UserError`s, so that they too are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; allowed: see {self.prog} --help")


def check_new_folder(folder: pathlib.Path, flag: str) -> None:
    """Raises UserError if a command could not make, or write into, the folder that it is to fill in the end."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{flag} = {str(folder)!r} is not empty; allowed: a new or an empty folder")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        what = "is a file" if there == folder else f"is below the file {str(there)!r}"
        raise UserError(f"{flag} = {str(folder)!r} {what}; allowed: a new or an empty folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"{flag} = {str(folder)!r}: {str(there)!r} takes no files; allowed: a folder to write in")


def number_of(number: int, noun: str) -> str:
    """`"1 cell"`, `"2 cells"`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def check_new_file(file: pathlib.Path | None, flag: str) -> None:
    """Raises UserError if what a command is to write in the end cannot be written: asked before its work.

    Args:
      flag: which names the file, as "--out"; None: none is to be written.
    """
    if file is None:
        return
    if file.exists():
        what = "exists"
    elif not file.parent.is_dir():
        what = "is in no folder"
    elif not os.access(file.parent, os.W_OK):
        what = "is in a folder that takes no files"
    else:
        return
    raise UserError(f"{flag} = {str(file)!r} {what}; allowed: a new file in a folder that exists")


def show(text: str) -> None:
    """Prints what a command has found, which lies in files already.

    Raises:
      UserError: if the output cannot be written.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _to_nowhere()
        raise UserError(
            f"the output cannot be written: {error.strerror}; allowed: a terminal, a pipe, or a file with room"
        ) from error


def _to_nowhere() -> None:
    """Where the interpreter's last flush goes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(line: str) -> None:
    """On standard error, if anything can be written there."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def guarded(command: Callable[[], int]) -> int:
    """Runs a command line's body; the exit code is 2 after a `UserError`, 130 after Ctrl-C, 143 after SIGTERM and 141
    when who reads the output, like `head`, has seen enough. Letters that the output does not know are escaped."""
    with contextlib.suppress(AttributeError, ValueError):  # no file, or none at all
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # asked of whatever is there
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except UserError as error:
        _complain("error: " + " ".join(str(error).split()))
        return 2
    except KeyboardInterrupt as error:
        _complain("interrupted: the same command resumes from the last checkpoint")
        return error.code if isinstance(error, Stopped) else 130
    except BrokenPipeError:
        _to_nowhere()
        return 141


def process(command: Callable[[], int]) -> NoReturn:
    """A whole process of `guarded`: SIGTERM is like Ctrl-C."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    signal.signal(signal.SIGTERM, stop)
    code = guarded(command)
    if code:  # the interpreter would wait for a compilation that is under way, and for the threads of a failed save
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):  # it has gone, or there is none
                stream.flush()
        os._exit(code)
    sys.exit(code)
