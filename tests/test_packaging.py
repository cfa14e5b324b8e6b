"""The shipped files: found by name from anywhere, and in the wheel and the source archive."""

import ast
import configparser
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from typing import Any

import pytest

import dass_jax
from dass_jax import config
from dass_jax.config import shipped
from dass_jax.errors import UserError
from tests.config_files import one_line, written

ROOT = pathlib.Path(dass_jax.__file__).parents[1]
FILES = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.toml"))


def test_a_shipped_file_is_found_by_its_name_from_anywhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.find("digits_dass") == config.find("digits_dass.toml") == ROOT / "configs" / "digits_dass.toml"
    assert config.find("table5", "experiment") == ROOT / "configs" / "experiments" / "table5.toml"
    assert config.parse(["--config", "digits_dass"], "train").config == config.load(ROOT / "configs/digits_dass.toml")


def test_a_file_at_that_path_goes_first_but_a_folder_does_not(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("digits_dass").mkdir()
    assert config.find("digits_dass") == ROOT / "configs" / "digits_dass.toml"
    pathlib.Path(written(tmp_path, "seed = 3")).rename("digits_dass.toml")
    assert config.load(config.find("digits_dass.toml")).seed == 3


@pytest.mark.parametrize(
    ("text", "kind", "named"),
    [
        (
            "digit_dass",
            "config",
            "(did you mean 'digits_dass'?); allowed: a TOML file, or one of those",
        ),
        ("table5", "config", "config file 'table5' cannot be read: No such file or directory"),
        ("configs/absent.toml", "config", "No such file or directory"),
        ("digits_dass", "experiment", "cpu_budget, cpu_cifar10"),
    ],
)
def test_what_is_not_there_is_one_line(text: str, kind: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        config.find(text, kind)
    assert named in one_line(caught)


def test_an_installed_package_finds_its_own_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dass_jax").mkdir()
    shutil.copytree(ROOT / "configs", tmp_path / "dass_jax" / "configs")
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "dass_jax")
    assert config.find("digits_dass") == tmp_path / "dass_jax" / "configs" / "digits_dass.toml"
    assert config.find("fig2", "experiment").is_file()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the wheel and the source archive."""
    place = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix != ".pyc":
            shutil.copy(path, place)
    for name in ("dass_jax", "configs", "docs", "tests", "benchmarks", "launch"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta as b; b.build_wheel('made'); b.build_sdist('made')"
    subprocess.run([sys.executable, "-c", code], cwd=place, check=True, capture_output=True, timeout=120)
    return place / "made"


def test_wheel_and_archive_hold_every_module_and_every_file(made: pathlib.Path) -> None:
    with zipfile.ZipFile(next(made.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("dass_jax/")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dass_jax").rglob("*.py")}
    assert held == modules | {f"dass_jax/configs/{name}" for name in FILES} | {"dass_jax/py.typed"}
    with tarfile.open(next(made.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= modules | {f"configs/{name}" for name in FILES} | {"setup.py", "setup.cfg", "pyproject.toml"}
    assert names >= {"docs/index.md", "docs/hooks/links.py", "mkdocs.yml", "tests/conftest.py", "launch/run.sh"}


def test_the_page_of_a_package_index_has_no_link_into_the_checkout(made: pathlib.Path) -> None:
    with zipfile.ZipFile(next(made.glob("*.whl"))) as wheel:
        (file,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        about = wheel.read(file).decode()
    head, _, readme = about.partition("\n\n")
    assert f"Version: {dass_jax.__version__}" in head and "Description-Content-Type: text/markdown" in head
    links = re.findall(r"(?<!\w)\]\(([^)]+)\)|src=\"([^\"]+)\"", re.sub(r"```.*?```", "", readme, flags=re.DOTALL))
    assert not [link for pair in links for link in pair if link and not re.match("https?:|#", link)]
    assert "## Your own data" in readme and "python -m dass_jax.train" in readme


def test_with_an_address_the_page_of_a_package_index_links_there() -> None:
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__file__": str(ROOT / "setup.py")}
    exec(source[: source.index("settings = ")], names)
    text = 'See [data](docs/data.md), [arXiv](https://arxiv.org) and <img src="docs/a.png" alt="A">.'
    there = "https://example.org/dass"
    expected = (
        f'See [data]({there}/docs/data.md), [arXiv](https://arxiv.org) and <img src="{there}/docs/a.png" alt="A">.'
    )
    assert names["on_an_index"](text, there) == expected
    assert names["on_an_index"]("See [data](docs/data.md).", "") == "See data."


def required(section: str) -> set[str]:
    """Packages that setup.cfg names in `install_requires` or in an extra."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    table = "options" if section == "install_requires" else "options.extras_require"
    return {re.split(r"[<>=\[]", line)[0].lower() for line in settings[table][section].split("\n") if line}


MODULES = {"orbax": "orbax-checkpoint", "sklearn": "scikit-learn", "tomli_w": "tomli-w", "PIL": "pillow"}
"""Of packages that have another name."""
EXTRAS = ("data", "onnx", "sparse", "co2", "notebooks")
WITH_AN_EXTRA = ("dass_jax/deploy/loop.py", "dass_jax/data/pictures.py")
"""Modules that are imported only where their extra is installed."""


def test_what_modules_import_is_declared() -> None:
    """At the top of a module what every installation has; an extra's packages are imported where they are used."""
    always, extras = required("install_requires"), set().union(*map(required, EXTRAS))
    ours = {*sys.stdlib_module_names, "dass_jax"}
    for path in (ROOT / "dass_jax").rglob("*.py"):
        tree, file = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT).as_posix()
        first: list[ast.AST] = [] if file in WITH_AN_EXTRA else list(tree.body)
        for nodes, allowed in ((first, always), (list(ast.walk(tree)), always | extras)):
            for node in nodes:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [str(node.module)]
                for name in {name.split(".")[0] for name in names} - ours:
                    package = MODULES.get(name, name.replace("_", "-")).lower()
                    assert {package, package.replace("-", "_")} & allowed, f"{file} imports {name}"


