"""DSO-NAS' supernet against PyTorch's and the derived network, its smaller programs, and what its connections cost."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import accounting, networks
from dass_jax.architectures.dso import BRANCHES, Blocks, connections, living, swept, targets
from dass_jax.networks import dso as derived
from dass_jax.nn.level_blocks import columns
from dass_jax.spaces import dso as space_of
from dass_jax.spaces.dso import Fields, dso
from dass_jax.variables import BATCH_STATS, PARAMS, flatten, unflatten
from tests.spaces import compared
from tests.spaces.dso_blocks import FULL, SMALL, drawn

IMAGE = (10, 9, 2)


def random_choice(c: Fields, seed: int = 3) -> dict[str, np.ndarray]:
    """Positive factors on every connection."""
    rng = np.random.default_rng(seed)
    everything = space_of.encode(c, space_of.everything(c))
    return {name: matrix * rng.uniform(0.2, 1.5, matrix.shape) for name, matrix in everything.items()}


random_variables, batch, gradients = (
    functools.partial(one, image=IMAGE) for one in (compared.random_variables, compared.batch, compared.gradients)
)


@functools.cache
def whole(c: Fields) -> Any:
    space = dso(c, 3)
    return space, gradients(space.apply)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [SMALL, FULL], ids=["share", "full"])
def test_outputs_gradients_and_statistics_are_the_peers(c: Fields, random_like: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed (pip install torch==2.13.0)")
    from tests.networks.torch_dso import Net

    space, step = whole(c)
    params, stats = random_variables(space, random_like)
    choice, (images, labels) = random_choice(c), batch()
    (to_params, to_choice), (outputs, moved) = step(params, stats, choice)

    values = {path: torch.from_numpy(leaf) for path, leaf in flatten({PARAMS: params, BATCH_STATS: stats}).items()}
    trained = {path: value.requires_grad_() for path, value in values.items() if path.startswith("params")}
    theirs = {name: torch.from_numpy(matrix.copy()).requires_grad_() for name, matrix in choice.items()}
    sizes = c.levels, len(c.operations)
    rows, named = targets(*sizes), columns(*sizes)

    def factor(block: int, source: str, target: str) -> Any:
        return theirs["block" if c.scope == "share" else f"block {block}"][rows.index(target), named.index(source)]

    branches = [[(name, theirs["reductions"][i, j]) for j, name in enumerate(BRANCHES)] for i in range(1)]
    peer = Net({**values, **trained}, True)
    their_images = torch.from_numpy(np.moveaxis(images, -1, 0).copy())
    blocks = [connections(*sizes)] * sum(c.stages)
    their_outputs = peer(their_images, c.stages, c.operations, blocks, factor, branches)
    torch.nn.functional.cross_entropy(their_outputs, torch.from_numpy(labels)).backward()

    np.testing.assert_allclose(outputs, their_outputs.detach(), rtol=1e-8, atol=1e-8)
    for name, matrix in theirs.items():
        np.testing.assert_allclose(to_choice[name], matrix.grad, rtol=1e-8, atol=1e-8)
        assert (np.asarray(to_choice[name] != 0) == (choice[name] > 0)).all()
    found = flatten({PARAMS: to_params, BATCH_STATS: moved})
    assert {**peer.moved, **trained}.keys() == found.keys()
    for path, value in trained.items():
        np.testing.assert_allclose(found[path], value.grad, rtol=1e-8, atol=1e-8, err_msg=path)
    for path, value in peer.moved.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-8, atol=1e-8, err_msg=path)


@pytest.mark.usefixtures("x64")
def test_no_loss_changes_with_the_common_scale_of_what_an_operation_or_the_output_reads(
    random_like: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Σ λ ∂L/∂λ = 0 over the connections into a node: behind them is a BN, and its ε is 0 here. Not of reductions."""
    monkeypatch.setattr(space_of, "EPSILON", 0.0)
    space = dso(SMALL, 3)
    choice = random_choice(SMALL)
    (_, to_choice), _ = gradients(space.apply)(*random_variables(space, random_like), choice)
    slopes = choice["block"] * np.asarray(to_choice["block"])
    assert (np.abs(slopes).sum(1) > 1e-4).all()
    np.testing.assert_allclose(slopes.sum(1), 0, atol=1e-12)
    assert abs((choice["reductions"] * to_choice["reductions"]).sum()) > 1e-4


