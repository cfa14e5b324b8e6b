"""The benchmark of SMASH's size: its counts against those of the program and of the networks, and what it prints."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import smash_size as benchmark
from dass_jax import accounting
from dass_jax.errors import UserError
from dass_jax.spaces import smash
from dass_jax.spaces.smash_codes import Fields
from dass_jax.variables import PARAMS

SMALL = Fields(depth=3, width=2, unit=2, filters=8, stem=3, kernel=5, dilation=2, extent=5, groups=2, hyper_growth=3,
               hyper_first=2, hyper_second=1, hyper_third=1)  # fmt: skip
WORK = benchmark.Work(SMALL, 4, 8)


def test_what_all_architectures_have_is_what_modules_of_their_own_count() -> None:
    """Convolutions and the classifier by their positions; operations are no modules, as they are one loop."""
    space = smash.smash(SMALL, benchmark.CLASSES)
    v = jax.eval_shape(lambda: space.init(jax.random.key(0), (8, 8, benchmark.COLOURS)))
    nothing = {name: choice.zeros for name, choice in space.choices.items()}

    def forward() -> None:
        values = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), v)
        space.apply(values[PARAMS], values["batch_stats"], nothing, jnp.zeros((benchmark.COLOURS, 8, 8, 1)), False)

    rules = (*((rf"{part}/.*weight", 0) for part in ("stem", "transition_1", "transition_2", "head")), (".*", None))
    each = accounting.macs_per_weight(v[PARAMS], rules, forward)
    leaves = benchmark.flatten(v[PARAMS])
    assert benchmark.always(WORK) == sum(leaves[path].size * positions for path, positions in each.items())


def test_it_counts_what_is_drawn_and_prints_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "compiled", lambda work: None)
    monkeypatch.setattr(benchmark, "plan", lambda program: {"arguments": 1, "temporaries": 2 * 10**9, "results": 3})
    file = tmp_path / "record.json"
    small = ["--size", "8", "--draws", "40", "--networks", "1", "--output", str(file)]
    assert benchmark.main(["--config", "digits_smash", *small]) == 0
    macs = json.loads(file.read_text(encoding="utf-8"))["macs"]
    # Of the digits' sizes: 3.3, 4.6 and 7.7 operations in the mean; a hyper-network of 94,067 weights.
    np.testing.assert_allclose(macs["operations"], [3.3, 4.6, 7.7], rtol=0.3)
    assert macs["an operation, by block"][0] == 64 * (2 * 48 * 16 + 25 * 16 * 16)
    assert macs["hyper-network"] == 4 * 65 * 94_067
    assert macs["image, own network"] < macs["image"] < macs["image, most"]
    assert macs["step"] == pytest.approx(3 * (50 * macs["image"] + macs["hyper-network"]), rel=1e-5)
    said = capsys.readouterr().out
    assert "temporaries" in said and "GMAC" in said and "compiled in" in said
    with pytest.raises(UserError, match="--config = 'digits_dass', of the space 'darts'; allowed: of 'smash'"):
        benchmark.main(["--config", "digits_dass"])
