"""Every notebook is executed as after "Restart and run all", at a reduced size, on a CPU that looks like 8 devices; and
what a run shows in one."""

import ast
import json
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dass_jax import architectures, config, notebook
from dass_jax.architectures.darts import Genotype
from dass_jax.errors import UserError
from dass_jax.methods import METHODS
from tests.config_files import one_line

REASON = "needs pip install 'dass_jax[notebooks]'"
jupytext = pytest.importorskip("jupytext", reason=REASON)
nbclient = pytest.importorskip("nbclient", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)
nbformat = pytest.importorskip("nbformat", reason=REASON)

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "notebooks").glob("*.py"))
TRAINED = "--network.cells 1 --network.channels 2 --train.batch-size 32 --train.pretrain-epochs 1"
TRAINED += " --train.score-epochs 1 --train.finetune-epochs 1"
SEARCHED = "--data.limit 64 --space.cells 1 --space.channels 2 --space.nodes 1 --method.batch-size 16"
SEARCHED += " --method.epochs 1 --method.prune-epochs 1"
DASS = ["--config", "digits_dass", "--controls", *SEARCHED.split(), *TRAINED.split()]
AT_RANDOM = ["--config", "digits_dass", "--method", "random", "--controls", "--data.limit", "64", *TRAINED.split()]
CELL = ((("skip_connect", 0), ("sep_conv_3x3", 1)),)
GIVEN = Genotype(CELL, CELL)
INTERRUPT = """
import os, signal
from dass_jax import runner
keep_epoch = runner.run.keep_epoch
def keeping(*given):
    keep_epoch(*given)
    os.kill(os.getpid(), signal.SIGINT)
runner.run.keep_epoch = keeping
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Where the notebooks run: with eight devices, and a home in which they leave nothing."""
    folder = tmp_path_factory.mktemp("notebooks")
    flags = re.sub(r"device_count=\d+", "device_count=8", os.environ["XLA_FLAGS"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}.items():
            patch.setenv(name, value)
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
        yield folder


def executed(place: pathlib.Path, name: str, parameters: str, before_run: str = "", after: str = "") -> Any:
    """The notebook, with other parameters, and with code before the cell that starts the run and after the last one."""
    book = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    cells = [nbformat.v4.new_code_cell(text) for text in (parameters, before_run, after)]
    [number] = [n for n, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", [])]
    if before_run:
        book.cells.insert(next(n for n, cell in enumerate(book.cells) if "notebook.run(" in cell.source), cells[1])
    book.cells.insert(number + 1, cells[0])
    book.cells.append(cells[2])
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(place)}}).execute()
    return book


def shown(book: Any) -> str:
    """Everything that its cells say, pictures left out."""
    texts = []
    for output in (output for cell in book.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/html") or data.get("text/markdown") or "")
    return re.sub(r'"data:[^"]*"', '"picture"', "\n".join(texts))


def programs(place: pathlib.Path, folder: str) -> set[str]:
    return {path.name for path in (place / folder / "compiled").glob("*-cache")}


def test_a_search_is_interrupted_resumed_in_another_session_and_compiles_nothing_twice(place: pathlib.Path) -> None:
    words = f"WORDS = {DASS}"
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="the same cell resumes"):
        executed(place, "search_on_tpu", words, INTERRUPT)
    before = programs(place, "runs/notebook")
    times = {name: (place / "runs/notebook/compiled" / name).stat().st_mtime for name in before}
    assert before
    said = shown(executed(place, "search_on_tpu", words))
    assert "JAX computes on 8 × cpu (cpu)" in said
    assert "resuming after dass · step1, epoch 1" in said
    assert "dass · finetune  epoch 1/1" in said and "dass · step1  epoch" not in said
    assert said.count('<img src="picture"') >= 3  # the curves and both cells
    assert re.search(r"^dass +\d", said, re.MULTILINE)  # the table
    assert {name: (place / "runs/notebook/compiled" / name).stat().st_mtime for name in before} == times
    after = programs(place, "runs/notebook")
    assert before < after
    # A run that is finished is only read.
    assert "already finished: runs/notebook/run" in shown(executed(place, "search_on_tpu", words))
    assert programs(place, "runs/notebook") == after


def test_the_systems_stand_side_by_side(place: pathlib.Path) -> None:
    systems = {"DASS": DASS, "at random": AT_RANDOM}
    said = shown(executed(place, "systems", f"FOLDER, SYSTEMS = 'runs/notebook', {systems}"))
    assert "<td>DASS</td><td>dass</td><td>darts</td>" in said
    assert "<td>at random</td><td>random</td><td>darts</td>" in said
    assert said.count('<img src="picture"') == 6  # each has curves and two cells


