"""Architectures that a search has scored are trained to check the scores: what is found, drawn and resumed."""

import pathlib

import numpy as np
import pytest
from scipy import stats

from tests.runs import SYSTEM, TOY, command, interrupting, metrics, results, timeless, undrawn, workplace

SCORES = [0.2, 0.0, 0.1]
PLUGIN = f"""
import numpy as np

from dass_jax import methods

entry = methods.METHODS["wander"]


def wander(c, problem):
    def checked(v, seed):
        generator = np.random.default_rng(seed)
        return [(problem.space().sample(generator), score) for score in {SCORES}]

    return entry.search(c, problem)._replace(checked=checked)


methods.METHODS["wander"] = entry._replace(search=wander)
"""
BEFORE = 3 * 2 + 2
"""Epochs of the search and of the found network's training."""


def test_scored_architectures_are_trained_as_the_found_one_is(tmp_path: pathlib.Path) -> None:
    plugin, folder = tmp_path / "checking.py", tmp_path / "place"
    folder.mkdir()
    plugin.write_text(PLUGIN, encoding="utf-8")
    text = TOY.replace('["random"]', "[]").replace(f'["{SYSTEM}"]', f'["{SYSTEM}", "{plugin}"]')
    with workplace(folder, text) as place:
        whole = command(place / "whole")
        assert whole.code == 0, whole.err
        found, lines = results(whole.folder), metrics(whole.folder)
        ranking = found["ranking"]
        own = [[line for line in lines if line["chain"] == f"check {number}"] for number in (1, 2, 3)]
        assert len(lines) == BEFORE + 6 and [[line["epoch"] for line in part] for part in own] == [[1, 2]] * 3
        assert ranking["scores"] == SCORES and ranking["reached"] == [part[-1]["test_miss"] for part in own]
        assert len({*ranking["reached"], found["evaluations"]["shiny"]["miss"]}) == 4, "networks of their own"
        # Of this metric less is better.
        wanted = -stats.spearmanr(SCORES, ranking["reached"]).statistic, -np.corrcoef(SCORES, ranking["reached"])[0, 1]
        assert (ranking["rank_correlation"], ranking["correlation"]) == pytest.approx(wanted, abs=1e-4)
        assert {"rub", "rub, checks"} <= set(found["seconds"])
        page = (whole.folder / "report.html").read_text(encoding="utf-8")
        assert "Do the scores rank architectures?" in page and f"{wanted[0]:.2f}" in page
        assert page.index("Rubbing</h3>") < page.index("Trainings of architectures that check scores")
        assert "Rubbing: architecture 2 of 3 that check scores" in page

        with undrawn():
            with interrupting(BEFORE + 3):  # in the midst of the second one
                assert command(place / "parts").code == 130
            again = command(place / "parts")
        assert again.code == 0 and "resuming after wander · rub, checks, epoch 1" in again.err
        assert timeless(results(again.folder)) == timeless(found)
        assert timeless(metrics(again.folder)) == timeless(lines)
