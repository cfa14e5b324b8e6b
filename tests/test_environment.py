"""Whatever the machine and its user's settings are like: a command works, with the same numbers, or says one line."""

import dataclasses
import errno
import importlib.util
import io
import json
import os
import pathlib
import pwd
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from dass_jax import architectures, config, train
from dass_jax.architectures.darts import PUBLISHED
from dass_jax.config import Config
from dass_jax.errors import UserError, check_new_folder, guarded, number_of, odd_space, show
from dass_jax.latency import __main__ as latency
from dass_jax.runtime import folder, settings
from tests import processes
from tests.config_files import one_line, written
from tests.runs import TOY, Finished, command, last, metrics, results, timeless, undrawn, workplace

HOSTILE = {
    "jax_enable_x64": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_transfer_guard": "disallow",
    "jax_debug_nans": True,
    "jax_debug_key_reuse": True,
    "jax_disable_jit": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 3,
}
CACHE = "jax_compilation_cache_dir"


@pytest.fixture
def as_before() -> Iterator[None]:
    """JAX's settings are those that they were, at the end."""
    before = {name: jax.config.values[name] for name in (*HOSTILE, *settings.OWN, CACHE)}
    guards = {f"jax_transfer_guard_{way}": None for way in settings.GUARDS}
    yield
    for name, value in {**before, **guards}.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    with undrawn(), workplace(tmp_path_factory.mktemp("plain"), TOY.replace('["random"]', "[]")) as place:
        done = command(place / "plain")
        assert done.code == 0 and "set aside" not in done.err
        yield done


def test_settings_of_the_user_change_no_number_and_are_there_again_afterwards(plain: Finished, as_before: None) -> None:
    for name, value in HOSTILE.items():
        jax.config.update(name, value)
    done = command(plain.folder.parent / "hostile")
    assert done.code == 0, done.err
    said = next(line for line in done.err.splitlines() if line.startswith("set aside while this runs: "))
    assert all(name.upper() in said for name in HOSTILE)
    assert {name: settings.plain(jax.config.values[name]) for name in HOSTILE} == HOSTILE
    assert timeless(results(done.folder)) == timeless(results(plain.folder))
    assert timeless(metrics(done.folder)) == timeless(metrics(plain.folder))
    one, other = last(done.folder).leaves, last(plain.folder).leaves
    assert list(one) == list(other) and all(one[path].tobytes() == other[path].tobytes() for path in one)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("JAX_ENABLE_X64", "maybe", "true or false"),
        ("JAX_NUMPY_RANK_PROMOTION", "nonsense", "one that jax knows"),
        ("MPLBACKEND", "nonsense", "one that matplotlib knows"),
    ],
)
def test_a_variable_that_a_library_refuses_is_one_line(name: str, value: str, allowed: str) -> None:
    """Of a command that imports JAX before its own first line."""
    command = [sys.executable, "-m", "dass_jax.count", "--architecture", "darts_v2"]
    found = subprocess.run(command, env={**os.environ, name: value}, capture_output=True, text=True)
    (line,) = found.stderr.splitlines()
    assert found.returncode == 2 and not found.stdout
    assert line.startswith(f"error: {name} = '{value}': ") and f"; allowed: {allowed}, or no such variable" in line


