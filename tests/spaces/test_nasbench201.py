"""The NAS-Bench-201 supernet against PyTorch's, against the networks in it, and against its own smaller programs."""

import collections
import functools
import math
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import accounting
from dass_jax.architectures.nasbench201 import EDGES, OPERATIONS, of_key
from dass_jax.networks import nasbench201 as networks
from dass_jax.nn.layers import one_device
from dass_jax.nn.skeletons import Sizes
from dass_jax.spaces.nasbench201 import CELL, CHOICES, Fields, carried, decode, encode, from_fields, nasbench201, sample
from dass_jax.variables import BATCH_STATS, PARAMS, fan_in, flatten, layers, prunable, unflatten
from tests.spaces import compared

SIZES = Sizes(outputs=3, cells=1, channels=4)
IMAGE = (8, 12, 2)


random_variables, batch = (functools.partial(one, image=IMAGE) for one in (compared.random_variables, compared.batch))
gradients = functools.cache(functools.partial(compared.gradients, image=IMAGE))
WHOLE = nasbench201(SIZES)


@functools.cache
def applied(train: bool) -> Any:
    """The supernet, compiled once: (params, running statistics, choice, images) → (outputs, statistics)."""
    return jax.jit(functools.partial(WHOLE.apply, train=train))


@pytest.mark.usefixtures("x64")
def test_outputs_gradients_and_statistics_are_the_peers(random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks import torch_nasbench201 as peers

    params, stats = random_variables(WHOLE, random_like)
    choice = {CELL: np.random.default_rng(3).dirichlet(np.ones(5), 6)}
    images, labels = batch()
    ours, peer = flatten({PARAMS: params, BATCH_STATS: stats}), peers.supernet(*SIZES, images=IMAGE[2]).double()
    assert {peers.place(name, fused=True)[0] for name in peers.tensors(peer)} == set(ours)
    peers.load(peer, ours, fused=True)
    counts = peers.count_values(peer)
    (to_params, to_choice), (outputs, moved) = gradients(WHOLE.apply)(params, stats, choice)
    evaluated = applied(False)(params, stats, choice, images)[0]

    their_images = torch.from_numpy(np.moveaxis(images, -1, 0).copy())
    weights = torch.from_numpy(choice[CELL]).requires_grad_()
    np.testing.assert_allclose(evaluated, peer.eval()(their_images, weights).detach(), rtol=1e-8, atol=1e-8)
    their_outputs = peer.train()(their_images, weights)
    torch.nn.functional.cross_entropy(their_outputs, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(outputs, their_outputs.detach(), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(to_choice[CELL], weights.grad, rtol=1e-8, atol=1e-8)
    assert np.any(to_choice[CELL][:, 1:], axis=0).all()
    found = flatten({PARAMS: to_params, BATCH_STATS: moved})
    for name, parameter in peer.named_parameters():
        own = peers.at_place(name, found, fused=True).reshape(parameter.shape)
        np.testing.assert_allclose(own, parameter.grad, rtol=1e-8, atol=1e-8, err_msg=name)
        assert np.any(own), f"{name}: a gradient of zeros shows nothing"
    for name, buffer in peer.named_buffers():
        if name in counts or name.endswith("running_mean"):
            before, own = (peers.at_place(name, leaves, fused=True) for leaves in (ours, found))
            of_sample = counts[name] / (counts[name] - 1) if name in counts else 1
            wanted = 0.9 * before + (own - 0.9 * before) * of_sample
            np.testing.assert_allclose(buffer, wanted, rtol=1e-8, atol=1e-8, err_msg=name)


def of_cell(shapes: Any, mixed: dict[str, Any]) -> Any:
    """Variables of a network, copied out of the supernet's; BN scales 1 and offsets 0, which that does not have."""

    def own(path: str, leaf: Any) -> np.ndarray:
        name, index = path.rsplit("/", 1)[-1], ...
        if inside := re.fullmatch(r"(\w+/cell_\d+)/edge_(\d)_(\d)_(\w+?)/(norm|conv)/(?:conv/)?(\w+)", path):
            cell, target, source, operation, part, _ = inside.groups()
            path = f"{cell}/edges_{source}/{'norm_' if part == 'norm' else ''}{operation}/{name}"
            index = int(target) - int(source) - 1
        if name in ("scale", "bias") and path not in mixed:
            return np.full(leaf.shape, float(name == "scale"))
        return mixed[path][index]

    return unflatten({path: own(path, leaf) for path, leaf in flatten(shapes).items()})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("train", [True, False])
def test_the_supernet_at_the_encoding_of_a_cell_is_its_network(random_like: Any, train: bool) -> None:
    params, stats = random_variables(WHOLE, random_like)
    images, _ = batch()
    run, generator = applied(train), np.random.default_rng(5)
    for cell in [of_key("123431"), *(sample(generator) for _ in range(2))]:
        network = networks.nasbench201(cell, SIZES)
        shapes = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), IMAGE))
        own = of_cell(shapes, flatten({PARAMS: params, BATCH_STATS: stats}))
        chex.assert_trees_all_equal_shapes(own, shapes)
        wanted, _, _ = jax.jit(functools.partial(network.apply, train=train))(own[PARAMS], own[BATCH_STATS], images)
        chex.assert_shape(wanted, (5, 3))
        choice = {CELL: encode(cell)[CELL].astype(np.float64)}
        chex.assert_trees_all_close(run(params, stats, choice, images)[0], wanted, rtol=1e-8, atol=1e-8)


