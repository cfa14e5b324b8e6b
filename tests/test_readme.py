"""What the README shows is what runs."""

import os
import pathlib
import re
import shlex
import subprocess
from typing import Any

import pytest

from dass_jax import config, count

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (python -m dass_jax\.\w+ .*?)(?:\s+#.*)?$", README, re.MULTILINE)


def test_the_two_commands_come_first_and_can_be_started() -> None:
    scripts = re.findall(r"^    (\./launch/\S+)", README, re.MULTILINE)
    assert scripts == ["./launch/run.sh", "./launch/test.sh", "./launch/hosts.sh"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)
        subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert "\n./launch/test.sh\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")  # as written


@pytest.mark.parametrize("command", [c for c in COMMANDS if "dass_jax.train" in c and "--help" not in c])
def test_train_commands_are_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert config.parse(shlex.split(command)[3:], "train").config


@pytest.mark.parametrize("command", [c for c in COMMANDS if "dass_jax.count" in c])
def test_count_commands_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert count.main(shlex.split(command)[3:]) == 0
    assert "17,045" in capsys.readouterr().out


def test_the_library_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["logits"].shape == (16, 10) and len(names["architecture"].normal) == 2


def test_files_that_the_readme_shows_exist() -> None:
    for path in re.findall(r'src="([^"]+)"|\]\(([^)h][^)]*)\)', README):
        assert (ROOT / next(filter(None, path))).exists(), path