def test_a_folder_that_could_not_be_made_in_the_end_is_refused_before_the_work(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    check_new_folder(tmp_path / "new" / "one", "--out")
    for place, wanted in (
        (tmp_path, "is not empty"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "below"),
    ):
        with pytest.raises(UserError, match=f"--out = .*{wanted}.*; allowed: a new or an empty folder"):
            check_new_folder(place, "--out")


def test_one_of_a_kind_has_no_plural() -> None:
    assert [number_of(number, "cell") for number in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]


def on_a_platform(name: str) -> None:
    jax.config.update("jax_platforms", name)


@pytest.mark.parametrize("name", ["tpu", "nonsense", "cuda"])
def test_a_platform_that_is_not_there_is_one_line(plain: Finished, tmp_path: pathlib.Path, name: str) -> None:
    output = tmp_path / "said.txt"
    argv = ["--config", str(plain.folder.parent / "run.toml"), "--workdir", str(tmp_path / "run")]
    assert processes.ended(processes.started(argv, output, on_a_platform, name)) == 2
    (line,) = output.read_text(encoding="utf-8").splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS = '{name}': ") and "; allowed: " in line
    assert not (tmp_path / "run").exists()


def in_a_full_place(argv: list[str], said: pathlib.Path) -> None:
    """A finished run's command, whose output takes nothing."""
    with said.open("w", encoding="utf-8") as sys.stderr, open("/dev/full", "w", encoding="utf-8") as sys.stdout:
        with undrawn():
            code = guarded(lambda: train.main(argv))
        sys.stderr.flush()
        os._exit(code)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_an_output_that_takes_nothing_is_one_line_after_everything_is_kept(plain: Finished) -> None:
    place = plain.folder.parent
    argv = ["--config", str(place / "run.toml"), "--workdir", str(plain.folder)]
    process = processes.SERVER.Process(target=in_a_full_place, args=(argv, place / "full.txt"))
    process.start()
    assert processes.ended(process) == 2
    assert (place / "full.txt").read_text(encoding="utf-8").splitlines()[-1] == (
        f"error: the output cannot be written: {os.strerror(errno.ENOSPC)}; "
        "allowed: a terminal, a pipe, or a file with room"
    )
    assert results(plain.folder)


def test_an_output_with_few_letters_gets_the_others_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, "ascii"))
    assert guarded(lambda: show("85.1 ± 0.3 %, \udcff") or 0) == 0
    assert content.getvalue() == b"85.1 \\xb1 0.3 %, \\udcff\n"
    monkeypatch.setattr(sys, "stdout", None)
    assert guarded(lambda: show("nobody sees it") or 0) == 0
    monkeypatch.setattr(sys, "stderr", None)

    def refuse() -> int:
        raise UserError("nobody hears it")

    assert guarded(refuse) == 2


def test_figures_are_written_before_they_are_printed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> None:
        raise UserError("nothing can be printed")

    monkeypatch.setattr(latency, "of_source", lambda *given: {"task": {"name": "any", "metric": "accuracy"}})
    monkeypatch.setattr(latency, "table", str)
    monkeypatch.setattr(latency, "show", refuse)
    (tmp_path / "results.json").touch()
    with pytest.raises(UserError, match="nothing can be printed"):
        latency.main([str(tmp_path), "--record", "--out", str(tmp_path / "all.json")])
    for name in ("latency.json", "all.json"):
        assert "accuracy" in (tmp_path / name).read_text(encoding="utf-8")


def nobody(uid: int) -> Any:
    raise KeyError(uid)


def test_without_a_home_nothing_is_kept_for_later_and_that_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, as_before: None
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    jax.config.update(CACHE, None)
    line = train.prepare_jax(Config())
    assert line is not None and "runtime.compilation_cache = '~/.cache/dass_jax': " in line and "Not a dir" in line
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    line = train.prepare_jax(Config())
    assert line is not None and line.endswith("Could not determine home directory.")
    assert jax.config.values[CACHE] is None


def test_the_users_own_cache_stays_unless_the_run_names_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, as_before: None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for there, field, found in (
        (None, Config().runtime.compilation_cache, tmp_path / ".cache" / "dass_jax"),
        ("theirs", Config().runtime.compilation_cache, "theirs"),
        ("theirs", "", "theirs"),
        ("theirs", str(tmp_path / "named"), tmp_path / "named"),
    ):
        jax.config.update(CACHE, there)
        runtime = dataclasses.replace(Config().runtime, compilation_cache=field)
        assert train.prepare_jax(dataclasses.replace(Config(), runtime=runtime)) is None
        assert jax.config.values[CACHE] == str(found)


@pytest.mark.parametrize("form", ["\ufeff{}", "{}\r\n", "\ufeff{}\r\n"])
def test_marks_and_line_ends_of_other_systems_change_no_file(tmp_path: pathlib.Path, form: str) -> None:
    text = "seed = 3\n[method]\nepochs = 7\n"
    wanted = config.load(written(tmp_path, text))
    (tmp_path / "run.toml").write_bytes(form.format(text).replace("\n", "\r\n").encode())
    assert config.load(tmp_path / "run.toml") == wanted
    found = json.dumps(architectures.to_json(PUBLISHED["dass_99"]), indent=1)
    (tmp_path / "cell.json").write_bytes(form.replace("{}", found).encode())
    assert architectures.load(str(tmp_path / "cell.json")) == PUBLISHED["dass_99"]


