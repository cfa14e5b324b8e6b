"""What a search's lines say of its cells: skip connections, entropy, and when a cell has degenerated."""

import math

import numpy as np
import pytest

from dass_jax import config_io
from dass_jax.architectures.darts import PUBLISHED, Genotype, collapsed, skips
from dass_jax.errors import UserError
from dass_jax.runtime import records


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
    even, sure = np.full((2, 8), 1 / 8), np.eye(8)[:2]
    found = records.of_cells({"normal": even, "reduce": sure}, PUBLISHED["dass_99"])
    assert (found["skips_normal"], found["skips_reduce"]) == (5, 2)
    assert found["entropy_normal"] == pytest.approx(math.log(8), abs=1e-6) and found["entropy_reduce"] == 0
    assert found["edge_weights"] == {"normal": even.tolist(), "reduce": sure.tolist()}


def test_seeds_that_search_in_step_cannot_stop_one_by_one() -> None:
    with pytest.raises(UserError, match=r"search\.stop_at_skips = 2 with seeds = 3, which search in step; allowed: 0"):
        config_io.from_dict({"seeds": 3, "search": {"stop_at_skips": 2}})
