"""The file of an experiment: which runs it means, and one line for each wrong one."""

import pathlib
from typing import get_args

import pytest

from dass_jax import architectures, config
from dass_jax.config import Config
from dass_jax.errors import UserError
from dass_jax.experiment import plan
from dass_jax.nn.layers import one_device
from dass_jax.spaces import SPACES
from tests.config_files import one_line

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "configs" / "experiments"
NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.toml"))


BASE_RUN = """
seed = 9
controls = ["random"]
[method]
epochs = 6
prune_epochs = 4
clip = 2.0
[hypergradient]
name = "neumann"
[network]
channels = 4
"""


def read(folder: pathlib.Path, text: str) -> plan.Plan:
    (folder / "run.toml").write_text(BASE_RUN, encoding="utf-8")
    path = folder / "new.toml"
    path.write_text(text, encoding="utf-8")
    return plan.load(path)


def test_every_combination_is_a_run_and_the_first_axis_varies_slowest(tmp_path: pathlib.Path) -> None:
    text = """
        base = "run.toml"
        [set]
        data.limit = 100
        [axes]
        seed = [0, 1]
        method = ["dass", "random"]
        sparsity.keep = [0.1, 0.05]
    """
    found = read(tmp_path, text)
    configs = [run.config for run in found.runs]
    assert [(c.seed, c.method.name, c.sparsity.keep) for c in configs] == [
        (seed, method, keep) for seed in (0, 1) for method in ("dass", "random") for keep in (0.1, 0.05)
    ]
    assert {(c.data.limit, c.network.fields.channels, c.controls, c.seeds) for c in configs} == {(100, 4, (), 1)}
    assert (found.title, found.text) == ("new", text) and {run.network for run in found.runs} == {
        "20 cells, 4 channels"
    }
    assert found.runs[1].name == f"dass-keep0.05-seed0-{config.digest(configs[1])}"
    assert len({run.name for run in found.runs}) == 8


def test_each_table_of_runs_goes_through_the_axes_that_it_does_not_set(tmp_path: pathlib.Path) -> None:
    text = """
        base = "run.toml"
        axes = { seed = [0, 1], method = ["dass", "random"] }
        [[runs]]
        [[runs]]
        name = "Large one"
        method = "dass"
        network = { cells = 3 }
    """
    runs = read(tmp_path, text).runs
    assert [(run.network, run.config.method.name, run.config.seed) for run in runs] == [
        *(("20 cells, 4 channels", method, seed) for seed in (0, 1) for method in ("dass", "random")),
        ("Large one", "dass", 0),
        ("Large one", "dass", 1),
    ]
    assert runs[-1].config.network.fields.cells == 3 and runs[-1].name.startswith("Large_one-dass-")


def test_each_step_starts_from_what_the_one_before_has_made(tmp_path: pathlib.Path) -> None:
    text = """
        base = "run.toml"
        [set]
        method.prune_epochs = 24
        [axes]
        method.name = ["dass", "darts"]
        method.clip = [1.0]
    """
    dass, darts = (run.config.method.fields for run in read(tmp_path, text).runs)
    # The same budget, 6 + 24, and what [axes] says of the method that it names.
    assert (dass.epochs, dass.prune_epochs, dass.clip) == (6, 24, 1.0)
    assert (darts.epochs, darts.clip) == (30, 1.0)
    with pytest.raises(UserError, match=r"unknown key 'axes\.method\.clip' \('dass', .*method 'random' has no fields"):
        read(tmp_path, text.replace('"darts"', '"random"'))


def test_a_published_network_and_another_recipe_are_runs_too(tmp_path: pathlib.Path) -> None:
    text = """
        base = "run.toml"
        [set]
        network.drop_path = 0.5
        recipe = "dense"
        train.lr = 0.25
        [[runs]]
        network = "resnet18"
    """
    (run,) = read(tmp_path, text).runs
    assert (run.config.train.name, run.config.train.fields.lr) == ("dense", 0.25)
    assert (run.config.network.name, run.config.network.fields.drop_path) == ("resnet18", 0.5)
    assert (run.network, run.name.partition("-keep")[0]) == ("resnet18", "given")