LIVE = np.zeros((6, 5), bool)
for row, columns in enumerate([(2, 3), (0, 1, 4), (3,), (3,), (), (2, 3, 4)]):
    LIVE[row, list(columns)] = True
"""Of the edges from node 0 one has both convolutions, one has one and one has none; one edge has no operation."""


@pytest.mark.usefixtures("x64")
def test_the_program_of_the_living_is_the_whole_program_with_weight_0_on_the_dead(random_like: Any) -> None:
    part = nasbench201(SIZES, live={CELL: LIVE})
    params, stats = random_variables(WHOLE, random_like)
    choice = {CELL: np.where(LIVE, np.random.default_rng(3).dirichlet(np.ones(5), 6), 0)}
    live = {CELL: LIVE}
    own = carried({PARAMS: params, BATCH_STATS: stats}, live)
    shapes = jax.eval_shape(lambda: part.init(jax.random.key(0), IMAGE))
    chex.assert_trees_all_equal_shapes(own, shapes)
    (to_params, to_choice), (outputs, moved) = gradients(WHOLE.apply)(params, stats, choice)
    found = gradients(part.apply)(own[PARAMS], own[BATCH_STATS], choice)
    wanted = (
        (carried(to_params, live), {CELL: np.where(LIVE, to_choice[CELL], 0)}),
        (outputs, carried(moved, live)),
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_dead_operations_leave_nothing_behind() -> None:
    def shapes(live: Any) -> dict[str, Any]:
        found = jax.eval_shape(lambda: nasbench201(SIZES, live=live).init(jax.random.key(0), IMAGE))
        return {path: leaf.shape for path, leaf in flatten(found).items() if "/edges_" in path and "cell_0" in path}

    assert len(shapes(None)) == 3 * 2 * 3
    assert shapes({CELL: LIVE}) == {
        "params/cell_0/edges_0/nor_conv_1x1/weight": (1, 4, 4),
        "params/cell_0/edges_0/nor_conv_3x3/weight": (2, 4, 4, 3, 3),
        "params/cell_0/edges_1/nor_conv_3x3/weight": (1, 4, 4, 3, 3),
        "params/cell_0/edges_2/nor_conv_1x1/weight": (1, 4, 4),
        "params/cell_0/edges_2/nor_conv_3x3/weight": (1, 4, 4, 3, 3),
        **{f"batch_stats/cell_0/edges_0/norm_nor_conv_1x1/{name}": (1, 4) for name in ("mean", "var")},
        **{f"batch_stats/cell_0/edges_0/norm_nor_conv_3x3/{name}": (2, 4) for name in ("mean", "var")},
        **{f"batch_stats/cell_0/edges_1/norm_nor_conv_3x3/{name}": (1, 4) for name in ("mean", "var")},
        **{f"batch_stats/cell_0/edges_2/norm_nor_conv_1x1/{name}": (1, 4) for name in ("mean", "var")},
        **{f"batch_stats/cell_0/edges_2/norm_nor_conv_3x3/{name}": (1, 4) for name in ("mean", "var")},
    }
    assert shapes({CELL: np.isin(np.arange(5), [0, 1, 4]) & np.ones((6, 1), bool)}) == {}


def test_what_is_carried_twice_is_what_is_carried_once() -> None:
    variables = jax.device_get(jax.jit(lambda key: WHOLE.init(key, IMAGE))(jax.random.key(0)))
    middle = LIVE | (np.random.default_rng(0).random(LIVE.shape) < 0.5)
    assert LIVE.sum() < middle.sum() < LIVE.size
    once = carried(variables, {CELL: LIVE})
    twice = carried(carried(variables, {CELL: middle}), {CELL: LIVE}, before={CELL: middle})
    chex.assert_trees_all_equal(once, twice)
    chex.assert_trees_all_equal(carried(variables, {CELL: np.ones((6, 5))}), variables)
    scores = {path: leaf for path, leaf in once[PARAMS].items() if path == "cell_0"}
    chex.assert_trees_all_equal(carried({"cell_0": variables[PARAMS]["cell_0"]}, {CELL: LIVE}), scores)


@pytest.mark.parametrize(
    ("live", "message"),
    [
        ({CELL: np.ones((5, 6))}, "live has the shapes {'cell': (5, 6)}; allowed: {'cell': (6, 5)}"),
        ({"normal": np.ones((6, 5))}, "live has the shapes {'normal': (6, 5)}; allowed: {'cell': (6, 5)}"),
    ],
)
def test_living_operations_of_another_space_are_refused(live: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        nasbench201(SIZES, live=live)
    with pytest.raises(ValueError, match=re.escape(message)):
        carried({}, live)


def test_an_operation_that_was_dead_cannot_be_carried() -> None:
    with pytest.raises(ValueError, match=re.escape("not in the program before: [[3, 1]]")):
        more = LIVE.copy()
        more[3, 1] = True
        carried({}, {CELL: more}, before={CELL: LIVE})


def test_choices_name_every_edge_and_operation() -> None:
    labels = CHOICES[CELL]
    assert labels.rows == ("1←0", "2←0", "2←1", "3←0", "3←1", "3←2") == tuple(f"{t}←{s}" for s, t in EDGES)
    assert (labels.columns, labels.shape) == (OPERATIONS, (6, 5))
    assert WHOLE.choices == CHOICES


def test_decode_takes_the_largest_weight_of_all_five_and_inverts_encode() -> None:
    for digits in np.random.default_rng(0).integers(5, size=(50, 6)):
        cell = of_key("".join(map(str, digits)))
        assert decode(encode(cell)) == cell
    weights = np.zeros((6, 5))
    weights[0] = [0.3, 0.2, 0.2, 0.1, 0.2]
    weights[1] = [0.2, 0.1, 0.1, 0.3, 0.3]  # tied
    weights[2, 4] = weights[3, 2] = weights[4, 1] = 0.1
    assert decode({CELL: jnp.asarray(weights)}) == of_key("034210")


def test_without_none_an_edge_has_the_best_of_the_others() -> None:
    fields = Fields(cells=1, channels=4, derive_none=False)
    space = from_fields(fields, SIZES.outputs, one_device, None)
    weights = np.full((6, 5), 0.1)
    weights[:, 0] = 0.5
    weights[np.arange(6), [1, 2, 3, 4, 3, 2]] = 0.2
    weights[5] = [1, 0, 0, 0, 0]  # nothing else is left
    assert decode({CELL: weights}) == of_key("000000")
    assert space.decode({CELL: jnp.asarray(weights)}) == of_key("123430")
    assert space.settle({CELL: weights}) == of_key("000000")
    for digits in np.random.default_rng(0).integers(5, size=(50, 6)):
        cell = of_key("".join(map(str, digits)))
        assert space.decode(encode(cell)) == cell


def test_samples_are_uniform() -> None:
    generator = np.random.default_rng(0)
    drawn = [sample(generator) for _ in range(3000)]
    for edge in range(6):
        counts = collections.Counter(cell[edge] for cell in drawn)
        assert counts.keys() == set(OPERATIONS)
        # Five standard deviations.
        assert all(abs(count - 600) < 5 * math.sqrt(3000 * 0.2 * 0.8) for count in counts.values())
    assert len(set(drawn)) > 2500
    assert drawn[:5] == [sample(again) for again in [np.random.default_rng(0)] for _ in range(5)]


def test_the_papers_supernet_has_the_published_weights_without_the_biases_of_its_convolutions() -> None:
    space = nasbench201(Sizes())
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), (32, 32, 3)))
    params = shapes[PARAMS]
    biases = 5 * 6 * 2 * (16 + 32 + 64)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 1_692_698 - biases
    stacks = prunable(params, space.rules)
    sizes: collections.Counter[int] = collections.Counter()
    for _, count, size in layers(params, stacks):
        sizes[size] += count
    wanted = collections.Counter({3 * 16 * 9: 1, 64 * 10: 1})
    for channels in (16, 32, 64):
        wanted.update({channels**2: 30, 9 * channels**2: 30})
    for channels in (16, 32):
        wanted.update({18 * channels**2: 1, 36 * channels**2: 1, 2 * channels**2: 1})
    assert sizes == wanted
    choice = {CELL: np.zeros((6, 5), np.float32)}
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    images = np.zeros((3, 32, 32, 1), np.float32)
    apply = functools.partial(space.apply, variables[PARAMS], variables[BATCH_STATS], choice, images, False)
    kept = accounting.kept_of_fraction(params, space.rules, 1.0)
    assert accounting.count(params, space.rules, kept, 1.0, apply).macs == 7_783_040 + 6 * (3_932_160 + 35_389_440)


