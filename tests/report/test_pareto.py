"""The page of accuracy over latency and size: its points, its front, its table."""

import pathlib
from typing import Any

import pytest

from dass_jax.errors import UserError
from dass_jax.report import pareto, style

TASK = {"metric": "accuracy", "unit": "%", "higher_is_better": True}


def run(name: str, keep: float, result: float | None, before: float | None, **forms: tuple[float, int]) -> Any:
    values = {
        form: {"median_ms": ms, "p90_ms": 2 * ms, "speedup": 4 / ms, "bytes": size, "peak_bytes": None}
        for form, (ms, size) in forms.items()
    }
    return {
        "network": name,
        "keep": keep,
        "task": TASK,
        "result": result,
        "before": {"result": before, "form": "dense"},
        "forms": values,
    }


RUNS = [
    run("a $1 <b>", 0.01, 80.0, 90.0, dense=(4.0, 400), sparse=(1.0, 20)),
    run("big", 0.05, 85.0, None, dense=(8.0, 800), sparse=(5.0, 90)),
    run("unknown", 1.0, None, None, dense=(2.0, 200)),
]


def test_every_form_is_a_point_and_the_front_joins_what_nothing_beats() -> None:
    points = list(pareto._points(RUNS))
    assert [(point.value, point.ms, point.bytes, point.form) for point in points] == [
        (80.0, 4.0, 400, "dense"),
        (80.0, 1.0, 20, "sparse"),
        (90.0, 4.0, 400, "before pruning"),
        (85.0, 8.0, 800, "dense"),
        (85.0, 5.0, 90, "sparse"),
    ]
    with style.settings():
        latency, size = (figure.axes[0] for _, figure in pareto._figures(points, RUNS))
    fronts = [axes.lines[-1].get_xydata().tolist() for axes in (latency, size)]
    assert fronts == [[[1, 80], [4, 90]], [[0.02, 80], [0.09, 85], [0.4, 90]]]


def test_the_page_has_pictures_and_every_figure_and_escapes_names(tmp_path: pathlib.Path) -> None:
    page = pareto.build(tmp_path / "page.html", RUNS, "2 cores").read_text(encoding="utf-8")
    assert page.count("data:image/svg") == 2 and "<b>," not in page and "a $1 &lt;b&gt;, 99 % pruned" in page
    assert "Networks whose accuracy is not known are in the table alone." in page
    assert "<td>unknown</td><td>dense</td><td>–</td><td>2.000</td><td>4.000</td><td>2.00</td><td>200</td>" in page


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"page\.html"):
        pareto.build(tmp_path / "page.html", RUNS, "")


def test_another_metric_is_called_by_its_name_and_lower_may_be_better() -> None:
    task = {"metric": "perplexity", "unit": "", "higher_is_better": False}
    runs = [run("a", 0.5, 0.8, 0.7, dense=(4.0, 400), sparse=(1.0, 20)) | {"task": task, "keep": None}]
    with style.settings():
        figures = dict(pareto._figures(list(pareto._points(runs)), runs))
    axes = figures["perplexity over latency of one example"].axes[0]
    assert axes.get_ylabel() == "test perplexity"
    assert axes.lines[-1].get_xydata().tolist() == [[1, 0.8], [4, 0.7]], "the front falls"
    page = pareto.page(runs, "")
    assert "Perplexity, latency and size" in page and "<td>a</td><td>dense</td><td>0.8000</td>" in page
    assert "accuracy" not in page.lower()
