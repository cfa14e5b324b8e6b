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

FLOORS = [
    ("errors",),
    ("environment",),
    ("schema", "architectures", "variables"),
    ("relaxation", "policies", "sparsity", "bilevel"),
    ("schedules", "phases"),
    ("tasks",),
    ("nn",),
    ("spaces", "networks"),
    ("accounting",),
    ("methods", "recipes"),
    ("data",),
    ("runtime",),
    ("report",),
    ("config",),
    ("compose",),
    ("results",),
    ("feed",),
    ("runner",),
    ("pipeline",),
    ("train", "count", "deploy", "sparsebench"),
    ("latency", "notebook"),
    ("experiment",),
]
"""From the ground up. Rooms on one floor do not know each other. Nothing below `compose` but the configuration itself
knows the configuration: it stands above them all."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ONLY = {
    "architectures": {"errors"},
    "data": {"errors"},
    "phases": {"bilevel", "variables"},
    "report": {"errors", "architectures"},
    "tasks": {"phases", "schema"},
}
"""Rooms that may import less than their floor allows: architectures, data and reports are at home without JAX."""

MEMBERS = {"spaces", "networks", "methods", "recipes"}
"""What a run is made of: who carries it out knows them as phases and functions."""
NEVER = {
    "methods": {"spaces", "networks", "data"},
    "recipes": {"spaces", "data"},
    "runtime": {*MEMBERS, "tasks", "nn", "accounting"},
    "feed": {*MEMBERS, "tasks", "nn"},
    "runner": {*MEMBERS, "tasks", "nn", "architectures"},
    "pipeline": {*MEMBERS, "tasks", "nn"},
}
AT_THE_DOOR = {"environment", "errors"}
"""What the package itself imports, of a command alone."""
COLLECTIVES = {"pmap", "pmean", "psum", "axis_index", "shard_map"}


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
        wrong = sorted(needed - AT_THE_DOOR)
        return f"{file}: the package itself imports {wrong}; allowed: {sorted(AT_THE_DOOR)}" if wrong else None
    if own not in FLOOR_OF:
        return f"{file}: no floor has a room {own!r}; give it one in FLOORS"
    for other in sorted(needed):
        if other == own:
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
        ("dass_jax/methods/new.py", "from dass_jax import recipes", "not below it"),
        ("dass_jax/methods/new.py", "from dass_jax.data import arrays", "not below it"),
        ("dass_jax/recipes/new.py", "from dass_jax import networks, tasks", None),
        ("dass_jax/recipes/new.py", "from dass_jax.spaces import Space", "must never know"),
        ("dass_jax/runner/run.py", "from dass_jax.methods import METHODS", "must never know"),
        ("dass_jax/runtime/new.py", "from dass_jax import nn", "must never know"),
        ("dass_jax/runtime/new.py", "from dass_jax import config", "not below it"),
        ("dass_jax/report/new.py", "from dass_jax.variables import flatten", "allowed: ['architectures', 'errors']"),
        ("dass_jax/data/new.py", "from dass_jax import phases", "allowed: ['errors']"),
        ("dass_jax/config/new.py", "from dass_jax.methods import METHODS\nfrom dass_jax.errors import UserError", None),
        ("dass_jax/config/new.py", "from dass_jax.compose import setting", "not below it"),
        ("dass_jax/attic.py", "", "no floor has a room 'attic'"),
        ("dass_jax/train.py", "from dass_jax.attic import box", "in no room"),
        ("dass_jax/__init__.py", "from dass_jax.nn import kernels", "allowed: ['environment', 'errors']"),
    ],
)
def test_the_rules_catch_what_they_should(file: str, source: str, found: str | None) -> None:
    said = complaint(file, source)
    assert said is None if found is None else said is not None and found in said


def test_names_are_read_from_code_only() -> None:
    assert names('"""pmap"""\nx = jax.lax.psum(1, "i")  # pmean\n') & COLLECTIVES == {"psum"}
