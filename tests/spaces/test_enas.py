"""ENAS' spaces: the search's child networks and the final networks against PyTorch's, counts, and shared weights."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import accounting, count, variables
from dass_jax.architectures import enas_macro as macro_arcs
from dass_jax.architectures import enas_micro as micro_arcs
from dass_jax.errors import UserError
from dass_jax.networks import enas_macro as macro_networks
from dass_jax.networks import enas_micro as micro_networks
from dass_jax.spaces import SPACES, enas_macro, enas_micro
from dass_jax.tasks.classification import cross_entropy
from dass_jax.variables import BATCH_STATS, PARAMS, flatten, unflatten

IMAGE, CLASSES, CLOSE = (8, 12, 2), 3, {"rtol": 1e-8, "atol": 1e-8}
SPACES_HERE = {
    "enas_macro": enas_macro.enas_macro(enas_macro.Fields(layers=4, channels=4), CLASSES),
    "enas_micro": enas_micro.enas_micro(enas_micro.Fields(layers=1, channels=4), CLASSES),
}
NAMES = list(SPACES_HERE)
MACRO = macro_arcs.first_layers(macro_arcs.PUBLISHED["enas_macro"], 12)
MICRO = micro_arcs.PUBLISHED["enas_micro"]


def batch(image: tuple[int, int, int] = IMAGE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(image[2], *image[:2], 5)), rng.integers(CLASSES, size=5)


def values(init: Any, random_like: Any, image: tuple[int, int, int] = IMAGE) -> dict[str, Any]:
    """Random float64 leaves of a network, by path."""
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), image))
    stats = jax.tree.map(lambda x: np.abs(x) + 0.1, random_like(shapes[BATCH_STATS], 2))
    return flatten({PARAMS: random_like(shapes[PARAMS], 1), BATCH_STATS: stats})


@functools.cache
def child(name: str) -> tuple[Any, list[int]]:
    """(params, choice) → (loss's gradient by params, outputs), compiled, and how often it was traced."""
    traces: list[int] = []
    images, labels = batch()

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(params: Any, choice: Any) -> Any:
        traces.append(len(traces))
        outputs, _ = SPACES_HERE[name].apply(params, {}, choice, images, True)
        return cross_entropy(outputs, labels), outputs

    return run, traces


def peers_child(name: str, peers: Any, v: Any, arc: Any, x: Any) -> Any:
    if name == "enas_macro":
        return peers.macro_child(v, *arc, macro_arcs.pools(4), x)
    return peers.micro_child(v, arc, 1, micro_arcs.reductions(1), 4, x)


def torch_values(torch: Any, ours: dict[str, Any]) -> dict[str, Any]:
    return {path: torch.tensor(np.asarray(x), requires_grad=path.startswith(PARAMS)) for path, x in ours.items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
def test_children_are_the_peers_in_one_program_and_move_what_they_are_made_of(name: str, random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks import torch_enas as peers

    space, generator = SPACES_HERE[name], np.random.default_rng(3)
    ours = values(space.init, random_like)
    params = unflatten(ours)[PARAMS]
    run, traces = child(name)
    parts, (images, labels) = jax.jit(space.sampled.moving), batch()
    for number in range(50):
        arc = space.sample(generator)
        found, outputs = run(params, space.encode(arc))
        if number >= 4:
            continue
        theirs = torch_values(torch, ours)
        their_images = torch.from_numpy(np.moveaxis(images, -1, 0).copy())
        wanted = peers_child(name, peers, peers.Variables(theirs), arc, their_images)
        np.testing.assert_allclose(outputs, wanted.detach(), **CLOSE)
        torch.nn.functional.cross_entropy(wanted, torch.from_numpy(labels)).backward()
        moving = flatten({PARAMS: parts(params, space.encode(arc))})
        for path, gradient in flatten({PARAMS: jax.tree.map(np.asarray, found)}).items():
            peer = theirs[path].grad
            np.testing.assert_allclose(gradient, np.zeros_like(gradient) if peer is None else peer, **CLOSE)
            there = np.broadcast_to(_spread(moving[path], gradient), gradient.shape)
            assert np.all(gradient[~there] == 0), path
            if path.endswith("weight"):
                assert np.any(gradient) == np.any(there), path
    assert traces == [0]


def _spread(mask: Any, leaf: Any) -> np.ndarray:
    return np.asarray(mask).reshape(*np.shape(mask), *(1,) * (np.ndim(leaf) - np.ndim(mask)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_of_plain_numbers_is_a_program_of_its_own(name: str, random_like: Any) -> None:
    space, (images, _) = SPACES_HERE[name], batch()
    params = unflatten(values(space.init, random_like))[PARAMS]
    choice = space.encode(space.sample(np.random.default_rng(7)))
    plain = {part: tuple(x.tolist()) for part, x in choice.items()}
    program = jax.jit(lambda params: space.apply(params, {}, plain, images, True)[0])
    assert "cond" not in str(jax.make_jaxpr(program)(params))
    np.testing.assert_allclose(program(params), child(name)[0](params, choice)[1], rtol=1e-12, atol=1e-12)


NETWORKS = {
    "macro": (macro_arcs.of_flat([1, 4, 1, 3, 0, 1, 5, 1, 0, 1]), macro_networks.Fields(4)),
    "macro, separable and legacy": (
        macro_arcs.of_flat([1, 2, 1, 3, 0, 0, 0, 0, 0, 0]),
        macro_networks.Fields(4, separable=True, legacy=True),
    ),
    # Of the reduction's inputs one has all five operations with stride 2; the other one is put out, reduced.
    "micro": (
        micro_arcs.Arc(
            (0, 4, 1, 3, 1, 2, 2, 1, 3, 0, 0, 4, 4, 4, 2, 3, 5, 1, 1, 0),
            (0, 4, 0, 2, 0, 0, 0, 3, 0, 1, 2, 4, 2, 1, 2, 3, 2, 0, 3, 1),
        ),
        micro_networks.Fields(layers=1, channels=4),
    ),
}


def model_of(arc: Any, fields: Any) -> Any:
    make = macro_networks.enas_macro if isinstance(arc, macro_arcs.Arc) else micro_networks.enas_micro
    return make(arc, fields, CLASSES)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", NETWORKS)
def test_final_networks_are_the_peers(case: str, random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks import torch_enas as peers

    arc, fields = NETWORKS[case]
    model, auxiliary = model_of(arc, fields), getattr(fields, "auxiliary", False)
    image = (32, 32, 2) if auxiliary else IMAGE
    ours = values(model.init, random_like, image)
    images, labels = batch(image)
    scale = np.random.default_rng(4).integers(0, 2, (*model.paths, 5)) * 1.25 if case.startswith("micro") else None

    def peer(theirs: Any, train: bool) -> Any:
        v, x = peers.Variables(theirs, train), torch.from_numpy(np.moveaxis(images, -1, 0).copy())
        if case.startswith("macro"):
            found = peers.macro_network(v, *arc, macro_arcs.pools(4), fields.separable, x), None
        else:
            their_scale = torch.from_numpy(scale) if train else None
            found = peers.micro_network(v, arc, 1, micro_arcs.reductions(1), 4, their_scale, x)
        return found

    @jax.jit
    def run(params: Any, stats: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, second, _ = model.apply(params, stats, images, True, scale)
            total = cross_entropy(outputs, labels)
            return total if second is None else total + 0.4 * cross_entropy(second, labels), (outputs, second)

        return jax.grad(loss, has_aux=True)(params), model.apply(params, stats, images, False)[0]

    v = unflatten(ours)
    (gradients, (outputs, second)), evaluated = run(v[PARAMS], v.get(BATCH_STATS, {}))
    assert (second is not None) == auxiliary
    theirs = torch_values(torch, ours)
    np.testing.assert_allclose(evaluated, peer(theirs, False)[0].detach(), **CLOSE)
    wanted, wanted_second = peer(theirs, True)
    np.testing.assert_allclose(outputs, wanted.detach(), **CLOSE)
    total = torch.nn.functional.cross_entropy(wanted, torch.from_numpy(labels))
    if auxiliary:
        np.testing.assert_allclose(second, wanted_second.detach(), **CLOSE)
        total = total + 0.4 * torch.nn.functional.cross_entropy(wanted_second, torch.from_numpy(labels))
    total.backward()
    for path, gradient in flatten({PARAMS: gradients}).items():
        own = theirs[path].grad
        np.testing.assert_allclose(gradient, np.zeros_like(gradient) if own is None else own, err_msg=path, **CLOSE)


CIFAR = count.DATASETS["cifar10"]


def figures(found: accounting.Count) -> tuple[int, int, int, int]:
    return found.prunable, found.total - found.prunable, found.total, found.macs


def test_counts_of_supernets_are_the_published_builders() -> None:
    macro = count.supernet_count("enas_macro", enas_macro.Fields(), CIFAR, 1.0)
    assert figures(macro) == (687_348, 10_512, 697_860, 302_607_720)
    micro = count.supernet_count("enas_micro", enas_micro.Fields(), CIFAR, 1.0)
    assert figures(micro)[:3] == (5_243_620, 129_520, 5_373_140)


@pytest.mark.parametrize(
    ("arc", "fields", "wanted"),
    [
        (MACRO, macro_networks.Fields(legacy=True), (2_287_260, 9_360, 2_296_620, 361_969_056)),
        (MACRO, macro_networks.Fields(), (2_276_892, 9_072, 2_285_964, 361_305_504)),
        (MICRO, micro_networks.Fields(), (3_849_444, 44_928, 3_894_372, 620_907_552)),
        (MICRO, micro_networks.Fields(layers=6, channels=20), (596_180, 12_360, 608_540, 102_404_000)),
    ],
)
def test_counts_of_networks_are_the_published_builders(arc: Any, fields: Any, wanted: tuple[int, ...]) -> None:
    name = "enas_macro" if arc is MACRO else "enas_micro"
    assert figures(count.network_count(name, arc, fields, CIFAR, 1.0)) == wanted


def test_the_auxiliary_head_and_the_dropping_of_paths_are_the_published_ones() -> None:
    def parts(auxiliary: bool) -> dict[str, int]:
        model = micro_networks.enas_micro(MICRO, micro_networks.Fields(auxiliary=auxiliary), 10)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), (32, 32, 3)))
        return {path: math.prod(leaf.shape) for path, leaf in flatten(shapes[PARAMS]).items()}

    cells = micro_networks.enas_micro(MICRO, micro_networks.Fields(), 10).drops
    np.testing.assert_allclose(
        [1 - 0.4 * cells[n][0][0] for n in (0, 5, 11, 16)], [0.97647, 0.85882, 0.71765, 0.6], atol=1e-5
    )
    without = parts(False)
    beside = {path: size for path, size in parts(True).items() if path not in without}
    weights = sum(size for path, size in beside.items() if path.endswith("weight"))
    assert (weights, sum(beside.values()) - weights) == (493_056, 1_792)


@functools.cache
def published_space(name: str) -> tuple[Any, Any, Any]:
    """(space, shapes of its parameters, which parts of them move by the choice)."""
    space = SPACES[name].make(SPACES[name].schema(), 10, lambda tree: tree, None)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), (32, 32, 3)))[PARAMS]
    return space, shapes, jax.jit(functools.partial(space.sampled.moving, shapes))


def alive(name: str, arc: Any) -> dict[str, int]:
    """The sizes of a child network's leaves, by path."""
    space, shapes, parts = published_space(name)
    moving = flatten(jax.tree.map(np.asarray, parts(space.encode(arc))))
    return {path: round(math.prod(leaf.shape) * float(moving[path].mean())) for path, leaf in flatten(shapes).items()}


def weights(sizes: dict[str, int]) -> int:
    return sum(size for path, size in sizes.items() if path.endswith("weight"))


def counts(name: str, arc: Any) -> tuple[int, int, int]:
    """Weights, BN scales and offsets, and multiply-accumulates of a child network."""
    (space, shapes, _), sizes = published_space(name), alive(name, arc)

    def forward() -> Any:
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
        return space.apply(params, {}, space.encode(arc), jnp.zeros((3, 32, 32, 1)), True)[0]

    uses = accounting.macs_per_weight(shapes, space.rules, forward)
    return weights(sizes), sum(sizes.values()) - weights(sizes), sum(uses[path] * sizes[path] for path in uses)


def test_counts_of_children_are_the_closed_form() -> None:
    assert counts("enas_macro", MACRO) == (248_400, 3_528, 98_715_240)
    assert counts("enas_micro", MICRO) == (518_180, 11_120, 81_101_600)
    # Without skips; reductions of maps that nothing reads are no part of a child.
    chain = [macro_arcs.Arc((k,) * 12, tuple((0,) * n for n in range(12))) for k in range(6)]
    assert [weights(alive("enas_macro", arc)) for arc in chain] == [159_444, 38_916, 408_276, 45_828, 19_476, 19_476]


@pytest.mark.parametrize("name", NAMES)
def test_choices_are_architectures_and_uniform(name: str) -> None:
    space, generator = SPACES_HERE[name], np.random.default_rng(0)
    drawn = [space.sample(generator) for _ in range(400)]
    assert len(set(drawn)) > 390
    for arc in drawn[:20]:
        assert space.decode(space.encode(arc)) == arc == space.settle(space.encode(arc))
    traced = jax.jit(lambda keys: jax.lax.map(space.sampled.uniform, keys))(jax.random.split(jax.random.key(0), 400))
    for part, labels in space.choices.items():
        assert labels.zeros.shape == (len(labels.rows),) and labels.zeros.dtype == np.int32
        for rows in (np.stack([space.encode(arc)[part] for arc in drawn]), np.asarray(traced[part])):
            for row, most in zip(rows.T, labels.allowed, strict=True):
                counts = np.bincount(row, minlength=most)
                assert len(counts) == most and np.all(np.abs(counts - 400 / most) < 5 * np.sqrt(400 / most)), part


def test_nodes_are_unused_as_often_as_uniform_inputs_say() -> None:
    generator = np.random.default_rng(0)
    drawn = [SPACES_HERE["enas_micro"].sample(generator).normal for _ in range(4000)]
    shares = [np.mean([node in micro_arcs.unused(cell) for cell in drawn]) for node in range(7)]
    np.testing.assert_allclose(shares, [1 / 36, 1 / 36, 1 / 9, 1 / 4, 4 / 9, 25 / 36, 1], atol=0.04)
    assert abs(np.mean([len(micro_arcs.unused(cell)) for cell in drawn]) - 2.5556) < 0.05


def test_odd_channels_are_one_line() -> None:
    for check, table in ((SPACES["enas_macro"].check, "space"), (SPACES["enas_micro"].check, "space")):
        with pytest.raises(UserError) as caught:
            check(enas_macro.Fields(channels=5))
        assert str(caught.value) == f"{table}.channels = 5; allowed: an even number, as reductions have two halves"
    with pytest.raises(UserError, match=r"network\.auxiliary = true on a feature map of 2 pixels"):
        micro_networks.check(micro_networks.Fields(), (8, 8, 1))


def test_rules_cover_every_leaf() -> None:
    for space in SPACES_HERE.values():
        shapes = jax.eval_shape(lambda space=space: space.init(jax.random.key(0), IMAGE))[PARAMS]
        stacks = flatten(variables.prunable(shapes, space.rules))
        assert all((path in stacks) == path.endswith("weight") for path in flatten(shapes))
