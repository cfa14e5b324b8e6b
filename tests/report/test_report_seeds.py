"""The report of a run with several seeds: rows and means of the table, curves with a band, what each seed found."""

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest

from dass_jax.architectures.family import Graph
from dass_jax.errors import UserError
from dass_jax.report import build, curves, heatmap, records, table
from tests.report.folders import ONE, TWO, Page, architecture, outcome, search_epoch, training_epoch, write

SAME, OTHER = (ONE, TWO), (TWO,)
FOUND: dict[int, tuple[Graph, ...]] = {3: SAME, 4: OTHER, 5: SAME}


def final() -> dict[str, Any]:
    """Seeds 3, 4, 5, of which the first and the last found one architecture."""
    scores = {3: 60.0, 4: 70.0, 5: 65.0}
    runs = [outcome("dass", scores[seed], seed=seed, **architecture(*found)) for seed, found in FOUND.items()]
    control = [outcome("random", 50.0, seed=seed) for seed in FOUND]
    whole = {"seeds": [3, 4, 5], "keep": 0.05}
    controls = {"random": {"method": "random", **whole, "runs": control}}
    return {"method": "dass", **whole, "runs": runs, "controls": controls}


LINES = [
    *(search_epoch("step1", 1, 1, seed=seed, lower_loss=loss) for seed, loss in ((3, 1.0), (4, 2.0), (5, 6.0))),
    *(training_epoch("dass", "finetune", epoch, seed=seed) for epoch in (1, 2) for seed in (3, 4, 5)),
    *(training_epoch("random", "finetune", 1, seed=seed) for seed in (3, 4)),
]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """A finished run."""
    folder = write(tmp_path / "run", LINES, finished=False)
    (folder / "results.json").write_text(json.dumps(final()))
    for seed, found in FOUND.items():
        (folder / f"architecture_{seed}.json").write_text(json.dumps(architecture(*found)))
    return folder


def test_the_table_has_a_row_for_each_seed_and_one_for_mean_and_deviation() -> None:
    lines = table(final()).splitlines()
    assert lines[0].split()[:2] == ["method", "seed"]
    assert [line.split()[:2] for line in lines[3:]] == [
        [method, seed] for method in ("dass", "random") for seed in ("3", "4", "5", "mean")
    ]
    assert "65.00 ± 5.00" in lines[6] and "50.00 ± 0.00" in lines[10] and "2,716 ± 0" in lines[6]
    assert len({len(line) for line in lines[2:]}) == 1


def test_a_figure_that_one_seed_lacks_has_no_mean() -> None:
    data = final()
    data["runs"][1]["nid"] = None
    assert "- ± -" in table(data).splitlines()[6] and "65.00 ± 5.00" in table(data).splitlines()[6]


def test_curves_are_means_with_the_deviation_of_the_seeds(run: pathlib.Path) -> None:
    found = records.read(run)
    assert len(found.epochs) == len(LINES), "a line of another seed replaces none"
    loss, accuracy = curves.groups(found.declared, found.epochs, ("dass",), ("search", "step1"))
    train, validation = (each.line for each in loss.series)
    assert (train.epoch.tolist(), train.value.tolist()) == ([1], [3.0])
    assert train.deviation.tolist() == pytest.approx([math.sqrt((4 + 1 + 9) / 2)])
    assert not validation.deviation.any() and curves.has_bands(loss) and not curves.has_bands(accuracy)
    figure = curves.value_figure(loss, "step1", 1)
    assert len(figure.axes[0].collections) == 1, "a band, and no shaded gap"
    assert [text.get_text() for text in figure.legends[0].texts][-1] == "± std of seeds"
    _, tuned = curves.groups(found.declared, found.epochs, ("dass",), ("training", "finetune"))
    assert tuned.series[0].line.epoch.tolist() == [1, 2] and not curves.has_bands(tuned)


def test_the_gap_is_the_mean_of_the_seeds_that_have_both(tmp_path: pathlib.Path) -> None:
    lines = [
        training_epoch("dass", "finetune", 1, seed=0, accuracy=60.0, test_accuracy=50.0),
        training_epoch("dass", "finetune", 1, seed=1, accuracy=70.0, test_accuracy=64.0),
        training_epoch("dass", "finetune", 1, seed=2, accuracy=99.0, test_accuracy=None),
    ]
    found = records.read(write(tmp_path / "run", lines, finished=False))
    (gap,) = curves.groups(found.declared, found.epochs, ("dass",), ("training", "finetune"))[1].gaps
    assert gap.difference.line.value.tolist() == [8.0]
    assert gap.difference.line.deviation.tolist() == pytest.approx([math.sqrt(8)])


def test_the_history_of_a_matrix_is_one_seeds(tmp_path: pathlib.Path) -> None:
    lines = [search_epoch("step1", epoch, 3, seed=seed) for seed, epoch in ((3, 1), (4, 3), (3, 2))]
    run = records.read(write(tmp_path / "run", lines, finished=False))
    found, _ = heatmap.histories(run.declared, run.epochs, "dass", records.keys(run), 3)
    np.testing.assert_allclose(found.values[0, 0], [0.1, 0.2], rtol=1e-6)
    assert heatmap.histories(run.declared, run.epochs, "dass", records.keys(run)) == []


def test_the_page_names_the_seeds_and_draws_each_different_architecture_once(run: pathlib.Path) -> None:
    page = Page(build(run).read_text(encoding="utf-8"))
    alts = page.alts
    assert sum("Graph of the" in alt for alt in alts) == 2 + 1 + 2  # two architectures of dass, one of the control
    of_each = ("Architecture of dass, seed 4", "Architecture of the control random, seeds 3, 4, 5")
    for text in ("3, 4, 5", *of_each, "65.00 ± 5.00", "Shown is seed 3; metrics.jsonl holds the others."):
        assert text in page.words
    assert sum("Heat map" in alt and "dass, seed 3" in alt for alt in alts) == 2
    assert sum("Kept share of the 4 layers of dass, seed 3" in alt for alt in alts) == 1
    assert "90.0" in page.words.split(), "seconds of pre-training: the sum of three seeds"


def test_the_page_of_an_unfinished_run_shows_what_was_found_so_far(run: pathlib.Path) -> None:
    (run / "results.json").unlink()
    (run / "config.toml").write_text("seed = 3\nseeds = 3\n")
    (run / "environment.json").write_text(json.dumps({"seed": 3}))
    page = Page(build(run).read_text(encoding="utf-8"))
    assert "This run is unfinished" in page.words and "3, 4, 5" in page.words
    assert sum("Graph of the" in alt for alt in page.alts) == 2 + 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "results.json",
            json.dumps(final() | {"runs": []}),
            "runs = []; allowed: a list of results, one for each seed",
        ),
        ("results.json", json.dumps(final() | {"runs": [7]}), "runs[0] = 7; allowed: an object"),
        (
            "results.json",
            json.dumps(final() | {"runs": [outcome("dass", 1.0, seed="a")]}),
            "seed = 'a'; allowed: a whole",
        ),
        ("metrics.jsonl", json.dumps(LINES[0] | {"seed": -1}), "line 1: seed = -1; allowed: a whole number from 0"),
        ("architecture_4.json", "[]", "architecture_4.json = []; allowed: an object"),
    ],
)
def test_a_damaged_folder_is_named(run: pathlib.Path, name: str, text: str, message: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(UserError) as caught:
        build(run)
    assert message in str(caught.value)
