"""The one error a user causes and can mend: one line that names the field, the value and what is allowed.

The commands (`dass_jax.train`, `dass_jax.count`, `dass_jax.report`) turn a `UserError` into `error: <line>` and exit
code 2. Everything else that is raised is a fault of this package and keeps its traceback.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class UserError(Exception):
    """Wrong input; the message is one complete line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name closest to `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are `UserError`s, so that they too are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; allowed: see {self.prog} --help")


def guarded(command: Callable[[], int]) -> int:
    """Runs a command line's body; the exit code is 2 after a `UserError`, 130 after Ctrl-C and 141 when who reads the
    output, like `head`, has seen enough."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the interpreter's last flush goes
        return 141
