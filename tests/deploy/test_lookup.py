"""The lookup table adds up what a network is made of."""

import json
import pathlib

import pytest

from dass_jax.architectures.darts import PUBLISHED, Genotype
from dass_jax.deploy import graph, has_package
from dass_jax.errors import UserError
from dass_jax.latency import lookup

SIZES = lookup.Sizes(cells=3, channels=4, nodes=2, image=9, classes=3)


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[graph.Graph, graph.Graph, int]]:
    return lookup.graphs(SIZES)


def macs(found: graph.Graph) -> float:
    return float(graph.size(found).macs)


def test_places_are_those_of_the_network() -> None:
    places = lookup.places(SIZES)
    assert places == [
        (lookup.Place(4, 9, 1), lookup.Place(4, 9, 1)),
        (lookup.Place(8, 9, 2), lookup.Place(8, 5, 1)),
        (lookup.Place(16, 5, 2), lookup.Place(16, 3, 1)),
    ]


def test_what_adds_up_exactly_is_predicted_exactly(pairs: dict[str, tuple[graph.Graph, graph.Graph, int]]) -> None:
    """With multiply-accumulates in the place of milliseconds there is no noise, and nothing is shared."""
    entries = {name: (macs(longer) - macs(shorter)) / more for name, (longer, shorter, more) in pairs.items()}
    stride_1 = {place for pair in lookup.places(SIZES) for place in pair if place.stride == 1}
    entries |= {lookup.key("skip_connect", place): 0.0 for place in stride_1}
    first = lookup.references(SIZES.nodes)[0]
    rest = macs(lookup.network(first, SIZES)) - sum(entries[name] for name in lookup.operations(first, SIZES))
    table = lookup.Table(entries, rest)
    for seed in range(3):
        found = lookup.sampled(seed, SIZES.nodes)
        assert lookup.predicted(table, found, SIZES) == macs(lookup.network(found, SIZES))


def test_a_networks_operations_are_all_in_the_table(pairs: dict[str, tuple[graph.Graph, graph.Graph, int]]) -> None:
    stride_1 = {place for pair in lookup.places(SIZES) for place in pair if place.stride == 1}
    known = set(pairs) | {lookup.key("skip_connect", place) for place in stride_1}
    for found in PUBLISHED.values():
        assert isinstance(found, Genotype) and set(lookup.operations(found, SIZES)) <= known
    assert len(lookup.operations(PUBLISHED["dass_99"], SIZES)) == 3 * 8


@pytest.mark.skipif(not (has_package("onnx") and has_package("onnxruntime")), reason="the extra onnx is not installed")
def test_the_command_measures_and_reports_its_error(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.json"
    small = ["--cells", "2", "--channels", "4", "--image", "6", "--nodes", "1", "--classes", "3"]
    assert lookup.main([*small, "--check", "3", "--warm-up", "1", "--repetitions", "3", "--out", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["check"]["measured_ms"]) == 3 and all(value > 0 for value in found["check"]["measured_ms"])
    said = capsys.readouterr().out
    assert "mean relative error" in said and all(name in said for name in found["entries"])
    with pytest.raises(UserError, match="exists; allowed: a new file"):
        lookup.parse([*small, "--out", str(file)])
    with pytest.raises(UserError, match="is in no folder; allowed: a new file in a folder that exists"):
        lookup.parse([*small, "--out", str(tmp_path / "missing" / "table.json")])
    with pytest.raises(UserError, match=r"--nodes = 9; allowed: a number in \[1, 8\]"):
        lookup.parse(["--nodes", "9"])