def test_what_only_looks_like_a_space_is_named_with_its_place(tmp_path: pathlib.Path) -> None:
    hint = r"\(line 2, column 5 holds U\+00A0, NO-BREAK SPACE, in the place of a space\); allowed: TOML in UTF-8"
    with pytest.raises(UserError, match=hint) as caught:
        config.load(written(tmp_path, "[method]\nmore\u00a0= 1\n"))
    one_line(caught)
    (tmp_path / "cell.json").write_text('{"normal":\u200b[]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"\(line 1, column 11 holds U\+200B, ZERO WIDTH SPACE") as caught:
        architectures.load(str(tmp_path / "cell.json"))
    one_line(caught)
    assert odd_space("a b\tc\n\n") == ""


def test_a_system_without_locks_has_a_folder_without_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # its import fails
    spec = importlib.util.spec_from_file_location("folder_without_locks", folder.__file__)
    assert spec is not None and spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    with other.claimed(tmp_path), other.claimed(tmp_path):
        assert (tmp_path / folder.LOCK).exists()


def test_only_a_checkout_of_this_package_has_a_commit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        own = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", *words]
        return subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()

    def there(*parts: str) -> pathlib.Path:
        place = tmp_path.joinpath(*parts, "dass_jax")
        place.mkdir(parents=True)
        (place / "__init__.py").touch()
        return place

    installed, mine = there("env", "site-packages"), there()
    assert folder._commit(mine) == "unknown"
    git("init", "-q")
    (tmp_path / "thesis.tex").touch()
    git("add", "thesis.tex", "env")
    git("commit", "-qm", "Theirs")
    assert (folder._commit(installed), folder._commit(mine)) == ("unknown", "unknown")
    git("add", "dass_jax")
    git("commit", "-qm", "Ours")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as git sets it for its hooks
    assert (
        folder._commit(mine)
        == subprocess.run(
            ["git", "-C", str(tmp_path), "rev-parse", "HEAD"],
            env={name: value for name, value in os.environ.items() if name != "GIT_DIR"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    (mine / "__init__.py").write_text("changed", encoding="utf-8")
    assert folder._commit(mine).endswith("+") and folder._commit(installed) == "unknown"


def test_the_environment_of_every_start_is_kept(tmp_path: pathlib.Path) -> None:
    def starts() -> dict[str, Any]:
        found = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
        return {number: {k: v for k, v in one.items() if k != "at"} for number, one in found["starts"].items()}

    folder.write_environment(tmp_path, {"jax": "1", "seed": 0})
    folder.write_environment(tmp_path, {"jax": "2", "seed": 0})
    assert starts() == {"1": {"lines": 0, "jax": "2", "seed": 0}}, "in the first one no epoch has ended"
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n", encoding="utf-8")
    folder.write_environment(tmp_path, {"jax": "3", "seed": 0})
    folder.write_environment(tmp_path, {"jax": "3", "seed": 0, "new": [1]})
    assert starts() == {
        "1": {"lines": 0, "jax": "2", "seed": 0},
        "2": {"lines": 2, "jax": "3"},
        "3": {"lines": 2, "new": [1]},
    }
    assert json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))["jax"] == "3"
    (tmp_path / "environment.json").write_text('{"jax": "1", "seed": 7}', encoding="utf-8")  # of an older version
    folder.write_environment(tmp_path, {"jax": "3", "seed": 7})
    assert starts() == {"1": {"jax": "1", "seed": 7}, "2": {"lines": 2, "jax": "3"}}
    for damaged in ("{", "[]", '{"starts": 3}'):
        (tmp_path / "environment.json").write_text(damaged, encoding="utf-8")
        folder.write_environment(tmp_path, {"jax": "3"})
        assert starts() == {"1": {"lines": 2, "jax": "3"}}