def live_of(c: Fields, a: Blocks) -> dict[str, np.ndarray]:
    return {name: matrix > 0 for name, matrix in space_of.encode(c, a).items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("c", [SMALL, FULL], ids=["share", "full"])
def test_at_the_encoding_of_an_architecture_the_supernet_is_its_network(c: Fields, random_like: Any) -> None:
    """Whose scales of BN are 1 where the supernet has none."""
    space, step = whole(c)
    params, stats = random_variables(space, random_like)
    a = drawn(c, 5)
    assert 0 < sum(map(len, a.blocks)) < 0.6 * sum(map(len, space.whole.blocks))
    own = flatten(space_of.carried(c, {PARAMS: params, BATCH_STATS: stats}, live_of(c, a)))
    model = networks.NETWORKS["dso"].make(a, derived.Fields(c.stages, c.channels), 3, False, lambda x: x, None)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE))
    values = unflatten({path: own.get(path, np.ones(leaf.shape)) for path, leaf in flatten(shapes).items()})
    assert own.keys() <= flatten(shapes).keys()
    chex.assert_trees_all_equal_shapes(values, shapes)
    _, (found, _) = step(params, stats, space.encode(a))
    apply = jax.jit(functools.partial(model.apply, train=True))
    wanted, _, _ = apply(values[PARAMS], values[BATCH_STATS], batch()[0])
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_the_program_of_the_living_is_the_whole_program_with_factor_0_on_the_dead(random_like: Any) -> None:
    space, step = whole(SMALL)
    params, stats = random_variables(space, random_like)
    live = live_of(SMALL, drawn(SMALL, 5))
    part = dso(SMALL, 3, live=live)
    own = space.carried({PARAMS: params, BATCH_STATS: stats}, live)
    chex.assert_trees_all_equal_shapes(own, jax.eval_shape(lambda: part.init(jax.random.key(0), IMAGE)))
    choice = {name: np.where(live[name], matrix, 0) for name, matrix in random_choice(SMALL).items()}
    (to_params, to_choice), (outputs, moved) = step(params, stats, choice)
    found = gradients(part.apply)(own[PARAMS], own[BATCH_STATS], choice)
    to_living = {name: np.where(live[name], matrix, 0) for name, matrix in to_choice.items()}
    wanted = (space.carried(to_params, live), to_living), (outputs, space.carried(moved, live))
    chex.assert_trees_all_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found))


@pytest.mark.usefixtures("x64")
def test_blocks_are_recomputed_in_the_backward_pass_if_asked_for() -> None:
    def text(remat: bool) -> str:
        space = dso(Fields(levels=1, operations=("sep3",), stages=(1,), channels=2, remat=remat), 3)
        v = jax.eval_shape(lambda: space.init(jax.random.key(0), IMAGE))
        return str(jax.make_jaxpr(gradients(space.apply))(v[PARAMS], v[BATCH_STATS], space.encode(space.whole)))

    assert "remat" in text(True) and "remat" not in text(False)


def test_dead_operations_leave_nothing_behind() -> None:
    left = (("1.0", "2.1"), ("2.1", "out"), ("1.0", "out"))
    a = space_of.everything(FULL)._replace(blocks=(swept(left, 2, 2), (), connections(2, 2)), reductions=(("1x1",),))
    shapes = jax.eval_shape(lambda: dso(FULL, 3, live=live_of(FULL, a)).init(jax.random.key(0), IMAGE))
    paths = flatten(shapes[PARAMS])
    assert {
        path: leaf.shape for path, leaf in paths.items() if path.startswith(("block_0", "block_1", "reduction"))
    } == {
        "block_0/op_1_0/norm/bias": (2,),
        "block_0/op_2_1/depthwise/conv/weight": (2, 3, 3),
        "block_0/op_2_1/pointwise/conv/weight": (2, 2),
        "block_0/op_2_1/norm/bias": (2,),
        "block_0/shortcut/conv/conv/weight": (2, 2),
        "block_0/shortcut/norm/bias": (2,),
        "block_0/outputs/conv/weight": (2, 4),
        "block_0/norm/scale": (2,),
        "block_0/norm/bias": (2,),
        "reduction_0/conv_1x1/conv/conv/weight": (4, 2),
        "reduction_0/conv_1x1/norm/bias": (4,),
    }
    assert paths["block_2/outputs/conv/weight"].shape == (4, 16)


