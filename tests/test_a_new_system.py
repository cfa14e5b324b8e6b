"""A space, method, task and recipe from outside (a_new_system.py) through every command, and no file of the package
knows of them. That such a run is stopped and killed to the same bits: test_faults.py and, on two hosts, test_hosts.py.
"""

import ast
import base64
import csv
import json
import pathlib
import re
from collections.abc import Iterator

import pytest

from dass_jax import architectures, config, count
from dass_jax.errors import guarded
from dass_jax.experiment.__main__ import main as experiment
from tests.runs import SYSTEM, TOY, Finished, command, metrics, results, scalars, table, undrawn, workplace

PACKAGE = pathlib.Path(count.__file__).parent
NODES = ("ground", "rung 0", "rung 1", "rung 2")
PHASES = ("stroll", "muse", "leap")
WORDS = ("ladder", "rung", "wander", "stroll", "muse", "leap", "polish", "rub", "shiny", "dial", "miss", "tick", "sway")
OWNED = re.compile(r'step1|step2|finetune|pretrain|"normal"|"reduce"|skips_')
OWNERS = ("methods/", "recipes/", "spaces/darts", "architectures/darts.py", "config/old.py")
OWNERS += ("sparsebench/",)  # a table of what one recipe does to cells
OWNERS += tuple(f"{room}/enas_micro.py" for room in ("architectures", "networks", "policies"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    with workplace(tmp_path_factory.mktemp("system"), TOY) as folder:
        yield folder


@pytest.fixture(scope="module")
def whole(place: pathlib.Path) -> Finished:
    done = command(place / "whole")
    assert done.code == 0, done.err
    return done


def sources() -> list[tuple[str, str]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def test_the_system_is_one_file_of_150_lines() -> None:
    assert sum(bool(line.strip()) for line in SYSTEM.read_text(encoding="utf-8").splitlines()) <= 150


def test_no_file_of_the_package_names_it() -> None:
    """In no string that a program could compare with: sentences about the package apart."""
    words = re.compile(rf"\b({'|'.join(WORDS)})s?\b")
    assert not {(file, said) for file, text in sources() for said in strings(text) if words.search(said)}
    assert len(sources()) > 100


def strings(text: str) -> list[str]:
    """The string constants of a source but for those that stand alone, as documentation does."""
    tree = ast.parse(text)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in alone]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_the_words_of_a_system_occur_in_the_rooms_that_own_it() -> None:
    found = {file for file, text in sources() if OWNED.search(text)}
    assert not {file for file in found if not file.startswith(OWNERS)}
    assert {"methods/dass.py", "recipes/prune.py"} <= found


def test_it_is_searched_and_trained(whole: Finished) -> None:
    found = metrics(whole.folder)
    assert [(line["method"], line["phase"], line["epoch"]) for line in found] == [
        *(("wander", phase, epoch) for phase in (*PHASES, "rub") for epoch in (1, 2)),
        *(("random", "rub", epoch) for epoch in (1, 2)),
    ]
    assert {"loss", "sway", "cheer", "calm", "learning_rate"} <= set(found[0])
    assert {"eyes_loss", "legs_sway", "cheer", "matrices"} <= set(found[4])
    assert [sum(row) for row in found[5]["matrices"]["path"]] == pytest.approx([1] * 3, abs=1e-5)
    assert found[3]["cheer"] > found[2]["cheer"] > found[1]["cheer"] == 0, "the second phase has no images, and moves"
    assert found[7]["test_miss"] < found[6]["test_miss"]
    events = scalars(whole.folder / "events" / "wander")
    assert events["rub/test_miss"] == {8: pytest.approx(found[7]["test_miss"]), 7: pytest.approx(found[6]["test_miss"])}
    assert table(whole.folder / "events" / "wander")[1]["space.height"] == 3


def test_its_results_speak_of_its_task(whole: Finished) -> None:
    found = results(whole.folder)
    for part in (found, found["controls"]["random"]):
        assert part["task"] == {
            "name": "dial",
            "metric": "miss",
            "unit": "ticks",
            "higher_is_better": False,
            "examples": 360,
        }
        assert list(part["evaluations"]) == ["shiny"] and list(part["evaluations"]["shiny"]) == ["miss"]
        assert part["nid"] is None and part["parameters"]["kept"] == part["parameters"]["prunable"] > 0
        assert part["architecture"]["space"] == "ladder" and len(part["architecture"]["rungs"]) == 3
    assert found["evaluations"]["shiny"]["miss"] == metrics(whole.folder)[7]["test_miss"]
    rungs = found["architecture"]["rungs"]
    assert found["chosen"] == {"path": [[n, ("wave", "fold").index(rung)] for n, rung in enumerate(rungs)]}
    header = "".join(whole.out.splitlines()[:2])
    assert "miss" in header and "shiny [ticks]" in header and "accuracy" not in header


def test_its_phases_are_declared(whole: Finished) -> None:
    found = json.loads((whole.folder / "phases.json").read_text(encoding="utf-8"))["methods"]
    assert [phase["title"] for phase in found["wander"]] == [*(f"{name}, at ease" for name in PHASES), "Rubbing"]
    leap = found["wander"][2]
    assert [(curve["metric"], curve["group"], curve["unit"]) for curve in leap["curves"]] == [
        ("legs_sway", "sway", "cm"),
        ("cheer", "cheer", "smiles"),
    ]
    rows = [f"rung {n}" for n in range(3)]
    matrix = {"title": "the way up", "rows": rows, "columns": ["wave", "fold"], "value": "pull"}
    assert leap["matrices"] == {"path": matrix}
    assert "calm" in leap["hidden"] and [phase["name"] for phase in found["random"]] == ["rub"]


def test_its_page_draws_what_is_declared(whole: Finished) -> None:
    page = (whole.folder / "report.html").read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
    # Beside the outlines of each text there is the text itself.
    drawn = {alt: re.findall("<!-- (.*?) -->", base64.b64decode(data).decode()) for data, alt in pictures}
    rungs = results(whole.folder)["architecture"]["rungs"]
    steps = [f"{below} to {above} by {by}" for below, above, by in zip(NODES, NODES[1:], rungs, strict=False)]
    graph = drawn[f"Graph of the ladder: {'; '.join(steps)}"]
    assert {*NODES, *rungs} <= set(graph)
    assert {"leap: cheer", "cheer [smiles]"} <= set(drawn["Curves of cheer over 2 epochs of wander"])
    matrix = drawn["Heat map of the way up of wander over 2 epochs"]
    assert {*NODES[1:], "wave", "fold"} <= set(matrix)
    assert "accuracy" not in page and {"rub: test_miss"} <= {said for each in drawn.values() for said in each}
    assert all(said in page for said in ("leap, at ease", "Rubbing", "shiny", "miss", "ticks", "pull"))


def test_it_is_counted(whole: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--architecture", str(whole.folder / "architecture.json"), "--plugins", str(SYSTEM)]
    argv += ["--dataset", "digits", "--classes", "1", "--keep", "1", "--json"]
    assert guarded(lambda: count.main(argv)) == 0
    counted, own = json.loads(capsys.readouterr().out), results(whole.folder)["parameters"]
    assert {name: counted[name] for name in ("total", "prunable")} == {
        name: own[name] for name in ("total", "prunable")
    }
    architecture = architectures.load(str(whole.folder / "architecture.json"))
    assert architectures.load(architectures.to_text(architecture)) == architecture


def test_two_seeds_of_it_are_one_batch(place: pathlib.Path, whole: Finished) -> None:
    argv = ["--config", str(place / "run.toml"), "--workdir", str(place / "two"), "--seeds", "2"]
    with undrawn():
        done = command(place / "two", argv)
    assert done.code == 0, done.err
    found, alone = results(done.folder), results(whole.folder)
    for part, own in ((found, alone), (found["controls"]["random"], alone["controls"]["random"])):
        assert part["seeds"] == [0, 1] and [run["seed"] for run in part["runs"]] == [0, 1]
        misses = [run["evaluations"]["shiny"]["miss"] for run in part["runs"]]
        assert misses[0] == pytest.approx(own["evaluations"]["shiny"]["miss"], rel=1e-5) and misses[0] != misses[1]
        assert part["evaluations"]["shiny"]["miss"]["mean"] == pytest.approx(sum(misses) / 2, abs=1e-4)
        assert part["runs"][0]["architecture"] == own["architecture"]


def test_an_experiment_tells_its_runs_by_its_own_figures(place: pathlib.Path, whole: Finished) -> None:
    text = 'title = "Ways up"\nbase = "run.toml"\n[axes]\nmethod = ["wander", "random"]\n'
    (place / "ways.toml").write_text(text, encoding="utf-8")
    with undrawn():
        assert guarded(lambda: experiment([str(place / "ways.toml"), "--out", str(place / "ways")])) == 0
    with (place / "ways" / "results.csv").open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert (first["metric"], first["unit"], first["higher_is_better"]) == ("miss", "ticks", "False")
    assert float(first["shiny"]) == float(first["final"]) == results(whole.folder)["evaluations"]["shiny"]["miss"]
    assert float(second["final"]) == results(whole.folder)["controls"]["random"]["evaluations"]["shiny"]["miss"]
    assert json.loads(first["architecture"]) == results(whole.folder)["architecture"]
    page = (place / "ways" / "report.html").read_text(encoding="utf-8")
    assert "Ways up" in page and "miss" in page and "ticks" in page and "accuracy" not in page


def test_without_its_plugin_it_is_not_known(place: pathlib.Path, whole: Finished, tmp_path: pathlib.Path) -> None:
    assert config.load(whole.folder / "config.toml").plugins == (str(SYSTEM),)
    with workplace(tmp_path, TOY.replace(f'plugins = ["{SYSTEM}"]', 'plugins = ["nowhere.py"]')):
        refused = command(tmp_path / "run")
    assert refused.code == 2 and "plugins = 'nowhere.py': FileNotFoundError: " in refused.err
