"""The shipped files: found by name from anywhere, and in the wheel and the source archive."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

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


def test_wheel_and_archive_hold_every_module_and_every_file(tmp_path: pathlib.Path) -> None:
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("dass_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta as b; b.build_wheel('made'); b.build_sdist('made')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next((tmp_path / "made").glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("dass_jax/")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dass_jax").rglob("*.py")}
    assert held == modules | {f"dass_jax/configs/{name}" for name in FILES}
    with tarfile.open(next((tmp_path / "made").glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= modules | {f"configs/{name}" for name in FILES} | {"setup.py", "setup.cfg", "pyproject.toml"}