def pinned(file: str) -> set[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return {name.lower() for name in re.findall(r"^([\w-]+)==", text, re.MULTILINE)}


def test_requirements_pin_what_is_declared() -> None:
    assert pinned("requirements-run.txt") == required("install_requires")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    tested = set(settings["options.extras_require"]) - {"co2", "peer"}
    assert pinned("requirements.txt") - {"setuptools"} == set().union(*map(required, tested))


def test_the_version_is_one() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {dass_jax.__version__}\n" in citation
    # Without such a line the test fails here, as it should.
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == dass_jax.__version__  # type: ignore[index]


SMALL = "--data.limit 64 --space.cells 1 --space.channels 2 --space.nodes 1 --network.cells 1 --network.channels 2"
ONE_EPOCH = "--method.epochs 1 --method.prune_epochs 1 --train.pretrain_epochs 1 --train.score_epochs 1"
COMMANDS = (
    "train --help",
    "count --architecture dass_99",
    "experiment cpu_cifar10 --list",
    f"train --config digits_dass --controls {SMALL} {ONE_EPOCH} --train.finetune_epochs 1 --workdir run",
    "report run",
    "deploy run --out deployed --images 8",
    "latency run --warm-up 1 --repetitions 2 --no-memory",
)
DRIVER = """
import runpy, sys
import dass_jax
assert dass_jax.__file__.startswith(sys.prefix), dass_jax.__file__
for line in sys.argv[1:]:
    name, *arguments = line.split()
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(f"dass_jax.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"{line}: exit code {ended.code}")
"""
"""Commands one after another, as `python -m` would start them: JAX is imported once."""


def test_the_wheel_works_in_an_environment_of_its_own(made: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Outside of the checkout. What it depends on is taken from this environment; the test above says that all of it is
    declared."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "env"], cwd=tmp_path, check=True)
    python = tmp_path / "env" / "bin" / "python"
    own = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(next(made.glob("*.whl"))) as wheel:
        wheel.extractall(own)
    (own / "others.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    away = {"PYTHONPATH", "DASS_JAX_DATA"}
    environment = {name: value for name, value in os.environ.items() if name not in away}
    command = [python, "-W", "ignore", "-c", DRIVER, *COMMANDS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "17,045" in done.stdout and "--data.source" in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert {path.name for path in (tmp_path / "deployed").glob("network.*")} == {
        "network.stablehlo",
        "network.float16.packed",
    }
