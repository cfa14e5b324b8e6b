"""`python -m dass_jax.count`: published sizes exactly, multiply-accumulates by hand, one line for each error."""

import functools
import json
import pathlib
from typing import Any

import pytest

from dass_jax import count
from dass_jax.architectures import darts as genotype
from dass_jax.errors import guarded
from dass_jax.networks import NETWORKS


@functools.cache
def _counted(*argv: str) -> str:
    """What `main` prints as JSON; networks of the tables are large, so each is counted once."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count, "show", lines.append)
        assert count.main([*argv, "--json"]) == 0
    assert len(lines) == 1
    return lines[0]


def counted(command: str) -> dict[str, Any]:
    return json.loads(_counted(*command.split()))


@pytest.mark.parametrize(
    ("command", "total", "prunable", "kept", "macs_in_millions"),
    [
        ("--architecture darts_v2", 3_349_342, 3_308_940, 33_251, 528.36),
        ("--architecture dass_99", 1_713_790, 1_701_468, 17_045, 275.10),
        ("--architecture darts_sparse", 2_118_142, 2_098_476, 21_057, None),
        ("--space darts", 1_930_618, 1_930_512, 19_701, None),
        ("--network resnet18", 11_173_962, 11_164_352, 111_653, 555.42),
    ],
)
def test_the_published_sizes_are_exact(
    command: str, total: int, prunable: int, kept: int, macs_in_millions: float | None
) -> None:
    found = counted(command)
    assert (found["total"], found["prunable"], found["kept"]) == (total, prunable, kept)
    assert found["kept_with_bn_bias"] == kept + total - prunable
    if macs_in_millions is not None:
        assert round(found["macs"] / 1e6, 2) == macs_in_millions
    assert 0 < found["macs_nonzero"] < found["macs"]


@pytest.mark.parametrize(
    ("name", "cells", "channels", "kept"),
    [("Small", 20, 36, 17_050), ("Medium", 12, 86, 53_650), ("Large", 14, 108, 105_500)],
)
def test_the_papers_own_figure_is_that_of_its_table(name: str, cells: int, channels: int, kept: int) -> None:
    command = (
        "--architecture dass_99" if name == "Small" else f"--architecture dass_99 --cells {cells} --channels {channels}"
    )
    assert counted(command)["paper_kept"] == kept


def test_imagenet_has_the_published_size_of_darts() -> None:
    # The 4.7 M of the DARTS paper's Table 3, all figures of which its released code prints.
    found = counted("--architecture darts_v2 --dataset imagenet --cells 14 --channels 48")
    assert found["total"] == 4_718_752 and 0 < found["kept"] < found["prunable"] < found["total"]


def test_the_width_of_a_published_network_counts() -> None:
    assert counted("--network resnet18 --width 0.25")["total"] < counted("--network resnet18")["total"] / 10


PLUGIN = """
import dataclasses
from typing import Annotated

from dass_jax.networks import NETWORKS, baselines
from dass_jax.schema import Range


@dataclasses.dataclass(frozen=True)
class Fields:
    eighths: Annotated[int, Range(1, 64)] = 8