def test_a_table_of_runs_can_have_a_base_of_its_own(tmp_path: pathlib.Path) -> None:
    (tmp_path / "other.toml").write_text('[space]\nname = "nasbench201"\n[sparsity]\nkeep = 0.3\n')
    text = '[set]\nseed = 7\n[[runs]]\nbase = "other.toml"\n[[runs]]\nbase = "run.toml"\n'
    other, own = (run.config for run in read(tmp_path, text).runs)
    assert (other.space.name, other.sparsity.keep, other.seed) == ("nasbench201", 0.3, 7)
    assert (own.space.name, own.sparsity.keep, own.seed) == ("darts", 0.01, 7)


def test_what_tells_runs_apart_but_for_their_seed_is_in_the_names_of_their_networks(tmp_path: pathlib.Path) -> None:
    """They are averaged by network, method and kept fraction."""
    text = 'base = "run.toml"\n[axes]\nseed = [0, 1]\nsparsity.keep = [0.1, 0.01]\n'
    plain = {run.network for run in read(tmp_path, text).runs}
    assert len(plain) == 1
    told = read(tmp_path, text + 'sparsity.distribution = ["layer", "erk"]\ntrain.pretrain_lr = [0.1, 0.2]\n').runs
    (name,) = plain
    assert {run.network for run in told} == {
        f"{name}, pretrain lr {rate}, {distribution}" for distribution in ("layer", "erk") for rate in (0.1, 0.2)
    }


def test_architectures_of_different_seeds_are_averaged_and_of_one_seed_are_not(tmp_path: pathlib.Path) -> None:
    def networks(*given: tuple[int, str]) -> list[str]:
        tables = [f'[[runs]]\nname = "found"\nseed = {seed}\narchitecture = "{name}"' for seed, name in given]
        return [run.network for run in read(tmp_path, "\n".join(['base = "run.toml"', *tables])).runs]

    assert networks((0, "dass_99"), (1, "dass_95")) == ["found", "found"]
    assert networks((0, "dass_99"), (0, "dass_95")) == ["found, dass_99", "found, dass_95"]


def test_a_recipe_that_prunes_nothing_keeps_everything_whatever_the_search_keeps(tmp_path: pathlib.Path) -> None:
    text = 'base = "run.toml"\n[set]\nrecipe = "dense"\n[axes]\nsparsity.keep = [0.1, 0.01]\n'
    found = read(tmp_path, text).runs
    assert [(run.keep, run.network.rpartition(", ")[2]) for run in found] == [(1.0, "keep 0.1"), (1.0, "keep 0.01")]


def test_a_method_without_a_hypergradient_leaves_that_of_the_base(tmp_path: pathlib.Path) -> None:
    text = 'base = "run.toml"\n[axes]\nmethod = ["random", "darts"]\n'
    random, darts = (run.config for run in read(tmp_path, text).runs)
    assert random.hypergradient == Config.hypergradient and darts.hypergradient.name == "neumann"


def test_without_axes_there_is_the_base_alone(tmp_path: pathlib.Path) -> None:
    (run,) = read(tmp_path, 'base = "run.toml"\ntitle = "One"').runs
    assert (run.config.method.name, run.config.seed) == ("dass", 9)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_experiments_load(name: str) -> None:
    found = plan.load(EXPERIMENTS / f"{name}.toml")
    assert f" {len(found.runs)} runs" in found.text, "the cost in the header"
    assert f"python -m dass_jax.experiment {name}\n" in found.text
    for given, space in {(run.config.architecture, run.config.space) for run in found.runs if run.config.architecture}:
        # Raises for one that the space does not have.
        SPACES[space.name].make(space.fields, 10, one_device, None).encode(architectures.load(given))


