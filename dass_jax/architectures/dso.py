"""The blocks of DSO-NAS (Zhang et al., TPAMI 2020) as plain data: which connections of a full graph are left.

A block has levels of operations. Every operation may read the block's input and all operations of the levels before
its own, and the block's output all operations; those of the first level always read the block's input, which is no
connection. Nodes are called `in`, `out` and `level.operation`, levels from 1 and operations from 0.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from dass_jax.architectures.family import Edge, Family, Graph, Json, members, short
from dass_jax.errors import UserError, nearest

OPERATIONS = ("sep3", "sep5", "sep7", "max3", "avg3")
"""Separable convolutions and pools, by the size of their window."""
SCOPES = ("share", "full")
"""One block for the whole network, or one for each of its places."""
BRANCHES = ("1x1", "3x3")
"""The two convolutions of a reduction."""
IN, OUT = "in", "out"
MOST_LEVELS, MOST_OPERATIONS = 8, 8
_SHOWN = 60
"""Characters of a wrong value that a message repeats: connections are long."""

Connection = tuple[str, str]
"""(source, target)."""
Connections = tuple[Connection, ...]


class Blocks(NamedTuple):
    """An architecture. Connections are in the order of `connections`, and each is on a way from `in` to `out`."""

    scope: str
    levels: int
    operations: tuple[str, ...]
    """Of each level."""
    blocks: tuple[Connections, ...]
    """One, or one for each block of the network."""
    reductions: tuple[tuple[str, ...], ...]
    """For each reduction its branches, at least one."""


def nodes(levels: int, operations: int) -> tuple[str, ...]:
    """The nodes of a block, from its input to its output."""
    inner = (f"{level}.{number}" for level in range(1, levels + 1) for number in range(operations))
    return (IN, *inner, OUT)


def level(node: str) -> int:
    """Of an operation."""
    return int(node.split(".")[0])


def sources(target: str, levels: int, operations: int) -> tuple[str, ...]:
    """The nodes that a node may have connections from: of the first level none."""
    if target == OUT:
        return nodes(levels, operations)[1:-1]
    return nodes(level(target) - 1, operations)[:-1] if level(target) > 1 else ()


def targets(levels: int, operations: int) -> tuple[str, ...]:
    """The nodes that have connections coming in."""
    return nodes(levels, operations)[1 + operations :]


def connections(levels: int, operations: int) -> Connections:
    """All connections of a block: (M² − M)N²/2 + 2MN − N of them for M levels of N operations."""
    return tuple(
        (source, target) for target in targets(levels, operations) for source in sources(target, levels, operations)
    )


def swept(left: Iterable[Connection], levels: int, operations: int) -> Connections:
    """Of some connections those that lie on a way from the block's input to its output: what is left when operations
    without an input or without a reader go, and their connections with them, until nothing changes.

    One sweep from the input on and one back from the output are enough. Source: the paper's Section 3.2.
    """
    present = set(left)
    every = [pair for pair in connections(levels, operations) if pair in present]
    reached = {IN, *nodes(levels, operations)[1 : 1 + operations]}
    for source, target in every:  # in the order of the targets
        if source in reached:
            reached.add(target)
    useful = {OUT}
    for source, target in reversed(every):
        if target in useful:
            useful.add(source)
    return tuple((a, b) for a, b in every if a in reached and b in useful)


def living(found: Connections) -> tuple[str, ...]:
    """The operations of a swept block, in the order of evaluation."""
    names = {source for source, _ in found} - {IN}
    return tuple(sorted(names, key=lambda name: tuple(map(int, name.split(".")))))


def whole(scope: str, levels: int, operations: tuple[str, ...], blocks: int, reductions: int) -> Blocks:
    """All connections of so many blocks and reductions."""
    block = connections(levels, len(operations))
    return Blocks(scope, levels, operations, (block,) * (1 if scope == "share" else blocks), (BRANCHES,) * reductions)


def placed(a: Blocks, reductions: int) -> Blocks:
    """An architecture in a network of so many reductions: a shared block is at home in any. Its own reductions are the
    network's first ones; those beyond have both branches, as before a search. One of scope `full` stays as it is.

    The paper takes CIFAR-10's block to ImageNet and does not say what the third reduction has there; its code cannot
    build one that was not searched.
    """
    if a.scope != "share":
        return a
    return a._replace(reductions=(a.reductions + (BRANCHES,) * reductions)[:reductions])


def to_json(a: Blocks) -> Json:
    """`{"scope": "share", "levels": 4, "operations": ["sep3", …], "blocks": [[["in", "2.0"], …]], "reductions":
    [["1x1"], …]}`."""
    return {
        "scope": a.scope,
        "levels": a.levels,
        "operations": list(a.operations),
        "blocks": [[list(pair) for pair in block] for block in a.blocks],
        "reductions": [list(branches) for branches in a.reductions],
    }


def from_json(data: Any, origin: str = "architecture") -> Blocks:
    """Inverse of `to_json`.

    Raises:
      UserError: naming `origin`, the place in the data and what is allowed there.
    """
    data = members(data, Blocks._fields, origin, ", ".join(Blocks._fields))
    scope, levels = data["scope"], data["levels"]
    if scope not in SCOPES:
        raise UserError(f"{origin}: scope = {short(scope, _SHOWN)}; allowed: {', '.join(SCOPES)}")
    if type(levels) is not int or not 1 <= levels <= MOST_LEVELS:
        raise UserError(f"{origin}: levels = {short(levels, _SHOWN)}; allowed: an integer in [1, {MOST_LEVELS}]")
    operations = _names(data["operations"], OPERATIONS, f"{origin}: operations")
    if len(operations) > MOST_OPERATIONS:
        raise UserError(f"{origin}: operations = {len(operations)}; allowed: at most {MOST_OPERATIONS}")
    blocks = _listed(data["blocks"], f"{origin}: blocks")
    if not blocks or (scope == "share" and len(blocks) > 1):
        raise UserError(
            f"{origin}: blocks = {len(blocks)}; allowed: {'1' if scope == 'share' else 'at least 1'} in scope {scope!r}"
        )
    return Blocks(
        scope,
        levels,
        operations,
        tuple(_block(block, levels, len(operations), f"{origin}: blocks[{i}]") for i, block in enumerate(blocks)),
        tuple(
            _names(each, BRANCHES, f"{origin}: reductions[{i}]", differing=True)
            for i, each in enumerate(_listed(data["reductions"], f"{origin}: reductions"))
        ),
    )


def _listed(data: Any, place: str) -> list[Any]:
    if not isinstance(data, list):
        raise UserError(f"{place} = {short(data, _SHOWN)}; allowed: a list")
    return data


def _names(data: Any, known: tuple[str, ...], place: str, differing: bool = False) -> tuple[str, ...]:
    found = _listed(data, place)
    for name in found:
        if name not in known:
            hint = nearest(name, known) if isinstance(name, str) else ""
            raise UserError(f"{place}: {short(name, _SHOWN)}{hint}; allowed: {', '.join(known)}")
    if not found or (differing and len(set(found)) < len(found)):
        raise UserError(f"{place} = {short(found, _SHOWN)}; allowed: at least one of {', '.join(known)}")
    return tuple(sorted(found, key=known.index)) if differing else tuple(found)


def _block(data: Any, levels: int, operations: int, place: str) -> Connections:
    known, found = set(connections(levels, operations)), []
    for i, pair in enumerate(_listed(data, place)):
        if not isinstance(pair, list) or not all(isinstance(name, str) for name in pair) or tuple(pair) not in known:
            raise UserError(
                f"{place}[{i}] = {short(pair, _SHOWN)}; allowed: [source, target], in → level 2 and more, "
                f"level.operation → a later level or out; levels 1 to {levels}, operations 0 to {operations - 1}"
            )
        found.append(tuple(pair))
    kept = swept(found, levels, operations)
    if len(found) != len(kept):
        odd = next(pair for pair in found if pair not in kept or found.count(pair) > 1)
        raise UserError(f"{place}: {' → '.join(odd)}; allowed: each connection once, on a way from in to out")
    return kept


def graphs(a: Blocks) -> tuple[Graph, ...]:
    """Each block with its operations as nodes and its shortcut, and each reduction."""
    several = len(a.blocks) > 1
    drawn = [_graph(f"block {i}" if several else "block", a, block) for i, block in enumerate(a.blocks)]
    for i, branches in enumerate(a.reductions):
        edges = [Edge(IN, name, "") for name in branches] + [Edge(name, OUT, "") for name in branches]
        drawn.append(Graph(f"reduction {i}", (IN, *branches, OUT), tuple(edges)))
    return tuple(drawn)


def _graph(name: str, a: Blocks, block: Connections) -> Graph:
    inner = living(block)
    title = {IN: IN, OUT: OUT} | {node: f"{node} {a.operations[int(node.split('.')[1])]}" for node in inner}
    first = [Edge(IN, title[node], "") for node in inner if level(node) == 1]
    rest = [Edge(title[source], title[target], "") for source, target in block]
    return Graph(name, (IN, *(title[node] for node in inner), OUT), (*first, *rest, Edge(IN, OUT, "shortcut")))


def warnings(a: Blocks) -> dict[str, str]:
    """The blocks of which nothing is left."""
    return {f"block {i}": "no connection is left: the block is its shortcut" for i, b in enumerate(a.blocks) if not b}


FAMILY = Family("dso", Blocks, to_json, from_json, graphs, warnings)