NETWORKS["in_eighths"] = NETWORKS["resnet18"]._replace(
    schema=Fields,
    make=lambda architecture, c, outputs, *others: baselines.baseline("resnet18", outputs, c.eighths / 8),
)
"""


def test_a_plugins_network_is_counted_by_its_own_fields(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN, encoding="utf-8")
    try:
        found = counted(f"--plugins {path} --network in_eighths --eighths 2")
    finally:
        NETWORKS.pop("in_eighths", None)
    assert found == counted("--network resnet18 --width 0.25")


def test_the_main_function_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert count.main(["--architecture", "dass_99", "--cells", "1", "--channels", "8", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["total"] > 0 and printed.err == ""


def test_the_table_holds_the_same_figures_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    command = "--architecture dass_99 --cells 1 --channels 8"
    assert count.main(command.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = [f"{value:,}" for value in counted(command).values()]
    assert len(lines) == len(figures)
    assert all(any(f" {figure}" in line for line in lines) for figure in figures)


def test_a_file_counts_as_the_published_name_that_it_holds(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(genotype.to_json(genotype.PUBLISHED["dass_95"])), encoding="utf-8")
    size = "--cells 3 --channels 4 --keep 0.05"
    assert counted(f"--architecture {path} {size}") == counted(f"--architecture dass_95 {size}")


def test_multiply_accumulates_by_hand_for_one_cell() -> None:
    # DASS 99 % on CIFAR-10, one cell (a reduction) of 2·8 channels, as (inputs of one output, outputs, k, positions).
    c, large, small = 16, 32 * 32, 16 * 16
    depthwise, pointwise = [(1, c, 3, small)], [(c, c, 1, small)]
    separable, dilated, factorized = 2 * (depthwise + pointwise), depthwise + pointwise, 2 * [(c, c // 2, 1, small)]
    stem, preprocess, classifier = [(3, 24, 3, large)], 2 * [(24, c, 1, large)], [(4 * c, 10, 1, 1)]
    layers = stem + preprocess + separable + 2 * dilated + factorized + classifier
    macs = weights = 0
    for inputs, outputs, kernel, positions in layers:
        for _ in range(outputs):
            weights += inputs * kernel * kernel
            macs += inputs * kernel * kernel * positions
    found = counted("--architecture dass_99 --cells 1 --channels 8")
    assert (found["prunable"], found["macs"]) == (weights, macs)


def test_non_zero_multiply_accumulates_follow_the_kept_weights_of_each_layer() -> None:
    command = "--architecture dass_99 --cells 1 --channels 8"
    dense = counted(f"{command} --keep 1")
    assert dense["macs_nonzero"] == dense["macs"] and dense["kept"] == dense["prunable"]
    # With almost nothing kept, one weight is left in each layer (of a factorized reduce: in each of its two).
    single = counted(f"{command} --keep 0.000001")
    assert single["kept"] == 14 and single["macs_nonzero"] == 3 * 32 * 32 + 10 * 16 * 16 + 1


def test_sizes_of_the_images_and_classes_count() -> None:
    command = "--architecture dass_99 --cells 1 --channels 8"
    base = counted(command)
    assert counted(f"{command} --image-size 64")["macs"] - 640 == 4 * (base["macs"] - 640)
    assert counted(f"{command} --classes 100")["prunable"] - base["prunable"] == 90 * 64
    assert counted(f"{command} --dataset digits")["prunable"] == base["prunable"] - 2 * 24 * 9
    fewer = counted("--space darts --cells 3 --channels 4 --nodes 1")["total"]
    assert fewer < counted("--space darts --cells 3 --channels 4 --nodes 2")["total"]


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("--architecture dass_9", ["'dass_9'", "did you mean 'dass_99'?", "darts_v2"]),
        ("--architecture no/such/genotype.json", ["no/such/genotype.json", "No such file"]),
        ("--architecture dass_99 --keep 0", ["--keep = 0.0", "(0, 1]"]),
        ("--architecture dass_99 --keep 1.5", ["--keep = 1.5", "(0, 1]"]),
        ("--architecture dass_99 --keep nan", ["--keep = nan", "(0, 1]"]),
        ("--architecture dass_99 --cells 0", ["--cells = 0", "[1, 200]"]),
        ("--space darts --nodes 9", ["--nodes = 9", "[1, 8]"]),
        ("--architecture dass_99 --cells three", ["--cells", "'three'"]),
        ("--architecture dass_99 --dataset cifar", ["--dataset", "'cifar'", "'cifar10'"]),
        ("--architecture dass_99 --space darts", ["--space", "--architecture"]),
        ("--network resnet", ["--network = 'resnet'", "did you mean 'resnet18'?", "mobilenet_v2"]),
        ("--network resnet18 --width 0", ["--width = 0.0", "(0, 8]"]),
        ("--network resnet18 --space darts", ["--space", "--network"]),
        ("", ["--architecture", "--network", "--space"]),
        ("--space dart", ["--space = 'dart'", "did you mean 'darts'?"]),
        ("--network darts", ["--network = 'darts'", "resnet18"]),
        ("--network resnet18 --cells 3", ["unknown flag '--cells'", "what 'resnet18' has: --width"]),
        (
            "--architecture dass_99 --celsl 3",
            ["'--celsl' (did you mean '--cells'?)", "'darts' has: --cells"],
        ),
        ("--genotype dass_99", ["unknown flag '--genotype'; allowed: in its place --architecture dass_99"]),
        ("--space darts --plugins no.py", ["plugins = 'no.py'", "No such file"]),
    ],
)
def test_wrong_input_is_one_line(command: str, named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: count.main(command.split())) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "allowed: " in printed.err
    assert not [text for text in named if text not in printed.err], printed.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "damaged"),
        ("\udcff\udcfe", "damaged"),
        ("[]", "list found"),
        ('{"normal": [[["skip_connect", 0]]]}', "reduce = None"),
        ('{"normal": [[["skip_conect", 0]]], "reduce": [[["skip_connect", 0]]]}', "did you mean 'skip_connect'?"),
        ('{"normal": [[["skip_connect", 2]]], "reduce": [[["skip_connect", 0]]]}', "input 2; allowed: 0, 1"),
    ],
)
def test_a_damaged_genotype_file_is_one_line(
    text: str, named: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "genotype.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert guarded(lambda: count.main(["--architecture", str(path), "--json"])) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert str(path) in printed.err and named in printed.err


def test_fields_that_are_lists_take_several_values() -> None:
    """[2, 2, 2] blocks of the paper's: docs/papers/dso.md."""
    found = counted("--space dso --stages 2 2 2 --channels 8 --keep 1")
    assert (found["prunable"], found["macs"]) == (88_024, 14_410_048)
    other = counted("--space dso --stages 2 2 2 --channels 8 --keep 1 --operations sep3 max3")
    assert other["prunable"] < found["prunable"]
