"""What the environment says to the libraries that read it as they are imported: asked before a command's own imports.

A value that a library refuses is then one line, and not a traceback out of the middle of it.
"""

import importlib
import os

from dass_jax.errors import UserError

READS = {"jax": "JAX_", "matplotlib": "MPLBACKEND"}
"""Library → how the names of its variables begin."""


def check() -> int:
    """Imports the libraries whose variables are set; 0, as of a command line's body.

    Raises:
      UserError: if one refuses the value of a variable.
    """
    for library, prefix in READS.items():
        own = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
        if not own:
            continue
        try:
            importlib.import_module(library)
        except ValueError as error:
            raise UserError(_said(library, own, " ".join(str(error).split()))) from error
    return 0


def _said(library: str, own: dict[str, str], reason: str) -> str:
    """The variable is the one that the library names, or whose value it quotes."""
    wrong = [name for name in own if name.lower() in reason.lower()]
    wrong += [name for name, value in own.items() if repr(value) in reason]
    name = wrong[0] if wrong else min(own)
    allowed = "true or false" if "truth value" in reason else f"one that {library} knows"
    return f"{name} = {own[name]!r}: {reason}; allowed: {allowed}, or no such variable"
