"""DSO-NAS' mobile space: supernet and network against PyTorch's, its counts, its smaller programs, and what operations
cost by a table of latencies."""

import functools
import json
import pathlib
import re
from typing import Any

import chex
import jax
import numpy as np
import pytest

from dass_jax import compose, config, count, networks
from dass_jax.architectures import mobile as family
from dass_jax.architectures.mobile import OPERATIONS, Mobile
from dass_jax.errors import UserError
from dass_jax.networks import mobile as derived
from dass_jax.nn.mobile_blocks import Sizes, places
from dass_jax.spaces import SPACES, latencies
from dass_jax.spaces import mobile as space_of
from dass_jax.spaces.mobile import BLOCKS, Fields, mobile
from dass_jax.variables import BATCH_STATS, PARAMS, flatten, unflatten
from tests.spaces import compared

IMAGE = (10, 9, 2)
SMALL = Fields(stages=(2, 1), width=0.2, stem="cifar")
"""8, 8; 8, 8 and 16 channels: the first stage has a block that adds its input."""
LEFT = Mobile((("k3e3", "k5e6"), ("k3e6", "k7e3"), ("k5e3", "k7e6")))
"""Each operation once: of few a program is compiled in a third of the time."""
FOUND = Mobile((("k5e6",), ("k3e6", "k7e3"), ("k7e6",)))


def live_of(a: Mobile) -> dict[str, np.ndarray]:
    return {name: matrix > 0 for name, matrix in space_of.encode(SMALL, a).items()}


random_variables, batch, gradients = (
    functools.partial(one, image=IMAGE) for one in (compared.random_variables, compared.batch, compared.gradients)
)


@functools.cache
def whole() -> Any:
    space = mobile(SMALL, 3, live=live_of(LEFT))
    return space, gradients(space.apply)


def random_choice() -> dict[str, np.ndarray]:
    return {BLOCKS: live_of(LEFT)[BLOCKS] * np.random.default_rng(3).uniform(0.2, 1.5, (3, 6))}


@pytest.mark.usefixtures("x64")
def test_outputs_gradients_and_statistics_are_the_peers(random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks.torch_mobile import Net

    space, step = whole()
    params, stats = random_variables(space, random_like)
    choice, (images, labels) = random_choice(), batch()
    (to_params, to_choice), (outputs, moved) = step(params, stats, choice)

    values = {path: torch.from_numpy(leaf) for path, leaf in flatten({PARAMS: params, BATCH_STATS: stats}).items()}
    trained = {path: value.requires_grad_() for path, value in values.items() if path.startswith("params")}
    theirs = torch.from_numpy(choice[BLOCKS].copy()).requires_grad_()
    peer = Net({**values, **trained}, True)
    their_images = torch.from_numpy(np.moveaxis(images, -1, 0).copy())
    given = SMALL.stages, LEFT.blocks, lambda block, name: theirs[block, OPERATIONS.index(name)], 1
    their_outputs = peer(their_images, *given)
    torch.nn.functional.cross_entropy(their_outputs, torch.from_numpy(labels)).backward()

    np.testing.assert_allclose(outputs, their_outputs.detach(), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(to_choice[BLOCKS], theirs.grad, rtol=1e-8, atol=1e-8)
    assert ((np.abs(to_choice[BLOCKS]) > 1e-6) == live_of(LEFT)[BLOCKS]).all()
    found = flatten({PARAMS: to_params, BATCH_STATS: moved})
    assert {**peer.moved, **trained}.keys() == found.keys()
    assert not [path for path in found if path.endswith("project/norm/scale") and path.startswith("params/block")]
    for path, value in {**peer.moved, **{path: value.grad for path, value in trained.items()}}.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-8, atol=1e-8, err_msg=path)


@pytest.mark.usefixtures("x64")
def test_the_network_is_the_peers(random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks.torch_mobile import Net

    c = derived.Fields("cpu", SMALL.stages, SMALL.width)
    model = networks.NETWORKS["mobile"].make(FOUND, c, 3, False, lambda x: x, None)
    image = (20, 18, 2)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    params, stats = random_like(shapes[PARAMS], 1), jax.tree.map(np.abs, random_like(shapes[BATCH_STATS], 2))
    images = np.random.default_rng(1).normal(size=(2, *image[:2], 5))
    values = {path: torch.from_numpy(leaf) for path, leaf in flatten({PARAMS: params, BATCH_STATS: stats}).items()}
    for train in (True, False):
        found, auxiliary, moved = jax.jit(functools.partial(model.apply, train=train))(params, stats, images)
        peer = Net(values, train)
        wanted = peer(torch.from_numpy(np.moveaxis(images, -1, 0).copy()), c.stages, FOUND.blocks, lambda *_: 1)
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)
        for path, value in peer.moved.items():
            np.testing.assert_allclose(flatten({BATCH_STATS: moved})[path], value, rtol=1e-8, atol=1e-8)
        assert auxiliary is None and (len(peer.moved) > 0) == train


@pytest.mark.usefixtures("x64")
def test_at_the_encoding_of_an_architecture_the_supernet_is_its_network(random_like: Any) -> None:
    """Whose scales of BN are 1 where the supernet has none."""
    space, step = whole()
    params, stats = random_variables(space, random_like)
    own = flatten(space.carried({PARAMS: params, BATCH_STATS: stats}, live_of(FOUND), live_of(LEFT)))
    model = derived.mobile(FOUND, derived.Fields(stages=SMALL.stages, width=SMALL.width, stem=SMALL.stem), 3)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE))
    values = unflatten({path: own.get(path, np.ones(leaf.shape)) for path, leaf in flatten(shapes).items()})
    assert own.keys() <= flatten(shapes).keys()
    chex.assert_trees_all_equal_shapes(values, shapes)
    _, (found, _) = step(params, stats, space.encode(FOUND))
    wanted, _, _ = jax.jit(functools.partial(model.apply, train=True))(values[PARAMS], values[BATCH_STATS], batch()[0])
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_the_program_of_the_living_is_the_whole_program_with_factor_0_on_the_dead(random_like: Any) -> None:
    space, step = whole()
    params, stats = random_variables(space, random_like)
    live = live_of(FOUND)

    def part_of(tree: Any) -> Any:
        return space.carried(tree, live, live_of(LEFT))

    part = mobile(SMALL, 3, live=live)
    own = part_of({PARAMS: params, BATCH_STATS: stats})
    chex.assert_trees_all_equal_shapes(own, jax.eval_shape(lambda: part.init(jax.random.key(0), IMAGE)))
    choice = {BLOCKS: np.where(live[BLOCKS], random_choice()[BLOCKS], 0)}
    (to_params, to_choice), (outputs, moved) = step(params, stats, choice)
    found = gradients(part.apply)(own[PARAMS], own[BATCH_STATS], choice)
    to_living = {BLOCKS: np.where(live[BLOCKS], to_choice[BLOCKS], 0)}
    wanted = (part_of(to_params), to_living), (outputs, part_of(moved))
    chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=re.escape("operations that were not in the program before")):
        space.carried(params, live_of(space.whole), live)


