"""A run of a system that nobody has heard of: three phases that are declared and one that is not, odd metrics and
units, a matrix of three rows and two columns, a graph of another shape, controls with evaluations of their own."""

import json
import pathlib

import numpy as np
import pytest

from dass_jax.report import build, curves, heatmap, records, table
from dass_jax.report.declared import Curve
from tests.report.folders import STRANGE_LINES, STRANGE_PHASES, Page, strange, strange_epoch, strange_outcome, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return strange(tmp_path_factory.mktemp("runs") / "strange")


@pytest.fixture(scope="module")
def page(folder: pathlib.Path) -> Page:
    return Page(build(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> records.Run:
    return records.read(folder)


def test_everything_is_drawn_under_its_own_name(page: Page) -> None:
    assert [alt.partition(":")[0] for alt in page.alts] == [
        "Graph of the still",
        "Curves of murk over 2 epochs of alchemy",
        "Curves of froth_height over 1 epochs of alchemy",
        "Curves of proof over 2 epochs of alchemy",
        "Gap of proof over 2 epochs of alchemy",
        "Curves of smiles over 1 epochs of alchemy",
        "Heat map of grain shares of alchemy over 3 epochs",
        "Heat map of who of alchemy over 1 epochs",
        "Seconds of each phase of each method",
    ]
    for title in ("Sifting of the grain", "Brewing", "Ageing", "tasting", "still: it leaks <badly>"):
        assert title in page.words
    assert "Shown are: share (grain shares), value (who)." in page.words
    assert "The gap of proof, in °, is train less bottle; it is shaded for alchemy." in page.words
    assert "distilling: proof of 30 test examples, lower is better" in page.words
    assert "weights to keep all" in " ".join(page.words.split())


def test_nothing_of_another_system_is_said(page: Page) -> None:
    words = page.words.lower()
    assert not [word for word in ("accuracy", "c_{k", "cell", "dense before", "fine-tun", "image") if word in words]


def test_the_table_has_the_union_of_the_evaluations_without_nid(folder: pathlib.Path) -> None:
    lines = table(json.loads((folder / "results.json").read_text())).splitlines()
    assert lines[0].split() == ["method", "proof", "proof", "proof", "weights", "MACs", "MACs", "time"]
    assert lines[1].split() == ["cask", "bottle", "glass", "kept", "dense", "[M]", "non-zero", "[M]", "[s]"]
    assert lines[3].split()[:4] == ["alchemy", "0.6100", "0.5000", "0.4375"]
    assert lines[4].split()[:4] == ["tea", "-", "-", "0.7500"]


def test_nid_is_in_the_unit_of_the_metric() -> None:
    nid = [table(strange_outcome(nid=2.5, task=strange_outcome()["task"] | {"unit": unit})) for unit in ("dB", "")]
    assert ["[dB/1000]" in text for text in nid] == [True, False] and "[1/1000]" in nid[1]


def test_all_metrics_of_the_evaluations_have_a_table(page: Page) -> None:
    assert "method evaluation proof haze" in " ".join(page.words.split())
    assert "bottle 0.5000 3.0000" in " ".join(page.words.split())


def test_curves_are_grouped_as_declared(run: records.Run) -> None:
    (murk,) = curves.groups(run.declared, run.epochs, ("alchemy",), ("search", "sift"))
    (series,) = murk.series
    assert (murk.title, murk.unit, murk.declared) == ("murk", "dB", True)
    assert series.curve == Curve("murk", "murk", "in the vat", "dB", "dotted")
    assert series.line.value.tolist() == [-3.5, -7.0]
    (proof,) = curves.groups(run.declared, run.epochs, ("alchemy",), ("training", "age"))
    assert curves.names(proof) == ("train", "bottle")
    assert [each.difference.line.value.tolist() for each in proof.gaps] == [pytest.approx([1.11, 2.11])]
    (axes,) = curves.value_figure(murk, "sift", 2).axes
    assert axes.get_ylabel() == "murk [dB]" and axes.lines[0].get_linestyle() == ":"


def test_what_is_not_declared_is_drawn_by_its_key(run: records.Run) -> None:
    (froth,) = curves.groups(run.declared, run.epochs, ("alchemy",), ("search", "brew"))
    assert (froth.title, froth.unit, froth.declared) == ("froth_height", "", False), "and no figure of skipped_steps"
    figure = curves.value_figure(froth, "brew", 1)
    assert figure.axes[0].get_ylabel() == "froth_height"
    assert [text.get_text() for text in figure.legends[0].texts] == ["alchemy"]
    (smiles,) = curves.groups(run.declared, run.epochs, ("alchemy",), ("training", "tasting"))
    assert smiles.title == "smiles"
    assert not any("note" in each.values for each in run.epochs), "a text is no metric"


def test_a_matrix_flows_in_lines_goes_on_in_the_next_phase_and_shows_what_was_chosen(run: records.Run) -> None:
    grain, who = heatmap.histories(run.declared, run.epochs, "alchemy", records.keys(run))
    assert grain.values.shape == (3, 2, 3) and grain.borders == (2,)
    np.testing.assert_array_equal(grain.values[:, 1], [[0, 0, 3], [1, 2, 3], [1, 2, 9]])
    assert (who.matrix.rows, who.matrix.columns, who.matrix.value) == (("0",), ("0", "1"), "value")
    figure = heatmap.heat_figure(grain, "grain", run.outcomes[0].chosen["grain"])
    *panels, _ = figure.axes
    assert [axes.get_title() for axes in panels] == ["rye", "oats", "malt"]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["fine", "coarse"]
    assert not panels[1].get_yticks().size and len({axes.get_position().y0 for axes in panels}) == 1
    (marked,) = (line for axes in panels for line in axes.lines if line.get_marker() == "<" and len(line.get_xdata()))
    assert marked in panels[2].lines and list(marked.get_ydata()) == [1]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 3), (200, 2), (3, 120)])
