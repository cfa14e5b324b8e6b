"""What a table says: figures whose truth is known, because they were drawn with it or counted by hand."""

import pathlib

import numpy as np
import pytest
from scipy import stats

from dass_jax.architectures.nasbench201 import of_key
from dass_jax.errors import UserError
from dass_jax.sparsebench import analysis, compare, findings, spaces, table
from dass_jax.sparsebench.__main__ import begin
from dass_jax.sparsebench.fields import Fields
from dass_jax.sparsebench.table import Row


def test_the_spread_is_that_of_what_was_drawn() -> None:
    rng = np.random.default_rng(0)
    values = 50 + rng.normal(0, 6, (4000, 1)) + rng.normal(0, 2, (4000, 3))
    found = analysis.spread(values)
    np.testing.assert_allclose(found[:4], [50, 2, 6, 6 / (2 / 3**0.5)], rtol=0.03)
    np.testing.assert_allclose([found.share, found.reliability], [36 / 40, 36 / (36 + 4 / 3)], rtol=0.02)
    # Seeds alone: nothing is the cell's, though the means differ.
    noise = analysis.spread(rng.normal(0, 2, (4000, 3)))
    assert noise.cells < 0.3 and noise.share < 0.03


def test_a_rank_correlation_lies_in_its_interval_and_that_of_noise_around_zero() -> None:
    rng = np.random.default_rng(1)
    one, noise = rng.normal(size=200), rng.normal(size=200)
    same = analysis.rank_correlation(one, np.exp(one))
    np.testing.assert_allclose(same, (1, 1, 1))
    found = analysis.rank_correlation(one, noise)
    assert found.low < 0 < found.high and found.low < found.value < found.high and found.high - found.low > 0.2


def test_what_follows_from_a_third_figure_is_not_counted() -> None:
    rng = np.random.default_rng(4)
    size, first, second = rng.normal(size=(3, 400))
    one, other = 3 * size + first, 2 * size + second
    assert analysis.spearman(one, other) > 0.8
    found = analysis.rank_correlation_beyond(size, one, other)
    assert found.low < 0 < found.high
    # The correlation of what regressions of the ranks leave.
    known, *ranks = (stats.rankdata(each) for each in (size, one, other))
    left = [values - np.polyval(np.polyfit(known, values, 1), known) for values in ranks]
    np.testing.assert_allclose(found.value, np.corrcoef(*left)[0, 1], rtol=1e-9)
    assert np.isnan(analysis.rank_correlation_beyond(size, size, other).value)


def test_of_the_best_a_tenth_is_among_the_best_by_chance() -> None:
    rng = np.random.default_rng(2)
    one, noise = rng.normal(size=1000), rng.normal(size=1000)
    assert analysis.kept_best(one, one).value == 1
    found = analysis.kept_best(one, noise)
    assert found.low < 0.1 < found.high


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        # 0→1 3×3, 1→2 3×3, 2→3 1×1 and 0→3 skip.
        (
            "303102",
            {"number of nor_conv_3x3": 2, "number of nor_conv_1x1": 1, "number of skip_connect": 1, "depth": 3}
            | {"least depth": 0, "paths": 2, "paths without weights": 1},
        ),
        # 0→1 pool, 1→3 pool and 0→3 3×3; node 2 is not there.
        (
            "400340",
            {"number of avg_pool_3x3": 2, "number of nor_conv_3x3": 1, "depth": 1, "least depth": 0, "paths": 2}
            | {"paths without weights": 1},
        ),
    ],
)
def test_features_are_those_counted_by_hand(key: str, wanted: dict[str, float]) -> None:
    assert analysis.features(of_key(key)) == wanted


SPACE = spaces.space_of(Fields())


