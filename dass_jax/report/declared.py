"""What a run declares in `phases.json`: the phases of each method, and how their metrics and matrices are drawn.

    {"methods": {METHOD: [PHASE, …]}}
    PHASE = {"chain": "search", "training" or "check 1" and so on, "name": …, "title": …, "curves": [CURVE, …],
             "matrices": {NAME: MATRIX}, "hidden": [metrics that are recorded and not drawn]}
    CURVE = {"metric": …, "group": …, "line": …, "unit": …, "style": "solid", "gap": false}
    MATRIX = {"title": …, "rows": […], "columns": […], "value": …, "grid": [[row, column], …]}

Only the names of phases and metrics must be there.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dass_jax.errors import UserError, nearest
from dass_jax.report.fields import field, listed, name, pairs, section, short, text, texts

STYLES: dict[str, Literal["-", "--", ":"]] = {"solid": "-", "dashed": "--", "dotted": ":"}

Key = tuple[str, str]
"""(chain, phase)"""


class Curve(NamedTuple):
    """A metric over the epochs: a line of the figure `group`."""

    metric: str
    group: str
    line: str
    unit: str = ""
    style: str = "solid"
    gap: bool = False
    """Of a group's first curve: the difference between its two lines is drawn as well."""


class Matrix(NamedTuple):
    """What is recorded of a phase as a matrix in each epoch; `grid`: (row, column) of each row's panel."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    value: str
    grid: tuple[tuple[int, int], ...] | None = None


class Phase(NamedTuple):
    """A part of a method's search or training."""

    key: Key
    title: str
    curves: tuple[Curve, ...] = ()
    matrices: Mapping[str, Matrix] = {}
    hidden: tuple[str, ...] = ()


Declared = dict[str, tuple[Phase, ...]]
"""Method → its phases, both in the order of the run."""


def read(data: dict[str, Any], origin: str) -> Declared:
    """What `phases.json` holds.

    Raises:
      UserError: naming the place of what is missing or of the wrong kind.
    """
    methods = section(field(data, "methods", origin), f"{origin}: methods")
    found = {}
    for method, phases in methods.items():
        place = f"{origin}: {method}"
        found[method] = tuple(_phase(each, f"{place}[{n}]") for n, each in enumerate(listed(phases, place)))
    return found


def phase(declared: Declared, method: str, key: Key) -> Phase:
    """A method's phase; of one that it does not declare what the other methods declare of it, or nothing but a name."""
    own = [each for each in declared.get(method, ()) if each.key == key]
    others = [each for phases in declared.values() for each in phases if each.key == key]
    first, *rest = [*own, *others, Phase(key, key[1])]
    curves = list(first.curves)
    for each in rest:
        curves += [curve for curve in each.curves if curve.metric not in {known.metric for known in curves}]
    return first._replace(curves=tuple(curves))


def _phase(data: Any, origin: str) -> Phase:
    data = section(data, origin)
    key = (name(data, "chain", origin), name(data, "name", origin))
    curves = listed(data.get("curves", []), f"{origin}: curves")
    matrices = section(data.get("matrices") or {}, f"{origin}: matrices")
    return Phase(
        key,
        text(data, "title", origin, key[1]),
        tuple(_curve(each, f"{origin}: curves[{n}]") for n, each in enumerate(curves)),
        {matrix: _matrix(each, matrix, f"{origin}: matrices: {matrix}") for matrix, each in matrices.items()},
        texts(data.get("hidden", []), f"{origin}: hidden"),
    )


def _curve(data: Any, origin: str) -> Curve:
    data = section(data, origin)
    metric = name(data, "metric", origin)
    group, line = (text(data, key, origin, metric) for key in ("group", "line"))
    style = text(data, "style", origin, "solid")
    if style not in STYLES:
        raise UserError(f"{origin}: style = {short(style)}{nearest(style, STYLES)}; allowed: {', '.join(STYLES)}")
    gap = data.get("gap", False)
    if not isinstance(gap, bool):
        raise UserError(f"{origin}: gap = {short(gap)}; allowed: true or false")
    return Curve(metric, group, line, text(data, "unit", origin), style, gap)


def _matrix(data: Any, matrix: str, origin: str) -> Matrix:
    data = section(data, origin)
    rows, columns = (texts(field(data, key, origin), f"{origin}: {key}") for key in ("rows", "columns"))
    grid = None if data.get("grid") is None else pairs(data["grid"], f"{origin}: grid")
    if grid is not None and (len(grid) != len(rows) or len(set(grid)) < len(grid)):
        shown = short([list(place) for place in grid])
        raise UserError(f"{origin}: grid = {shown}; allowed: a place of its own for each of {len(rows)} rows")
    return Matrix(text(data, "title", origin, matrix), rows, columns, text(data, "value", origin, "value"), grid)
