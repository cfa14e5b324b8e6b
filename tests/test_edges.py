"""Inputs at the edges of what is allowed, drawn by hypothesis: each is right, or one line before training."""

import functools
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dass_jax import config
from dass_jax.compose import problems
from dass_jax.config import split_hint
from dass_jax.data import arrays
from dass_jax.errors import UserError
from dass_jax.networks import NETWORKS
from dass_jax.nn.layers import one_device
from dass_jax.runtime import hosts
from dass_jax.schema import Range
from dass_jax.variables import BATCH_STATS, PARAMS
from tests.test_malformed import many

NUMBERS = {
    name: (base, rule)
    for name, hint in config.leaves()
    for base, rule in [split_hint(hint)]
    if base in (int, float) and isinstance(rule, Range)
}
FAR = (0, 1, -1, 2, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, 10**400, 5e-324, 1e-17, 1e308)


def edges(name: str) -> list[Any]:
    """What lies at the ends of a field's range, and beyond them."""
    base, rule = NUMBERS[name]
    ends = [end for end in (rule.low, rule.high) if end is not None]
    near = [end + step for end in ends for step in (-1, 0, 1)]
    if base is float:
        near += [math.nextafter(end, to) for end in ends for to in (-math.inf, math.inf)]
    return [*near, *FAR, *map(float, near), -0.0]


FIELD = st.sampled_from(sorted(NUMBERS)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(edges(name))))


@many(200)
@given(st.lists(FIELD, min_size=1, max_size=3))
def test_numbers_at_the_edges_of_their_ranges(tmp_path: pathlib.Path, fields: list[tuple[str, Any]]) -> None:
    data = config.nested(dict(fields))
    try:
        found = config.from_dict(data)
    except UserError as error:
        assert "\n" not in str(error) and "allowed: " in str(error)
        assert any(name in str(error) or name.partition(".")[2] in str(error) for name, _ in fields)
        return
    flat = config.flatten(found)
    assert all(flat[name] == value and value in NUMBERS[name][1] for name, value in dict(fields).items())
    (tmp_path / "run.toml").write_text(config.to_toml(found), encoding="utf-8")
    assert config.load(tmp_path / "run.toml") == found


ODD = ("\u00a0", "\u200b", "\u3000", "\ufeff", "\x0c", "\x00", "\x85", "\u2028", "\t", "\r", "\r\n", "\n", " ")
"""What editors, shells and web pages put into a text."""
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252")
SMALL = "# größer\nseed = 3\n[method]\nepochs = 7\n[data]\nsource = 'C:\\data\\x.npz'\n"


@many(200)
@given(
    st.lists(st.tuples(st.integers(0, len(SMALL)), st.sampled_from(ODD)), max_size=2),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_a_text_from_another_editor(
    tmp_path: pathlib.Path, put: list[tuple[int, str]], encoding: str, end: str
) -> None:
    text, path = SMALL, tmp_path / "run.toml"
    for place, letter in put:
        text = text[:place] + letter + text[place:]
    path.write_bytes(text.replace("\n", end).encode(encoding, "replace"))
    try:
        found = config.load(path)
    except UserError as error:
        assert str(path) in str(error) and "allowed: " in str(error) and "\n" not in str(error)
        return
    assert put or found == config.from_dict({"seed": 3, "method": {"epochs": 7}, "data": {"source": "C:\\data\\x.npz"}})
    assert put or encoding in ("utf-8", "utf-8-sig")


WORDS = st.one_of(
    st.text(max_size=6),
    st.integers(-(10**9), 10**9).map(str),
    st.sampled_from(["", "auto", "host:1234", "host:0", ":7", "host:", "[::1]:7", "1", "2", "³", "０", "1e3", " 1"]),
)


@many(200)
@given(st.dictionaries(st.sampled_from(["COORDINATOR", "PROCESSES", "PROCESS"]), WORDS, min_size=1))
def test_an_environment_with_anything_in_the_variables_of_several_hosts(given: dict[str, str]) -> None:
    try:
        found = hosts.wanted({f"{hosts.PREFIX}{name}": value for name, value in given.items()})
    except UserError as error:
        assert "allowed: " in str(error) and str(error).startswith(hosts.PREFIX)
        return
    assert found is None or found.processes is None or 0 <= (found.process or 0) < found.processes


TINY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "darts": ({"cells": 1, "channels": 2, "nodes": 1}, {"cells": 1, "channels": 2}),
    "nasbench201": ({"cells": 1, "channels": 1}, {"cells": 1, "channels": 1}),
    "dso": ({"levels": 1, "stages": [1], "channels": 2}, {"stages": [1], "channels": 2}),
    "enas_macro": ({"layers": 3, "channels": 2}, {"channels": 2}),
    "enas_micro": ({"layers": 1, "channels": 2}, {"layers": 1, "channels": 2}),
    "smash": ({"depth": 1}, {"depth": 1}),
}
"""Space → fields of the space and of the network."""
SIDES = st.sampled_from([1, 2, 3, 5, 8, 9, 17, 28, 32])


@many(24)
@given(st.data())
def test_a_network_for_images_of_any_sides(data: st.DataObject) -> None:
    """Of one pixel, of odd and of unequal sides, with each head: outputs of the right shape, or a line before that."""
    name, of_pixels = data.draw(st.sampled_from(sorted(TINY))), data.draw(st.booleans())
    height, width = data.draw(st.one_of(st.tuples(SIDES, SIDES), SIDES.map(lambda side: (side, side))))
    shape = height, width, data.draw(SIDES)
    space, network = (dict(fields) for fields in TINY[name])
    if "auxiliary" in NETWORKS[name].schema.__dataclass_fields__:
        network["auxiliary"] = data.draw(st.booleans())
    if "stem" in NETWORKS[name].schema.__dataclass_fields__ and name != "smash":
        network["stem"] = data.draw(st.sampled_from(["cifar", "imagenet"]))
    task = {"name": "segmentation", "depth": 2, "rates": [6]} if of_pixels else {"name": "classification"}
    wanted: dict[str, Any] = {"space": {"name": name, **space}, "network": {"name": name, **network}, "task": task}
    wanted |= {"controls": [], "method": {"name": "random"}, "train": {"batch_size": 2}, "runtime": {"devices": 1}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problems, "load_data", lambda c: blank(shape, of_pixels))
        try:
            s = problems.setting(config.from_dict(wanted))
        except UserError as error:
            assert "allowed: " in str(error) and "\n" not in str(error)
            assert "auxiliary" in str(error) or "image = " in str(error)
            return
    drawn = problems.make_space(s).sample(np.random.default_rng(0))
    images = jax.ShapeDtypeStruct((shape[2], *shape[:2], 2), "float32")
    net = problems.model(s, drawn, True, one_device)
    v = jax.eval_shape(functools.partial(net.init, image_shape=shape), jax.random.key(0))
    found = jax.eval_shape(functools.partial(net.apply, train=True), v[PARAMS], v[BATCH_STATS], images)
    assert found[0].shape == ((2, *shape[:2], 2) if of_pixels else (2, 2))


def blank(shape: tuple[int, int, int], masks: bool) -> arrays.Dataset:
    """Four black images [H, W, C] of two classes, to train on and to test on."""
    labels = np.zeros((4, *shape[:2]), np.uint8) if masks else np.arange(4, dtype=np.int32) % 2
    split = arrays.Split(np.zeros((4, *shape), np.uint8), labels)
    return arrays.Dataset(split, split, 2, np.zeros(shape[2], np.float32), np.ones(shape[2], np.float32), shape)