def rows(number: int, seeds: int = 2) -> list[Row]:
    """Networks that are better dense the more weights they have, and better sparse the fewer."""
    found, rng = [], np.random.default_rng(3)
    for place, (cell, cells) in enumerate(map(SPACE.order.at, range(number))):
        weights = 100 * sum(operation == "nor_conv_3x3" for operation in cell) + place
        noise = rng.normal(0, 0.1, seeds)
        figures = {"test_dense": (weights / 10 + noise).tolist(), "test_erk_1": (90 - weights / 10 + noise).tolist()}
        figures |= {f"{name}_dense": [weights] * seeds for name in ("kept", "macs")}
        figures |= {f"{name}_erk_1": [1] * seeds for name in ("kept", "macs")}
        found.append(Row(cell, cells, place, 1.0, figures))
    return found


def test_predictors_show_what_accuracy_follows() -> None:
    own = analysis.sample(rows(40), [10] * 20 + [1] * 20)
    known = own.predictors
    values = dict(zip(known, analysis.correlations(own), strict=True))
    assert values["weights"][0] > 0.99 and values["weights"][1] < -0.99 and values["dense accuracy"][0] == 1
    assert (known["weights per layer"][[0, 39]] == known["weights"][[0, 39]] / [10, 1]).all()
    assert all(np.isnan(each).all() == (np.ptp(known[name]) == 0) for name, each in values.items())


def test_the_findings_are_written_beside_the_table(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The last was found by a search: it is not in the sample, and must not be in the findings.
    late = rows(41)[-1]._replace(order=4000, figures={name: [0.0, 0.0] for name in rows(1)[0].figures})
    begin(tmp_path, Fields())
    table.write(tmp_path, [*rows(40), late], SPACE)
    assert findings.main([str(tmp_path)]) == 0
    text = (tmp_path / "findings.md").read_text()
    assert text in capsys.readouterr().out and "40 cells" in text and "| 1 %, erk | -1.00 |" in text
    drawings = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert drawings == ["dense_and_sparse.svg", "operations.svg", "predictors.svg"]
    first = (tmp_path / "operations.svg").read_bytes()
    findings.main([str(tmp_path)])
    assert (tmp_path / "operations.svg").read_bytes() == first


@pytest.mark.parametrize(("number", "seeds"), [(9, 2), (20, 1), (0, 2)])
def test_too_little_to_say_anything_is_refused(tmp_path: pathlib.Path, number: int, seeds: int) -> None:
    begin(tmp_path, Fields())
    if number:
        table.write(tmp_path, rows(number, seeds), SPACE)
    with pytest.raises(UserError, match="allowed: 10 cells or more, of two seeds or more"):
        findings.main([str(tmp_path)])


def test_a_folder_without_fields_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"has no fields\.json that can be read; allowed"):
        findings.main([str(tmp_path)])


def test_two_tables_are_compared_on_the_cells_of_both(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = rows(14)
    folders = [tmp_path / name for name in ("one", "other")]
    for folder, shift, own in zip(folders, (0.0, -7.0), (drawn[:12], drawn[2:]), strict=True):
        folder.mkdir()
        begin(folder, Fields())
        moved = [
            row._replace(figures={**row.figures, "test_erk_1": [v + shift for v in row.figures["test_erk_1"]]})
            for row in own
        ]
        table.write(folder, moved[::-1], SPACE)
    one, other = map(str, folders)
    assert compare.main([one, other]) == 0
    said = capsys.readouterr().out
    assert "10 cells" in said and "| 1 %, erk | 1 %, erk |" in said and "| +7.0 ± 0.0 |" in said
    assert "| dense | dense |" in said and "| +0.0 ± 0.0 |" in said
    table.write(folders[1], drawn[13:], SPACE)
    with pytest.raises(UserError, match="0 cells in common; allowed: 2 or more"):
        compare.main([one, other])


def test_the_difference_of_two_tables_is_the_paired_one() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(50, 5, (2, 8, 3))
    tables = [
        {
            bytes([place]): Row(None, 1, place, 0.0, {"test_erk_5": list(map(float, seeds))})
            for place, seeds in enumerate(of_one)
        }
        for of_one in values
    ]
    [line] = compare.compared(*tables).rows
    found = stats.ttest_rel(*values.mean(2))
    low, high = found.confidence_interval()
    assert line[4] == f"{(low + high) / 2:+.1f} ± {(high - low) / 2:.1f}" and line[5] == f"{found.pvalue:.3f}"