@pytest.mark.parametrize(
    ("block", "total", "macs"),
    [
        (OPERATIONS, 27_684_320, 3_985_747_872),
        (("k3e3",), 5_151_552, 460_908_960),
        (("k7e6",), 8_382_408, 1_036_673_856),
    ],
)
def test_counts_of_the_gpu_backbone_are_exact(block: tuple[str, ...], total: int, macs: int) -> None:
    found = count.network_count("mobile", Mobile((block,) * 21), derived.Fields(), count.DATASETS["imagenet"], 1.0)
    assert (found.total, found.macs) == (total, macs)


def test_the_papers_blocks_are_21_at_11_places_of_six_operations_15_of_which_add_their_input() -> None:
    own = places(Sizes(), (224, 224))
    assert (len(own), len(set(own))) == (21, 11)
    assert sum(place.stride == 1 and place.before == place.channels for place in own) == 15
    assert own[0] == ((112, 112), 24, 32, 2, 1) and own[-1] == ((7, 7), 256, 432, 1, 1)
    assert [place.channels for place in places(Sizes(backbone="cpu"), (224, 224))[3::4]] == [32, 48, 88, 104, 216]
    timed = SPACES["mobile"].timed(Fields(), 1000, (224, 224, 3))
    assert len(timed.parts) == 66
    uses = timed.uses(Mobile((("k3e3",),) * 21))
    assert sum(uses.values()) == 21 and len(uses) == 11 and uses["k3e3, 32→32 channels, 56×56, stride 1"] == 3


def test_decode_keeps_what_is_positive_and_settle_the_largest() -> None:
    factors = np.array([[0, 0.2, 0, 0.3, 0, 0], [-1, -2, -0.5, -3, -4, -5], [1, 1, 1, 1, 1, 1]])
    assert space_of.decode({BLOCKS: factors}) == Mobile((("k3e6", "k5e6"), ("k5e3",), OPERATIONS))
    assert space_of.settle({BLOCKS: factors}) == Mobile((("k5e6",), ("k5e3",), ("k3e3",)))
    assert space_of.decode(space_of.encode(SMALL, FOUND)) == FOUND
    drawn = {space_of.sample(SMALL, np.random.default_rng(seed)) for seed in range(40)}
    assert len(drawn) > 30 and {name for a in drawn for name in a.blocks[1]} == set(OPERATIONS)
    with pytest.raises(UserError, match=r"^architecture: 2 blocks; allowed: 3, as the space's fields say"):
        space_of.encode(SMALL, family.whole(2))
    with pytest.raises(
        UserError, match=r"network.stages = \(3,\) with an architecture of 2 blocks; allowed: stages of"
    ):
        derived.mobile(family.whole(2), derived.Fields(stages=(3,)), 3)


