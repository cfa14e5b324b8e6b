"""Python files and modules that a configuration names: importing one adds its entries to the axes' tables."""

import hashlib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterable

from dass_jax.errors import UserError


def imported(names: Iterable[str], folder: pathlib.Path | None = None) -> tuple[str, ...]:
    """Imports plugins, once in a process; returns their names, with paths made absolute.

    Args:
      folder: where paths start; None: the working folder.

    Raises:
      UserError: if one cannot be imported.
    """
    return tuple(_imported(name, folder or pathlib.Path()) for name in names)


def _imported(name: str, folder: pathlib.Path) -> str:
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return name
        path = (folder / pathlib.Path(name).expanduser()).resolve()
        _execute(path)
        return str(path)
    except Exception as error:  # whatever the file does
        said = " ".join(str(error).split())
        raise UserError(
            f"plugins = {name!r}: {type(error).__name__}: {said}; "
            "allowed: Python files, or modules that can be imported"
        ) from error


def _execute(path: pathlib.Path) -> None:
    """The file as a module of its own; a plugin's classes find themselves there."""
    name = f"dass_jax_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # as the name ends with .py
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
