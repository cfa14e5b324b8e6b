"""Smaller programs of DARTS' supernet against the whole one, in which what has left has weight 0."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import accounting
from dass_jax.architectures.darts import PRIMITIVES, edges
from dass_jax.nn.layers import one_device
from dass_jax.spaces import SPACES
from dass_jax.spaces.darts import Fields, SupernetConfig, darts
from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS, flatten, layers, prunable, unflatten

SIZES = SupernetConfig(classes=3, cells=3, channels=2, nodes=2)
"""A normal cell, then both reductions."""
IMAGE = (8, 6, 2)
WHOLE = darts(SIZES)


def of_rows(*columns: tuple[int, ...]) -> np.ndarray:
    """Bool [edges, operations] from the columns of each edge: 0 → 2, 1 → 2, 0 → 3, 1 → 3, 2 → 3."""
    return np.array([[column in row for column in range(8)] for row in columns])


LIVE = {
    # Nothing leads to node 2, and everything but `none` from there to node 3.
    "normal": of_rows((0,), (), (0, 1, 2, 5, 7), (3, 6), (1, 2, 3, 4, 5, 6, 7)),
    # Of input 1 one operation.
    "reduce": of_rows((1, 3), (), (1, 2, 3, 4, 6), (3,), (0, 2, 4)),
}


def random_variables(space: Any, random_like: Any) -> tuple[Any, Any]:
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), IMAGE))
    stats = flatten(random_like(shapes[BATCH_STATS], 2))
    positive = {path: np.abs(leaf) + 0.1 if path.endswith("/var") else leaf for path, leaf in stats.items()}
    return random_like(shapes[PARAMS], 1), unflatten(positive)


def choice(live: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: np.where(rows, rng.dirichlet(np.ones(8), 5), 0) for name, rows in live.items()}


def gradients(space: Any, params: Any, stats: Any, edge_weights: Any) -> Any:
    """Gradients by params and choice, (outputs, moved statistics)."""
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(IMAGE[2], *IMAGE[:2], 5)), rng.integers(3, size=5)

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def loss(params: Any, edge_weights: Any) -> Any:
        outputs, moved = space.apply(params, stats, edge_weights, images, True)
        return cross_entropy(outputs, labels), (outputs, moved)

    return jax.jit(loss)(params, edge_weights)


@pytest.mark.usefixtures("x64")
def test_the_program_of_the_living_is_the_whole_program_with_weight_0_on_the_dead(random_like: Any) -> None:
    part = darts(SIZES, live=LIVE)
    params, stats = random_variables(WHOLE, random_like)
    own = WHOLE.carried({PARAMS: params, BATCH_STATS: stats}, LIVE)
    chex.assert_trees_all_equal_shapes(own, jax.eval_shape(lambda: part.init(jax.random.key(0), IMAGE)))
    (to_params, to_choice), (outputs, moved) = gradients(WHOLE, params, stats, choice(LIVE))
    # What a choice says of the dead does not matter.
    given = {name: np.where(LIVE[name], weights, 7.0) for name, weights in choice(LIVE).items()}
    found = gradients(part, own[PARAMS], own[BATCH_STATS], given)
    to_living = {name: np.where(LIVE[name], gradient, 0) for name, gradient in to_choice.items()}
    wanted = (WHOLE.carried(to_params, LIVE), to_living), (outputs, WHOLE.carried(moved, LIVE))
    chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9)
    quiet = [path for path, leaf in flatten(found[0][0]).items() if not np.any(leaf)]
    assert all(path.startswith("cell_0/edges_1/") for path in quiet)  # node 2 of the normal cell is 0


def test_what_is_carried_twice_is_what_is_carried_once(random_like: Any) -> None:
    params, stats = random_variables(WHOLE, random_like)
    variables, rng = {"before": {PARAMS: params}, BATCH_STATS: stats}, np.random.default_rng(0)
    once = WHOLE.carried(variables, LIVE)
    middle = {name: rows | (rng.random(rows.shape) < 0.5) for name, rows in LIVE.items()}
    every = {name: np.ones((5, 8)) for name in LIVE}
    for between in (middle, LIVE, {**every, "normal": middle["normal"]}, every):
        carried = WHOLE.carried(variables, between)
        chex.assert_trees_all_equal_shapes(
            {PARAMS: carried["before"][PARAMS], BATCH_STATS: carried[BATCH_STATS]},
            jax.eval_shape(lambda live=between: darts(SIZES, live=live).init(jax.random.key(0), IMAGE)),
        )
        chex.assert_trees_all_equal(WHOLE.carried(carried, LIVE, before=between), once)
    chex.assert_trees_all_equal(WHOLE.carried(variables, every), variables)
    scores = {"cell_1": {"source_0_sep_conv_3x3": once["before"][PARAMS]["cell_1"]["source_0_sep_conv_3x3"]}}
    group = params["cell_1"]["edges_0"].items()
    whole = {"cell_1": {"edges_0": {name: leaf for name, leaf in group if "sep_conv_3" in name}}}
    chex.assert_trees_all_equal(WHOLE.carried(whole, LIVE), scores)


def of_edges(found: dict[str, Any]) -> dict[str, Any]:
    return {path: shape for path, shape in found.items() if re.search("/(source|edges)_", path)}


def shapes(config: SupernetConfig, live: Any) -> dict[str, Any]:
    found = jax.eval_shape(lambda: darts(config, live=live).init(jax.random.key(0), (8, 8, 3)))
    return {path: leaf.shape for path, leaf in flatten(found).items()}


def test_dead_operations_leave_nothing_behind() -> None:
    config = SupernetConfig(classes=3, cells=1, channels=2, nodes=2)  # one reduction, to 4 channels
    live = {"normal": np.ones((5, 8), bool), "reduce": of_rows((1, 3, 4), (), (1, 4), (7,), (0, 3))}
    sep, dil, skip = "source_0_sep_conv_3x3", "source_1_dil_conv_5x5", "source_0_skip_connect"
    weights = {
        f"{sep}/sep_conv_3x3_depthwise_1": (1, 2, 4, 3, 3),
        f"{sep}/sep_conv_3x3_pointwise_1": (1, 2, 4, 4),
        f"{sep}/sep_conv_3x3_depthwise_2": (1, 2, 4, 3, 3),
        f"{sep}/sep_conv_3x3_pointwise_2": (1, 2, 4, 4),
        f"{dil}/dil_conv_5x5_depthwise_1": (1, 1, 4, 5, 5),
        f"{dil}/dil_conv_5x5_pointwise_1": (1, 1, 4, 4),
        f"{skip}/skip_connect": (1, 1, 2, 2, 4),
    }
    norms = {f"{sep}/norm_1": (1, 2, 4), f"{sep}/norm_2": (1, 1, 2, 4), f"{dil}/norm_dilated": (1, 1, 1, 4)}
    norms |= {f"{skip}/norm_skip": (1, 1, 1, 4), "source_0_max_pool_3x3/norm_pool": (1, 1, 1, 4)}
    wanted = {f"params/cell_0/{path}/weight": shape for path, shape in weights.items()}
    wanted |= {f"batch_stats/cell_0/{norm}/{name}": shape for norm, shape in norms.items() for name in ("mean", "var")}
    assert of_edges(shapes(config, live)) == wanted
    assert of_edges(shapes(config, {**live, "reduce": of_rows((0,), (), (0,), (0,), ())})) == {}


def test_with_everything_alive_the_program_is_the_whole_one() -> None:
    config = SupernetConfig(classes=3, cells=2, channels=2, nodes=2)
    whole, v = darts(config), jax.eval_shape(lambda: darts(config).init(jax.random.key(0), (8, 8, 3)))
    weights = {name: jax.ShapeDtypeStruct((5, 8), jnp.float32) for name in whole.choices}
    arguments = v[PARAMS], v[BATCH_STATS], weights, jax.ShapeDtypeStruct((3, 8, 8, 2), jnp.float32)
    without_none = {name: np.ones((5, 8), bool) & (np.array(PRIMITIVES) != "none") for name in whole.choices}
    every = {name: np.ones((5, 8)) for name in whole.choices}
    spaces = whole, darts(config, live=every), darts(config, live=without_none)
    first, *others = (str(jax.make_jaxpr(functools.partial(space.apply, train=True))(*arguments)) for space in spaces)
    assert others == [first, first]


def living_layers() -> Iterator[tuple[int, int]]:
    """(weights, positions) of each layer of the program for 8×8 images with 3 channels, edge by edge."""
    yield from ((3 * 12 * 9, 64), (3 * 2 * 16, 1))
    yield from ((4 * 12, 64), (4 * 12, 64), (8 * 12, 64), (8 * 2 * 4, 64))  # before the first two cells
    yield from ((8 * 2 * 4, 16), (8 * 2 * 4, 16), (16 * 2 * 8, 16))  # before the last: a pair, and one
    for name, channels, positions in (("normal", 4, 64), ("reduce", 8, 16), ("reduce", 16, 4)):
        for row, column in np.argwhere(LIVE[name]):
            operation, source = PRIMITIVES[column], edges(2)[row][0]
            if "conv" in operation:
                for _ in range(2 if operation.startswith("sep") else 1):
                    yield from ((channels * int(operation[-1]) ** 2, positions), (channels**2, positions))
            elif operation == "skip_connect" and name == "reduce" and source < 2:
                yield from [(channels**2 // 2, positions)] * 2


def test_counts_and_layers_are_those_of_the_living() -> None:
    space = SPACES["darts"].make(Fields(cells=3, channels=4, nodes=2, remat=True), 3, one_device, None, live=LIVE)
    v = jax.eval_shape(lambda: space.init(jax.random.key(0), (8, 8, 3)))
    v = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), v)
    params = v[PARAMS]
    images = np.zeros((3, 8, 8, 1), np.float32)
    kept = accounting.kept_of_fraction(params, space.rules, 1.0)
    found = accounting.count(
        params, space.rules, kept, 1.0, lambda: space.apply(v[PARAMS], v[BATCH_STATS], choice(LIVE), images, False)
    )
    wanted = list(living_layers())
    assert found.prunable == sum(weights for weights, _ in wanted)
    assert found.macs == sum(weights * positions for weights, positions in wanted)
    sizes = [size for _, count, size in layers(params, prunable(params, space.rules)) for _ in range(count)]
    assert sorted(sizes) == sorted(weights for weights, _ in wanted)


@pytest.mark.parametrize(
    ("live", "message"),
    [
        (
            {"normal": np.ones((5, 8))},
            "live has the shapes {'normal': (5, 8)}; allowed: {'normal': (5, 8), 'reduce': (5, 8)}",
        ),
        ({**LIVE, "reduce": np.ones((8, 5))}, "'reduce': (8, 5)}; allowed: {'normal': (5, 8), 'reduce': (5, 8)}"),
    ],
)
def test_living_operations_of_another_space_are_refused(live: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        darts(SIZES, live=live)
    with pytest.raises(ValueError, match=re.escape(message)):
        WHOLE.carried({}, live)


def test_an_operation_that_was_dead_cannot_be_carried() -> None:
    more = LIVE["reduce"].copy()
    more[3, 1] = True
    message = "live: reduce has operations that were not in the program before: [[3, 1]]"
    with pytest.raises(ValueError, match=re.escape(message)):
        WHOLE.carried({}, {**LIVE, "reduce": more}, before=LIVE)
