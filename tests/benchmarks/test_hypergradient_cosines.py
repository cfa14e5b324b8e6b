"""How near estimators are to the exact hypergradient, on a supernet of three rungs."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import hypergradient_cosines
from tests.runs import SYSTEM, own_tables

CONFIG = f"""
plugins = ["{SYSTEM}"]
data = {{ limit = 64 }}
space = {{ name = "ladder" }}
method = {{ name = "darts", epochs = 2, batch_size = 16 }}
train = {{ batch_size = 32 }}
"""
"""A space whose supernet is compiled in a moment."""


def test_a_small_radius_agrees_with_the_exact_gradient_and_first_order_lacks_its_second_derivatives(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, record = tmp_path / "small.toml", tmp_path / "cosines.json"
    config.write_text(CONFIG, encoding="utf-8")
    options = ["--epochs", "1", "--pairs", "2", "--radii", "1e-7", "--only", "first_order|finite", "--output"]
    with own_tables():
        hypergradient_cosines.main(["--config", str(config), *options, str(record)])
    first, finite = json.loads(record.read_text(encoding="utf-8"))["rows"]
    assert (first["estimator"], finite["estimator"]) == ("first_order()", "finite_difference(1e-07)")
    assert {(row["phase"], row["epoch"]) for row in (first, finite)} == {("search", 1)}
    assert float(finite["error"]) < 1e-4 < 1e-3 < float(first["error"])
    assert finite["cosine"] == "1.000 (1.00 to 1.00)"
    assert "finite_difference(1e-07)" in capsys.readouterr().out


def test_cosine_and_error_by_hand() -> None:
    exact = np.array([3.0, 4.0])
    np.testing.assert_allclose(
        hypergradient_cosines.compared(np.array([4.0, -3.0]), exact), (0, np.sqrt(2)), atol=1e-12
    )
    np.testing.assert_allclose(hypergradient_cosines.compared(2 * exact, exact), (1, 1))


def test_a_wrong_configuration_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hypergradient_cosines.main(["--config", "nowhere"])
    assert "nowhere" in capsys.readouterr().err
