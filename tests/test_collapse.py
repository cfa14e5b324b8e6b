"""What a search's lines say of its architectures: skip connections, entropy, and when one has degenerated."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dass_jax import config
from dass_jax.architectures.darts import PUBLISHED, Genotype, collapsed, skips
from dass_jax.errors import UserError
from dass_jax.methods import relaxed
from dass_jax.spaces.darts import SupernetConfig, darts
from dass_jax.variables import ALPHA


@pytest.mark.parametrize(
    ("name", "normal", "reduce"), [("dass_99", 5, 2), ("darts_sparse", 6, 3), ("darts_v2", 2, 3), ("dass_90", 0, 3)]
)
def test_skips_of_published_cells(name: str, normal: int, reduce: int) -> None:
    # Counted in the papers' lists.
    assert (skips(PUBLISHED[name].normal), skips(PUBLISHED[name].reduce)) == (normal, reduce)


def cell(*operations: str) -> tuple:
    return tuple(((one, 0), (other, 1)) for one, other in zip(operations[::2], operations[1::2], strict=True))


def test_a_cell_collapses_with_half_its_operations_skips_or_as_a_normal_one_without_convolution() -> None:
    good = cell("sep_conv_3x3", "skip_connect", "dil_conv_5x5", "max_pool_3x3")
    half = cell("sep_conv_3x3", "skip_connect", "skip_connect", "sep_conv_3x3")
    pools = cell("max_pool_3x3", "skip_connect", "avg_pool_3x3", "avg_pool_3x3")
    assert collapsed(Genotype(good, good)) == {}
    assert collapsed(Genotype(good, half)) == {"reduce": "2 of 4 operations are skip connections"}
    assert collapsed(Genotype(pools, pools)) == {"normal": "no operation is a convolution"}
    assert set(collapsed(PUBLISHED["darts_sparse"])) == {"normal"} and collapsed(PUBLISHED["darts_v2"]) == {}


def test_a_line_holds_counts_and_entropies_of_both_cells() -> None:
    space = darts(SupernetConfig(nodes=1))
    even, sure = np.zeros((2, 8), np.float32), np.where(np.arange(8) == 3, 100, 0).astype(np.float32) * np.ones((2, 1))
    observe = relaxed.observing(space, relaxed.softmax_choice, space.decode)
    found = observe({ALPHA: {"normal": jnp.asarray(even), "reduce": jnp.asarray(sure)}})
    assert (found.metrics["skips_normal"], found.metrics["skips_reduce"]) == (0, 2)
    assert found.metrics["entropy_normal"] == pytest.approx(math.log(8), abs=1e-6)
    assert found.metrics["entropy_reduce"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found.matrices["normal"], np.full((2, 8), 1 / 8), rtol=1e-6)
    np.testing.assert_allclose(found.matrices["reduce"], np.eye(8)[[3, 3]], atol=1e-6)


def test_a_dense_search_ends_with_the_skip_connections_of_the_first_matrix() -> None:
    space = darts(SupernetConfig(nodes=1))
    stop = relaxed.stopping(relaxed.Bilevel(stop_at_skips=2), space)
    assert stop is not None and relaxed.stopping(relaxed.Bilevel(), space) is None
    assert [stop({"skips_normal": number, "skips_reduce": 9}) for number in (1, 2, 3)] == [False, True, True]


def test_seeds_that_search_in_step_cannot_stop_one_by_one() -> None:
    with pytest.raises(UserError, match=r"method\.stop_at_skips = 2 with seeds = 3, which search in step; allowed: 0"):
        config.from_dict({"seeds": 3, "method": {"stop_at_skips": 2}})
