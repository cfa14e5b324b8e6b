"""What the pages show is what runs, and what they name is there."""

import importlib.util
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from dass_jax import architectures, compose, config, count, networks, spaces
from dass_jax.deploy import __main__ as deploy
from dass_jax.experiment import plan
from dass_jax.latency import __main__ as latency
from dass_jax.latency import lookup, parts
from dass_jax.runtime import parallel
from dass_jax.sparsebench import __main__ as sparsebench
from dass_jax.sparsebench import compare, findings
from dass_jax.tasks import Batch
from tests.runs import SYSTEM, own_tables

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
MARK = re.compile(r"accelerator|hour|minute")


class Shown(NamedTuple):
    """A command on a page, and what the page says around it."""

    page: str
    command: str
    around: str


def shown() -> Iterator[Shown]:
    for page in PAGES:
        paragraphs = page.read_text(encoding="utf-8").split("\n\n")
        for number, paragraph in enumerate(paragraphs):
            around = "\n".join(paragraphs[max(0, number - 1) : number + 2])
            # What is indented further goes on with the line before it.
            lines = re.sub(r"\n {5,}", " ", paragraph).split("\n")
            for line in lines:
                if re.match(r"    python (-m dass_jax|benchmarks/)", line):
                    command, _, comment = line.strip().partition("  #")
                    yield Shown(page.relative_to(ROOT).as_posix(), command.strip(), comment or around)


COMMANDS = list({one.command: one for one in shown()}.values())


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder with the files that commands of the pages name."""
    found = architectures.to_json(architectures.load("dass_99"))
    (tmp_path / "runs/NAME").mkdir(parents=True)
    (tmp_path / "runs/NAME/architecture.json").write_text(json.dumps(found), encoding="utf-8")
    (tmp_path / "FILE").write_text("seed = 1\n", encoding="utf-8")
    (tmp_path / "MY.toml").write_text("", encoding="utf-8")
    (tmp_path / "my_space.py").write_text(SYSTEM.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "flat.py").write_text(example("own_method.md"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with own_tables():
        yield


def example(page: str) -> str:
    """The one Python program of a page."""
    (found,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return found


def family(architecture: str) -> str:
    return architectures.family_of(architectures.load(architecture)).name


def accepted(module: str, arguments: list[str]) -> None:
    """The command's own reading of its arguments takes them."""
    match module:
        case "train" if "--help" in arguments:
            with pytest.raises(SystemExit) as ended:
                config.parse(arguments, "train")
            assert ended.value.code in (0, None)
        case "train":
            assert config.parse(arguments, "train").config
        case "count":  # they take up to a minute: tests/test_count.py and tests/test_readme.py do the counting
            given, rest = count._parser().parse_known_args(arguments)
            of = "dso" if "NAME" in arguments[1] else given.space or family(given.architecture)
            table = spaces.SPACES if given.space else networks.NETWORKS
            assert count.fields_of(rest, table[of].schema, count.DATASETS[given.dataset].usual, "")
        case "experiment":
            assert plan.load(config.find(arguments[0], "experiment")).runs
        case "sparsebench":
            assert sparsebench.fields(sparsebench.parse(arguments).config)
        case _:
            parsers = {"deploy": deploy, "latency": latency, "latency.parts": parts, "latency.lookup": lookup}
            parsers |= {"sparsebench.findings": findings, "sparsebench.compare": compare}
            if module == "report":
                assert len(arguments) == 1
            else:
                assert parsers[module].parse(arguments)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("one", [c for c in COMMANDS if " -m " in c.command], ids=lambda c: f"{c.page}: {c.command}")
