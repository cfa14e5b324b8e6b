"""What all families have in common: names, JSON that says its space, files, and texts that stand for a file."""

import json
import pathlib
import re
from typing import Any

import pytest

from dass_jax import architectures
from dass_jax.architectures import darts, dso, enas_macro, enas_micro, mobile, nasbench201, smash
from dass_jax.errors import UserError

PUBLISHED = {**darts.PUBLISHED, **nasbench201.PUBLISHED, **enas_macro.PUBLISHED, **enas_micro.PUBLISHED}
SPACES = "darts, nasbench201, dso, mobile, enas_macro, enas_micro, smash"
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
UNNAMED = {
    "darts": PUBLISHED["dass_95"]._replace(normal=PUBLISHED["dass_95"].reduce),
    "nasbench201": nasbench201.from_text(CELL),
    "dso": dso.whole("full", 2, ("sep3", "avg3"), 2, 1),
    "mobile": mobile.Mobile((("k3e3",), ("k5e6", "k7e3"))),
    "enas_macro": enas_macro.from_text("4: 5:1 0:01"),
    "enas_micro": enas_micro.Arc((0, 4) * 10, (1, 2) * 10),
    "smash": smash.Architecture((smash.Block(2, (smash.Op((0,), (1, 2), 16, (3, 5), (2, 1), 4),)),) * 3),
}
"""Of each space an architecture without a name of its own."""
ALL = [*PUBLISHED.values(), *UNNAMED.values()]
NAMES = [*PUBLISHED, *UNNAMED]


def test_every_family_is_known_by_its_space_and_its_kind() -> None:
    assert list(architectures.FAMILIES) == SPACES.split(", ")
    for name, architecture in UNNAMED.items():
        family = architectures.family_of(architecture)
        assert (family.name, family) == (name, architectures.FAMILIES[name])
    assert architectures.published() == PUBLISHED


@pytest.mark.parametrize("architecture", ALL, ids=NAMES)
def test_an_architecture_survives_json_a_file_its_text_and_a_run_s_file(
    architecture: Any, tmp_path: pathlib.Path
) -> None:
    text = json.dumps(architectures.to_json(architecture))
    assert architectures.from_json(json.loads(text)) == architecture == architectures.load(text)
    assert architectures.load(architectures.to_text(architecture)) == architecture
    described = json.loads(json.dumps(architectures.described(architecture)))
    for file, content in (("its own.json", text), ("of a run.json", json.dumps(described))):
        (tmp_path / file).write_text(content, encoding="utf-8")
        assert architectures.load(str(tmp_path / file)) == architecture
    assert architectures.load(json.dumps(described)) == architecture


def test_json_says_its_space_and_without_it_is_that_of_darts() -> None:
    for space, architecture in UNNAMED.items():
        data = architectures.to_json(architecture)
        assert data["space"] == space
        assert {k: v for k, v in data.items() if k != "space"} == architectures.FAMILIES[space].to_json(architecture)
    assert architectures.from_json(darts.to_json(UNNAMED["darts"])) == UNNAMED["darts"]


def test_the_text_is_the_name_the_usual_notation_or_one_line_of_json() -> None:
    assert [architectures.to_text(architecture) for architecture in PUBLISHED.values()] == list(PUBLISHED)
    assert architectures.to_text(UNNAMED["nasbench201"]) == CELL
    text = architectures.to_text(UNNAMED["darts"])
    assert text.startswith("{") and text.isprintable()


def test_a_description_has_the_graphs_as_they_are_drawn_and_the_warnings() -> None:
    found = architectures.described(nasbench201.from_text(CELL))
    assert list(found) == ["architecture", "graphs", "warnings"] and found["warnings"] == {}
    assert found["graphs"] == [
        {
            "name": "cell",
            "nodes": ["input", "1", "2", "output"],
            "edges": [
                ["input", "1", "nor_conv_3x3"],
                ["1", "2", "skip_connect"],
                ["input", "output", "avg_pool_3x3"],
                ["2", "output", "nor_conv_1x1"],
            ],
        }
    ]
    skipping = PUBLISHED["darts_sparse"]
    assert [graph["name"] for graph in architectures.described(skipping)["graphs"]] == ["normal cell", "reduction cell"]
    assert architectures.described(skipping)["warnings"] == darts.collapsed(skipping) != {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "f: list found; allowed: an object with 'space'"),
        ({"space": "darst"}, f"f: space = 'darst' (did you mean 'darts'?); allowed: {SPACES}"),
        ({"space": 7}, f"f: space = 7; allowed: {SPACES}"),
        ({"space": None}, f"f: space = None; allowed: {SPACES}"),
        ({"space": "darts", "cell": CELL}, "f: unknown key 'cell'; allowed: normal, reduce"),
        ({"space": "nasbench201", "normal": []}, "f: unknown key 'normal'; allowed: cell"),
        ({"cell": CELL}, "f: unknown key 'cell'; allowed: normal, reduce"),
    ],
)
def test_json_of_no_architecture_is_one_line(data: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        architectures.from_json(data, "f")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("dass_98", "dass_9"),
        ("darts_v3", "darts_v"),
        ("dart_sparse", "darts_sparse"),
        ("nb201_best", "nb201_"),
        ("DASS_99", None),
    ],
)
def test_an_unknown_name_suggests_the_nearest_and_lists_all(name: str, nearest: str | None) -> None:
    with pytest.raises(UserError) as caught:
        architectures.load(name)
    message = str(caught.value)
    assert message.startswith(f"architecture {name!r} is unknown")
    assert message.endswith(f"allowed: {', '.join(PUBLISHED)}, a JSON file, or what such a file holds")
    if nearest is not None:
        assert f"(did you mean '{nearest}" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory; allowed: a file"),
        (b"{", "is damaged: Expecting property name"),
        (b"", "is damaged: Expecting value"),
        (b"[" * 100_000, "is damaged: maximum recursion depth"),
        (b"\xff\xfe", "is damaged: 'utf-8' codec can't decode"),
        (b"[]", ": list found; allowed: an object with 'space'"),
        (b'{"architecture": 3}', ": int found; allowed: an object with 'space'"),
    ],
)
def test_an_unreadable_file_is_named(content: bytes | None, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "found.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"architecture file {str(path)!r}") + " ?" + re.escape(message)):
        architectures.load(str(path))


def test_a_directory_is_not_a_file_and_damaged_text_is_no_path(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory; allowed: a file"):
        architectures.load(str(tmp_path))
    with pytest.raises(UserError, match=r"^architecture is damaged: "):
        architectures.load('{"space": ')
    with pytest.raises(UserError, match=r"^architecture: nodes = 1 in "):
        architectures.load("|none~0|")