SAME = ("fig2", "fig5", "fig10")
BASE = 'base = "run.toml"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel = 1", "unknown key 'titel' (did you mean 'title'?); allowed: title, base, set, axes, runs, report"),
        ("", "base is missing; allowed: base = FILE"),
        ('base = "none.toml"', "none.toml' cannot be read"),
        (BASE + "set = 3", "set = 3; allowed: a table"),
        (BASE + "[set]\nsparsity.kep = 0.1", "unknown key 'set.sparsity.kep' (did you mean 'keep'?); allowed: keep"),
        (BASE + "[set]\nsparsity.keep = 0", "set.sparsity.keep = 0; allowed: a number in (0, 1]"),
        (BASE + "[set]\nsearch.epochs = 3", "unknown key 'set.search.epochs'; allowed: in its place method.epochs"),
        (BASE + '[set]\nmethod = "given"', "method.name = 'given' without an architecture; allowed: "),
        (BASE + "[axes]\nseeds = [1]", "axes.seeds: a run of an experiment has one method and one seed"),
        (BASE + '[set]\ncontrols = ["dass"]', "set.controls: a run of an experiment has one method"),
        (BASE + "[axes]\nseed = 1", "axes.seed = 1; allowed: a list of different values"),
        (BASE + "[axes]\nseed = []", "axes.seed = []; allowed: a list of different values"),
        (BASE + "[axes]\nseed = [1, 1]", "axes.seed = [1, 1]; allowed: a list of different values"),
        (BASE + '[axes]\nmethod = ["das"]', "axes.method.name = 'das' (did you mean 'dass'?); allowed: 'dass'"),
        (BASE + "runs = [1]", "runs = 1; allowed: a table [[runs]] for each"),
        (BASE + "[[runs]]\nbase = 4", "runs.base = 4; allowed: base = FILE"),
        (BASE + "[[runs]]\nname = 4", "runs.name = 4; allowed: what the tables call the network"),
        (BASE + "[[runs]]\n[[runs]]", "is there twice; allowed: runs that differ"),
        (BASE + "[report]\nwatts = 65", "report.watts = 65 and report.grams_per_kwh = 0; allowed: both"),
        (BASE + "[report]\nwats = 65", "unknown key 'report.wats' (did you mean 'watts'?)"),
        (
            BASE + '[report]\ntables = ["metods"]',
            "report.tables = 'metods' (did you mean 'methods'?); allowed: 'methods'",
        ),
        (
            BASE + '[report]\ncountry = "DEU"\nwatts = 65\ngrams_per_kwh = 1',
            "report.country = 'DEU' and report.watts = 65;",
        ),
        (BASE + "[report]\ntsne_cell = 21", "report.tsne_cell = 21; allowed: 0 (the last) to 20, the cells of the"),
        (BASE + "[report]\ntsne_images = 9", "report.tsne_images = 9; allowed: an integer in [10, 1000000]"),
        (
            BASE + "[report]\nkeep = 0.5",
            "report.keep = 0.5; allowed: a fraction that a run of the experiment keeps, or 0",
        ),
        (BASE + "[set]\nseed = -1", "set.seed = -1; allowed: an integer in [0, 2147483647]"),
        ("base = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_answered_with_one_line(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert message in one_line(caught) and "new.toml" in str(caught.value)


def test_tables_and_figures_are_those_of_the_report() -> None:
    from dass_jax.report.experiment.figures import FIGURES
    from dass_jax.report.experiment.tables import TABLES

    assert get_args(plan.TableName) == tuple(TABLES) and get_args(plan.FigureName) == tuple(FIGURES)
    extra = {"drop", "cost", "kendall", "tsne"}
    assert set(plan.Report().tables) == set(TABLES) - extra and set(plan.Report().figures) == set(FIGURES) - extra


def test_the_figures_of_the_same_runs_share_a_folder() -> None:
    named = {name: {run.name for run in plan.load(EXPERIMENTS / f"{name}.toml").runs} for name in SAME}
    assert named["fig2"] == named["fig5"] > named["fig10"]