def test_a_command_of_a_page_is_accepted(one: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    if "configs/" in one.command:
        monkeypatch.chdir(ROOT)
    if "own_space" in one.page:
        (told,) = re.findall(r"```toml\n(.*?)```", (ROOT / one.page).read_text(encoding="utf-8"), re.DOTALL)
        pathlib.Path("MY.toml").write_text(told, encoding="utf-8")
    name, *arguments = shlex.split(one.command.removeprefix("python -m dass_jax."))
    accepted(name, arguments)


@pytest.mark.parametrize(
    "one", [c for c in COMMANDS if "benchmarks/" in c.command], ids=lambda c: f"{c.page}: {c.command}"
)
def test_a_benchmark_of_a_page_has_its_options(one: Shown) -> None:
    _, file, *arguments = shlex.split(one.command)
    source = (ROOT / file).read_text(encoding="utf-8") + (ROOT / "benchmarks/measure.py").read_text(encoding="utf-8")
    if "--run" in arguments:  # what follows are the words of a run
        arguments = arguments[: arguments.index("--run") + 1]
    for option in arguments:
        name = option.removeprefix("--")
        assert name == option or f'"{option}"' in source or f'"{name}"' in source, option


def is_run_by_a_test(command: str) -> bool:
    """At a smaller size: tests/test_packaging.py runs what an installation offers, tests/test_count.py counts."""
    return bool(re.search(r"dass_jax\.(count|report|deploy|latency) |--help|--config (digits|MY|FILE)", command))


LONG = ("docs/results.md", "docs/searches.md", "docs/sparsebench.md")
"""Pages whose commands are all of hours."""


@pytest.mark.parametrize(
    "one",
    [c for c in COMMANDS if c.page not in LONG and not is_run_by_a_test(c.command)],
    ids=lambda c: f"{c.page}: {c.command}",
)
def test_what_no_test_runs_is_marked(one: Shown) -> None:
    assert MARK.search(one.around), f"{one.page}: {one.command}: say `# accelerator`, `# hours` or `# minutes`"


def test_the_example_of_bilevel_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (said,) = re.findall(r"This prints `(.*?)`", (DOCS / "bilevel.md").read_text(encoding="utf-8"))
    exec(example("bilevel.md"), {})
    printed = capsys.readouterr().out
    numbers = [[float(x) for x in re.findall(r"\d\.\d+", text)] for text in (said, printed)]
    assert re.sub(r"[\d.]+", "", said) == re.sub(r"[\d.]+", "", printed.strip())
    # The last digit may differ between machines.
    assert numbers[1] == pytest.approx(numbers[0], abs=0.02)


@pytest.mark.usefixtures("place")
def test_the_method_of_the_page_searches() -> None:
    """As far as its shapes go: one update moves both collections, and an architecture is read off the variables."""
    sizes = "--space.cells 1 --space.channels 2 --space.nodes 1 --method.batch_size 16 --data.limit 64"
    words = f"--config digits_dass --plugins flat.py --method flat {sizes}".split()
    s = compose.setting(config.parse(words, "train").config)
    search = compose.search(s, "flat")
    (phase,) = search.phases
    key = jax.random.key(0)
    state = phase.begin(key, None)
    assert search.found(state.variables, 0).normal
    batch = {"lower": Batch(jnp.zeros((1, 8, 8, 16)), jnp.zeros(16, "int32"))}

    def update(state: Any) -> Any:
        return phase.algorithm.update(state, batch, key, learning_rate=dict.fromkeys(("lower", "upper"), jnp.ones(())))

    one_device = jax.vmap(update, in_axes=None, axis_name=parallel.AXIS, axis_size=1)
    after, info = jax.eval_shape(one_device, state)
    assert jax.tree.structure(after) == jax.tree.structure(state) and set(info) == {"lower", "upper"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_a_page_are_of_their_language(page: pathlib.Path) -> None:
    for language, text in re.findall(r"```(python|toml)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert compile(text, page.name, "exec") if language == "python" else tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: pathlib.Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:dass_jax|tests|benchmarks|configs|docs)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([^)h#][^)#]*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert (page.parent / path).exists() or path in ("contributing.md", "changelog.md"), path


@pytest.fixture(scope="module")
def links() -> ModuleType:
    """docs/hooks/links.py."""
    spec = importlib.util.spec_from_file_location("links", DOCS / "hooks/links.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EQUATIONS = {
    "dass.md": {
        "dass_jax.relaxation.weights:softmax": "def softmax(alpha",
        "dass_jax.methods.darts:step": "def step(",
        "dass_jax.sparsity.scores:init_scores.leaf": "def leaf(",
        "dass_jax.sparsity.masks:topk_masks": "def topk_masks(",
        "dass_jax.methods.dass:in_three_turns.turns": "turns = bilevel.in_turn(",
        "dass_jax.methods.dass:search.second": "second = Phase(",
        "dass_jax.sparsity.masks:_straight_through_derivative": "def _straight_through_derivative(",
    },
    "entmax.md": {
        "dass_jax.relaxation.entmax:_entmax_derivative.exchange": "exchange = g[",
        "dass_jax.relaxation.entmax:_support.spent": "spent = jnp.where(",
    },
    "dso.md": {
        "dass_jax.bilevel.proximal:apg_nag.update.moved.z": "z = prox(x - eta * g",
        "dass_jax.bilevel.proximal:apg_nag.update.moved.v": "v = z - x + mu(",
    },
    "enas.md": {"dass_jax.methods.enas:reinforce.loss.surrogate": "surrogate = (score.nll * "},
    "smash.md": {"dass_jax.spaces.smash_hyper:matrix": "def matrix("},
    "scas.md": {"dass_jax.sparsity.gradual:keep_after": "def keep_after("},
}
"""Page → what it must lead to in one click, and how that line begins."""


@pytest.mark.parametrize("page", EQUATIONS)
def test_a_page_leads_to_the_line_of_each_equation(page: str, links: ModuleType) -> None:
    text = (DOCS / "papers" / page).read_text(encoding="utf-8")
    for name, begins in EQUATIONS[page].items():
        assert f"`{name}`" in text
        file, line = links.line_of(name)
        assert (ROOT / file).read_text(encoding="utf-8").splitlines()[line - 1].strip().startswith(begins), name


def test_a_name_that_is_gone_is_said(links: ModuleType) -> None:
    with pytest.raises(links.Missing, match=r"sparsity/masks.py has no 'top_mask' there"):
        links.line_of("dass_jax.sparsity.masks:top_mask")
    with pytest.raises(links.Missing, match="no such module"):
        links.line_of("dass_jax.sparsity.mask:topk_masks")


def test_the_site_is_built_without_a_warning_and_no_link_is_dead(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs pip install dass_jax[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 60
    seen = 0
    for path, text in pages.items():
        for href in re.findall(r'class="source" href="([^"]+)"', text):
            file, _, anchor = href.partition("#")
            target = (path.parent / file).resolve()
            assert not anchor or f'id="{anchor}"' in pages[target], f"{path.name}: {href}"
            seen += 1
        for source in re.findall(r'<img [^>]*src="([^":]+)"', text):
            assert (path.parent / source).exists(), f"{path.name}: {source}"
    assert seen > 150