def test_what_is_carried_twice_is_what_is_carried_once() -> None:
    space, rng = dso(FULL, 3), np.random.default_rng(0)
    variables = jax.device_get(jax.jit(lambda key: space.init(key, IMAGE))(jax.random.key(0)))
    everything = live_of(FULL, space.whole)
    chex.assert_trees_all_equal(space.carried(variables, everything), variables)
    least = live_of(FULL, drawn(FULL, 7))
    middle = {name: (least[name] | (rng.random(mask.shape) < 0.5)) & mask for name, mask in everything.items()}
    middle["reductions"][:] = True
    once = space.carried(variables, least)
    twice = space.carried(space.carried(variables, middle), least, middle)
    chex.assert_trees_all_equal(once, twice)
    assert len(flatten(once)) < len(flatten(space.carried(variables, middle))) < len(flatten(variables))
    with pytest.raises(ValueError, match=re.escape("operations that were not in the program before")):
        space.carried(variables, everything, least)


def test_living_connections_of_another_space_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"live has the shapes .*; allowed: {'block': \(4, 7\), 'reductions': \(1, 2\)}"
    ):
        dso(SMALL, 3, live={"block": np.ones((4, 6))})


def test_counts_are_the_papers() -> None:
    c = Fields(stages=(2, 2, 2), channels=8)
    space = dso(c, 10)
    shapes = jax.eval_shape(lambda: space.init(jax.random.key(0), (32, 32, 3)))
    values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    images = np.zeros((3, 32, 32, 1), np.float32)
    choice = space.encode(space.whole)
    apply = functools.partial(space.apply, values[PARAMS], values[BATCH_STATS], choice, images, False)
    kept = accounting.kept_of_fraction(shapes[PARAMS], space.rules, 1.0)
    found = accounting.count(shapes[PARAMS], space.rules, kept, 1.0, apply)
    assert (found.prunable, found.macs) == (88_024, 14_410_048)
    assert found.total == 88_024 + 10 + 1944 + 2 * 152


def test_the_papers_supernet_has_its_weights_norms_and_biases() -> None:
    """24 blocks of 48 to 192 channels: of each stage the first block and seven times the second."""
    space = dso(Fields(stages=(2, 2, 2)), 10)
    shapes = flatten(jax.eval_shape(lambda: space.init(jax.random.key(0), (32, 32, 3)))[PARAMS])
    second = ("block_1/", "block_3/", "block_5/")
    sizes = {path: leaf.size * (7 if path.startswith(second) else 1) for path, leaf in shapes.items()}
    assert sum(sizes.values()) == 9_987_082
    assert sum(size for path, size in sizes.items() if path.endswith("/weight")) == 9_937_296
    assert sum(size for path, size in sizes.items() if path.endswith("/scale")) == 2928
    assert sum(size for path, size in sizes.items() if path.endswith("/bias")) == 2928 + 43_920 + 10


@pytest.mark.usefixtures("x64")
def test_activations_of_another_dtype_leave_variables_and_outputs_wide(random_like: Any) -> None:
    c = Fields(levels=2, operations=("sep3", "max3"), stages=(1,), channels=2)
    full, half = (dso(c, 3, dtype=dtype) for dtype in (None, jnp.bfloat16))
    params, stats = random_variables(full, random_like)
    given = params, stats, random_choice(c), batch()[0]
    wanted, found = (jax.jit(functools.partial(space.apply, train=True))(*given) for space in (full, half))
    assert found[0].dtype == jnp.float64
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    assert 1e-5 < np.abs(found[0] - wanted[0]).max() / np.abs(wanted[0]).max() < 0.1
    assert living(full.whole.blocks[0]) == ("1.0", "1.1", "2.0", "2.1")
