"""The shipped files by their names, from anywhere: those of a checkout's configs/, or of an installed package."""

import pathlib

from dass_jax.errors import UserError, nearest

PACKAGE = pathlib.Path(__file__).parents[1]
FOLDERS = {"config": ".", "experiment": "experiments", "sparsebench": "sparsebench"}
"""Where the files of a kind lie in configs/."""


def folder(kind: str) -> pathlib.Path:
    """The folder of the shipped files of a kind."""
    installed = PACKAGE / "configs"
    return (installed if installed.is_dir() else PACKAGE.parent / "configs") / FOLDERS[kind]


def find(text: str, kind: str = "config") -> pathlib.Path:
    """The TOML file that a path or a shipped file's name means; a file at that path goes first.

    Raises:
      UserError: if there is neither.
    """
    path = pathlib.Path(text)
    shipped = folder(kind) / f"{text.removesuffix('.toml')}.toml"
    if path.name == text and shipped.is_file() and not path.is_file():
        return shipped
    if path.exists():
        return path
    known = sorted(found.stem for found in folder(kind).glob("*.toml"))
    raise UserError(
        f"{kind} file {text!r} cannot be read: No such file or directory{nearest(text, known)}; "
        f"allowed: a TOML file, or one of those that are shipped: {', '.join(known)}"
    )
