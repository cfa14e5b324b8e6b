"""Predictions of pixels in the report: the colours of labels, the pixels of the file, the legend, damage."""

import json
import pathlib
import re

import numpy as np
import pytest

from dass_jax.errors import UserError
from dass_jax.report import markup, shown, style
from dass_jax.runtime.shown import Shown, save

RNG = np.random.default_rng(0)
IMAGES, TARGETS = RNG.integers(0, 256, (3, 5, 8, 3), np.uint8), RNG.integers(0, 5, (3, 5, 8)).astype(np.uint8)
PREDICTIONS = RNG.integers(0, 4, (3, 5, 8)).astype(np.uint8)


def kept(run: pathlib.Path, *methods: str) -> tuple[shown.Shown, ...]:
    for method in methods:
        save(run, method, 7, Shown(IMAGES, TARGETS, PREDICTIONS, 4, ("sky & sea", "road")))
    return shown.read(run)


def test_what_a_run_leaves_is_read_back(tmp_path: pathlib.Path) -> None:
    (found,) = kept(tmp_path, "dass")
    assert (found.method, found.seed, found.labels, found.names) == ("dass", 7, 4, ("sky & sea", "road"))
    for name, array in (("images", IMAGES), ("targets", TARGETS), ("predictions", PREDICTIONS)):
        np.testing.assert_array_equal(getattr(found, name), array)
    assert shown.read(tmp_path / "elsewhere") == ()


def test_labels_have_colours_of_their_own_and_all_else_is_white() -> None:
    palette = shown.colours(30)
    assert len(np.unique(palette[:30], axis=0)) == 30 and (palette[30:] == 255).all()
    assert (palette[:30] != 255).any(1).all()


def test_the_figure_has_masks_and_predictions_in_the_labels_colours(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(markup, "image", lambda figure, alt: figures.append((figure, alt)) or "")
    found = kept(tmp_path, "random", "dass", "elsewhere")
    with style.settings():
        page = shown.html(found, ("dass", "random"), True)
    ((figure, alt),) = figures
    assert "Predictions" in page and alt.endswith("of dass, seed 7, random, seed 7")
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "mask", "dass, seed 7", "random, seed 7"]
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    palette = shown.colours(4)
    for row in range(3):
        for own, wanted in zip(
            drawn[4 * row :], (IMAGES[row], palette[TARGETS[row]], *[palette[PREDICTIONS[row]]] * 2), strict=False
        ):
            np.testing.assert_array_equal(own, wanted)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sky & sea", "road", "2", "3", "no label"]
    faces = [np.rint(255 * np.array(patch.get_facecolor()[:3])) for patch in legend.get_patches()]
    np.testing.assert_array_equal(faces, [*palette[:4], (255, 255, 255)])


def test_a_run_of_another_task_has_no_such_section(tmp_path: pathlib.Path) -> None:
    assert shown.html(kept(tmp_path), ("dass",), False) == ""


@pytest.mark.parametrize("damage", ["bytes", "shape", "labels", "missing"])
def test_a_damaged_file_is_named(tmp_path: pathlib.Path, damage: str) -> None:
    kept(tmp_path, "dass")
    file = tmp_path / "shown/dass-7.npz"
    with np.load(file) as found:
        arrays = dict(found)
    facts = {**json.loads(str(arrays["facts"])), **({"labels": 300} if damage == "labels" else {})}
    targets = arrays["targets"][:, 1:] if damage == "shape" else arrays["targets"]
    if damage == "missing":
        del arrays["images"]
    np.savez(file, **{**arrays, "facts": np.array(json.dumps(facts)), "targets": targets})
    if damage == "bytes":
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=re.escape(str(file))) as caught:
        shown.read(tmp_path)
    assert "\n" not in str(caught.value) and "; allowed: " in str(caught.value)