def table(root: pathlib.Path, milliseconds: Any = None, image: Any = IMAGE) -> pathlib.Path:
    """Of `SMALL`: by default the operation's place in the order of all."""
    parts = space_of.timed(SMALL, 3, IMAGE).parts
    entries = {name: float(n) for n, name in enumerate(parts)} if milliseconds is None else milliseconds
    root.mkdir(exist_ok=True)
    file = root / "table.json"
    file.write_text(json.dumps({"image": list(image), "entries": entries, "rest": 1.0}), encoding="utf-8")
    return file


def test_eq_19_gives_what_saves_most_the_largest_penalty() -> None:
    """Of a network of 10 ms that takes 8 without the first connection and 9.5 without the second."""
    found = latencies.penalties(np.array([2.0, 0.5, 1.25, 99.0]), np.array([True, True, True, False]))
    np.testing.assert_allclose(found, [1, 0.5, 0.75, 1], rtol=1e-6)
    alone = latencies.penalties(np.array([2.0, 0.5]), np.array([True, False]))
    np.testing.assert_allclose(alone, [0.5, 1])


def test_operations_cost_what_the_table_says_and_the_last_of_a_block_nothing(tmp_path: pathlib.Path) -> None:
    c = Fields(stages=SMALL.stages, width=SMALL.width, stem=SMALL.stem, latency=str(table(tmp_path)))
    factors = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0.1, 0, 0, 0], [0, 1, 1, 0, 0, 1]], np.float32)
    found = {name: np.asarray(cost({BLOCKS: factors})[BLOCKS]) for name, cost in mobile(c, 3).costs.items()}
    np.testing.assert_array_equal(found["uniform"], [[1] * 6, [0] * 6, [1] * 6])
    # Live are the entries 0 and 3; 8 of the second block, which is its last; 13, 14 and 17 of the third.
    wanted = [[0.5, 1, 1, 0.5 + 3 / 34, 1, 1], [0] * 6, [1, 0.5 + 13 / 34, 0.5 + 14 / 34, 1, 1, 1]]
    np.testing.assert_allclose(found["latency"], wanted, rtol=1e-6)
    assert list(mobile(SMALL, 3).costs) == ["uniform"]


DIGITS = {
    "controls": [],
    "data": {"source": "digits", "crop_padding": 1},
    "space": {"name": "mobile", "stages": [2, 1], "width": 0.2, "stem": "cifar"},
    "method": {"name": "dso", "epochs": 2, "batch_size": 8, "budget": "latency"},
    "network": {"stages": [2, 1], "width": 0.2, "stem": "cifar"},
    "train": {"recipe": "dense", "batch_size": 8},
}


@pytest.mark.parametrize(
    ("image", "entries", "message"),
    [
        ((10, 9, 2), None, "is for images of 10×9×2; allowed: of 8×8×1, as the data have"),
        ((8, 8, 1), {}, "has no 'k3e3, 8→8 channels, 8×8, stride 2'; allowed: a table of this space at these sizes"),
        ((8, 8, 1), [], "cannot be read (AttributeError: 'list' object has no attribute 'items'); allowed: a file of"),
        (
            None,
            None,
            "method.budget = 'latency' in this space; allowed: uniform, latency with a table as space.latency",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(image: Any, entries: Any, message: str, tmp_path: pathlib.Path) -> None:
    space = DIGITS["space"] if image is None else {**DIGITS["space"], "latency": str(table(tmp_path, entries, image))}
    with pytest.raises(UserError) as caught:
        compose.setting(config.from_dict({**DIGITS, "space": space}))
    assert message in str(caught.value) and str(caught.value).startswith(("space.latency = ", "method.budget = "))


@pytest.mark.parametrize("stages", [(), (1,) * 7])
def test_stages_are_one_to_six(stages: tuple[int, ...]) -> None:
    for check, name in ((lambda: space_of.check(Fields(stages=stages)), "space"),
                        (lambda: derived.check(derived.Fields(stages=stages), IMAGE), "network")):  # fmt: skip
        with pytest.raises(UserError) as caught:
            check()
        assert str(caught.value) == f"{name}.stages = {stages}; allowed: 1 to 6 numbers of blocks"