def test_initial_weights_are_uniform_within_one_over_root_fan_in_of_each_layer() -> None:
    space = nasbench201(Sizes(cells=1))
    params = jax.device_get(jax.jit(lambda: space.init(jax.random.key(0), (8, 8, 3)))()[PARAMS])
    stacks = flatten(prunable(params, space.rules))
    for path in (path for path in stacks if "/edges_" in path):
        leaf, bound = flatten(params)[path], fan_in(flatten(params)[path].shape, 1) ** -0.5
        assert 0.9 * bound < np.abs(leaf).max() <= bound * (1 + 1e-6), path


@pytest.mark.usefixtures("x64")
def test_activations_of_another_dtype_leave_variables_and_outputs_wide(random_like: Any) -> None:
    half = nasbench201(SIZES, dtype=jnp.bfloat16)
    params, stats = random_variables(WHOLE, random_like)
    choice, (images, _) = {CELL: np.full((6, 5), 0.2)}, batch()
    wanted = applied(True)(params, stats, choice, images)
    found = jax.jit(functools.partial(half.apply, train=True))(params, stats, choice, images)
    assert found[0].dtype == jnp.float64
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    difference = np.abs(found[0] - wanted[0]).max() / np.abs(wanted[0]).max()
    assert 1e-5 < difference < 0.1
