"""The package is a house of floors: a module imports from floors below its own, and from its own room, never upward.

Every file belongs to a room; a file without one fails here until it is given its place.
"""

import ast
import io
import pathlib
import tokenize

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "dass_jax"
FILES = sorted(path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py"))

CONFIG = ("config", "config_io", "config_cli")
FLOORS = [
    ("errors",),
    ("genotype", "variables"),
    ("relaxation", "sparsity", "bilevel"),
    ("nn",),
    ("spaces", "models"),
    ("accounting", "methods"),
    ("data",),
    ("runtime",),
    ("report",),
    CONFIG,
    ("build",),
    ("results",),
    ("feed",),
    ("running",),
    ("pipeline",),
    ("train", "count", "deploy"),
    ("latency",),
    ("experiment",),
]
"""From the ground up. Rooms on one floor do not know each other; the config modules are one room."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ONLY = {"report": {"errors", "genotype"}, **{room: {"errors", "genotype"} for room in CONFIG}}
"""Rooms that may import less than their floor allows."""

NEVER = {
    "methods": {"spaces", "models", "data"},
    **{room: set(CONFIG) for room in ("nn", "spaces", "models", "sparsity", "bilevel")},
}
COLLECTIVES = {"pmap", "pmean", "psum", "axis_index"}


def room(module: str) -> str:
    """`dass_jax.nn.kernels` → `nn`; the package itself → the empty string."""
    return ".".join(module.split(".")[1:2])


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """Rooms of the package that a module's source names in its import statements, wherever these stand."""
    found = set()
    parts = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    rooms = {room(name) for name in found if name.split(".")[0] == "dass_jax"}
    return {name for name in rooms if not name.startswith("__")}  # `__version__` is the package's own


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def complaint(file: str, source: str) -> str | None:
    """Why the file breaks the order, or None."""
    module = module_name(file)
    own = room(module)
    needed = imports(source, module, file.endswith("__init__.py"))
    if not own:
        return f"{file}: the package itself imports {sorted(needed)}; allowed: nothing" if needed else None
    if own not in FLOOR_OF:
        return f"{file}: no floor has a room {own!r}; give it one in FLOORS"
    for other in sorted(needed):
        if other == own or (own in CONFIG and other in CONFIG):
            continue
        if other not in FLOOR_OF:
            return f"{file} imports {other!r}, which is in no room"
        if FLOOR_OF[other] >= FLOOR_OF[own]:
            return f"{file} ({own}) imports {other}, which is not below it"
        if own in ONLY and other not in ONLY[own]:
            return f"{file} ({own}) imports {other}; allowed: {sorted(ONLY[own])}"
        if other in NEVER.get(own, ()):
            return f"{file} ({own}) imports {other}, which it must never know"
    return None


@pytest.mark.parametrize("file", FILES)
def test_every_file_has_a_room_and_imports_only_downward(file: str) -> None:
    assert complaint(file, (PACKAGE.parent / file).read_text(encoding="utf-8")) is None


def names(source: str) -> set[str]:
    """All identifiers of a source text, comments and strings left out."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


@pytest.mark.parametrize("file", [file for file in FILES if file != "dass_jax/runtime/parallel.py"])
def test_only_the_runtime_knows_about_several_devices(file: str) -> None:
    assert not names((PACKAGE.parent / file).read_text(encoding="utf-8")) & COLLECTIVES


def test_the_files_were_found() -> None:
    assert {"dass_jax/__init__.py", "dass_jax/nn/kernels/shifts.py", "dass_jax/errors.py"} <= set(FILES)


@pytest.mark.parametrize(
    ("file", "source", "found"),
    [
        ("dass_jax/nn/new.py", "from dass_jax.architectures.darts import OPERATIONS", None),
        ("dass_jax/nn/new.py", "from dass_jax import __version__, nn, variables\nimport jax", None),
        ("dass_jax/nn/new.py", "from . import kernels\nfrom .layers import Norm\nfrom .. import errors", None),
        ("dass_jax/nn/__init__.py", "from . import kernels\nfrom .layers import Norm", None),
        ("dass_jax/nn/__init__.py", "from ..spaces import darts", "not below it"),
        ("dass_jax/nn/new.py", "from ..spaces import darts", "not below it"),
        ("dass_jax/nn/new.py", "def f():\n    import dass_jax.config", "not below it"),
        ("dass_jax/sparsity/new.py", "from dass_jax import bilevel", "not below it"),
        ("dass_jax/methods/new.py", "from dass_jax.spaces.darts import darts", "must never know"),
        ("dass_jax/methods/new.py", "from dass_jax.data import arrays", "not below it"),
        ("dass_jax/report/new.py", "from dass_jax.variables import flatten", "allowed: ['errors', 'genotype']"),
        ("dass_jax/config_io.py", "from dass_jax.config import Config\nfrom dass_jax.errors import UserError", None),
        ("dass_jax/config.py", "from dass_jax.nn import layers", "allowed: ['errors', 'genotype']"),
        ("dass_jax/attic.py", "", "no floor has a room 'attic'"),
        ("dass_jax/train.py", "from dass_jax.attic import box", "in no room"),
        ("dass_jax/__init__.py", "from dass_jax.nn import kernels", "allowed: nothing"),
    ],
)
def test_the_rules_catch_what_they_should(file: str, source: str, found: str | None) -> None:
    said = complaint(file, source)
    assert said is None if found is None else said is not None and found in said


def test_names_are_read_from_code_only() -> None:
    assert names('"""pmap"""\nx = jax.lax.psum(1, "i")  # pmean\n') & COLLECTIVES == {"psum"}