def test_a_matrix_of_any_size_is_drawn(tmp_path: pathlib.Path, rows: int, columns: int) -> None:
    lines = [strange_epoch("search", "sift", 1, 1, matrices={"big": np.eye(rows, columns).tolist()})]
    run = records.read(write(tmp_path / "run", lines, finished=False, phases=STRANGE_PHASES))
    (found,) = heatmap.histories(run.declared, run.epochs, "alchemy", records.keys(run))
    *panels, _ = heatmap.heat_figure(found, "big").axes
    assert len(panels) == min(rows, heatmap.MOST)
    assert 1 <= len(panels[0].get_yticks()) <= 44


def test_names_that_change_between_phases_start_a_new_history(tmp_path: pathlib.Path) -> None:
    lines = [each for each in STRANGE_LINES if each["phase"] in ("sift", "brew")]
    phases = json.loads(json.dumps(STRANGE_PHASES))
    phases["methods"]["alchemy"][1]["matrices"]["grain"]["rows"][0] = "wheat"
    run = records.read(write(tmp_path / "run", lines, finished=False, phases=phases))
    found = heatmap.histories(run.declared, run.epochs, "alchemy", records.keys(run))
    assert [(each.matrix.rows[0], each.values.shape[2], each.borders) for each in found] == [
        ("rye", 2, ()),
        ("wheat", 1, ()),
    ]


def test_a_control_that_declares_nothing_is_drawn_by_the_main_methods_declarations(tmp_path: pathlib.Path) -> None:
    lines = [*STRANGE_LINES, *(each | {"method": "tea"} for each in STRANGE_LINES)]
    run = records.read(write(tmp_path / "run", lines, finished=False, phases=STRANGE_PHASES))
    assert records.methods(run) == ("alchemy", "tea")
    (proof,) = curves.groups(run.declared, run.epochs, ("alchemy", "tea"), ("training", "age"))
    assert [(each.method, each.curve.metric) for each in proof.series] == [
        (method, metric) for method in ("alchemy", "tea") for metric in ("proof_cask", "proof_bottle")
    ]


def test_a_run_that_declares_nothing_is_drawn_by_its_keys(tmp_path: pathlib.Path) -> None:
    run = records.read(write(tmp_path / "run", STRANGE_LINES, finished=False, phases=None))
    assert records.keys(run) == (("search", "sift"), ("search", "brew"), ("training", "age"), ("training", "tasting"))
    found = curves.groups(run.declared, run.epochs, ("alchemy",), ("training", "age"))
    assert [(each.title, each.gaps) for each in found] == [("proof_cask", ()), ("proof_bottle", ())]


def test_an_architecture_without_a_graph_is_shown_as_it_is_written(tmp_path: pathlib.Path) -> None:
    run = write(tmp_path / "run", [], finished=False, phases=STRANGE_PHASES)
    (run / "architecture.json").write_text(json.dumps({"architecture": {"space": "soups", "salt": "<2 g"}}))
    page = Page(build(run).read_text(encoding="utf-8"))
    assert '{"space": "soups", "salt": "<2 g"}' in page.words and not page.alts