def test_the_systems_are_all_that_there_are() -> None:
    source = (ROOT / "notebooks/systems.py").read_text(encoding="utf-8")
    found = source[source.index("SYSTEMS = {") : source.index("\n}\n") + 2].partition(" = ")[2]
    configs = [config.parse(words, "systems").config for words in ast.literal_eval(found).values()]
    assert {method for one in configs for method in (one.method.name, *one.controls)} == METHODS.keys() - {"given"}


def test_bilevel_estimators_meet_the_exact_gradient(place: pathlib.Path) -> None:
    check = """
assert all(measured[name]["conjugate_gradient"][-1][1] < 1e-6 for name in ("ridge", "reweighting"))
assert all(abs(each["first_order"][0][1] - 1) < 1e-9 for each in measured.values())
for each in measured.values():  # the more terms, the nearer; K steps from the solution are K terms
    assert each["neumann"][1][1] < each["neumann"][0][1]
    assert np.allclose([e for _, e, _ in each["neumann"]], [e for _, e, _ in each["unrolled"]], rtol=0.1)
assert trust["implicit"][wrong].mean() < 0.5 < trust["implicit"][~wrong].mean()
"""
    said = shown(executed(place, "bilevel", "KNOBS, TURNS, CALLS = (1, 10), 30, 1", after=check))
    assert '<img src="picture"' in said


def test_a_pruned_network_becomes_files(place: pathlib.Path) -> None:
    (place / "given.json").write_text(json.dumps(architectures.to_json(GIVEN)), encoding="utf-8")
    words = ["--config", "digits_dass", "--architecture", "given.json", "--controls", "--data.limit", "64"]
    words += TRAINED.split()
    said = shown(executed(place, "sparse_to_file", f"WORDS, CALLS = {words}, 2"))
    assert "network.float16.packed" in said and "masked dense, ONNX Runtime" in said
    assert re.search(r"class \d - JAX is loaded: False", said)


def test_a_space_and_a_method_of_ones_own_are_run(place: pathlib.Path) -> None:
    said = shown(executed(place, "your_own_space", "LIMIT, LAYERS, CHANNELS, EPOCHS = 64, 2, 2, 1"))
    assert said.count("equal for ") == 3
    assert "tempered · finetune  epoch 1/1" in said and re.search(r"^tempered +\d", said, re.MULTILINE)


def test_every_notebook_is_executed_and_gets_the_package_in_one_way() -> None:
    own = pathlib.Path(__file__).read_text(encoding="utf-8")
    assert FILES and all(f'executed(place, "{file.stem}"' in own for file in FILES)
    books = [jupytext.read(file) for file in FILES]
    install = {cell.source for book in books for cell in book.cells if "install" in cell.metadata.get("tags", [])}
    assert len(install) == 1 and all(book.cells[1].source.count('PACKAGE = ".."') == 1 for book in books)


class Output:
    """What IPython's `display` gives to rewrite."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, html: Any) -> None:
        self.pages.append(html.data)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    found = Output()
    monkeypatch.setattr(notebook, "_display", lambda html, new=False: found)
    return found


def test_a_run_is_one_output_with_a_bar_for_each_phase_and_curves(output: Output) -> None:
    live = notebook.Live()
    with live.phase("a · one", 1, 4) as phase:
        phase.epoch({"lower_loss": 2.0, "lower_accuracy": 10.0})
        assert live.now.startswith("████████░░░░░░░░ a · one  epoch 2/4  lower_loss 2  lower_accuracy 10")
        phase.epoch({"lower_loss": 1.0, "lower_accuracy": 20.0})
    with live.phase("a · <two>", 0, 1) as phase:
        phase.epoch({"loss": 1.0})
    page = output.pages[-1]
    assert page.count("epoch") == 2 and "a · &lt;two&gt;  epoch 1/1" in page
    assert page.count("<img") == 1 and output.pages[0].count("<img") == 0


def test_what_was_said_long_ago_does_not_fill_the_page(output: Output) -> None:
    live = notebook.Live()
    for number in range(20):
        live.say(f"line {number}.")
    assert "(12 lines before)" in output.pages[-1]
    assert "line 11." not in output.pages[-1] and "line 12." in output.pages[-1]


def test_what_takes_long_says_so_in_a_line_that_goes(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "BEAT", 0.01)
    live = notebook.Live()
    with pytest.raises(KeyError), live.busy("compiling step1"):
        while not any("compiling step1: 0 s" in page for page in output.pages):
            time.sleep(0.01)
        raise KeyError
    live.say("done")
    assert "compiling" not in output.pages[-1]


def test_outside_of_a_notebook_it_is_one_line() -> None:
    with pytest.raises(UserError) as caught:
        notebook.Live()
    assert "python -m dass_jax.train" in one_line(caught)


def test_a_notebook_shows_an_error_as_one_line() -> None:
    assert UserError("x = 1; allowed: 2")._render_traceback_() == ["error: x = 1; allowed: 2"]
