"""A run's relative paths are seen from its folder."""

import os
import pathlib

from dass_jax import compose, config
from dass_jax.runtime import origin


def test_data_are_looked_for_beside_the_run_then_where_they_were(tmp_path: pathlib.Path) -> None:
    run, place = tmp_path / "new/runs/a", tmp_path / "old/data.npz"
    run.mkdir(parents=True)
    c = config.from_dict({"data": {"source": "data.npz"}})

    def found(source: config.Config = c, beside: str = "../../data.npz", at: str = str(place)) -> str:
        return compose.located(source, run, beside, at).data.source

    assert found() == "data.npz", "they are nowhere"
    place.parent.mkdir()
    place.write_bytes(b"")
    assert found() == str(place)
    (tmp_path / "new/data.npz").write_bytes(b"")
    assert found() == str(tmp_path / "new/data.npz")
    assert found(beside="") == str(place) and found(beside="", at="") == "data.npz"
    absolute = config.from_dict({"data": {"source": str(place)}})
    assert found(absolute) == str(place)
    place.unlink()
    assert found(absolute) == str(tmp_path / "new/data.npz"), "an absolute path that leads nowhere any more"
    built_in = config.from_dict({"data": {"source": "digits"}})
    assert found(built_in, "", "") == "digits"
    tfds = config.from_dict({"data": {"source": "tfds:mnist", "folder": "prepared"}})
    (tmp_path / "new/prepared").mkdir()
    moved = compose.located(tfds, run, "../../prepared", str(tmp_path / "old/prepared"))
    assert moved.data.source == "tfds:mnist" and moved.data.folder == str(tmp_path / "new/prepared")


def test_where_data_lie_from_a_run(tmp_path: pathlib.Path) -> None:
    assert origin.beside(tmp_path / "runs/a", str(tmp_path / "data")) == os.path.join("..", "..", "data")
    assert origin.beside(tmp_path, "") == "" and origin.read(tmp_path) is None
