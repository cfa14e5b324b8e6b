"""The report of a run: one self-contained HTML file with every table and figure."""

import math
import os
import pathlib
import uuid
from typing import Any

from dass_jax.errors import UserError
from dass_jax.report import markup, style
from dass_jax.report.learning import learning, matrices
from dass_jax.report.ranking import ranking
from dass_jax.report.records import Run, methods, read
from dass_jax.report.results import Outcome
from dass_jax.report.sections import architectures, predictions, published, sparsity, time
from dass_jax.report.tables import columns, decimal, evaluations_table, table_of, weight_columns

SECTIONS = (predictions, architectures, published, ranking, learning, matrices, sparsity, time)
"""In the order of the page, between the results and their origin."""


def build(run: pathlib.Path) -> pathlib.Path:
    """Writes RUN/report.html, whole or not at all, and returns its path.

    Raises:
      UserError: if `run` is no run folder, is damaged or cannot be written to.
    """
    # A lone surrogate, which JSON can hold, has no UTF-8 form.
    return write_whole(run / "report.html", render(read(run)).encode("utf-8", errors="replace"))


def write_whole(target: pathlib.Path, data: bytes) -> pathlib.Path:
    """Writes a file, in a folder that is made if need be, whole or not at all; returns its path.

    Raises:
      UserError: if it cannot be written.
    """
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")  # other machines may write it too
    try:
        target.parent.mkdir(exist_ok=True)
        part.write_bytes(data)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{target} cannot be written: {error.strerror}") from error
    return target


def render(run: Run) -> str:
    """The whole page as HTML."""
    with style.settings():
        html = "\n".join(section(run) for section in (_header, _results, *SECTIONS, _origin))
    return markup.page(f"Run {run.title}", html)


def _header(run: Run) -> str:
    names = methods(run)
    main = run.outcomes[0] if run.outcomes else None
    pairs = [
        ("method", " – ".join(filter(None, (names[0], main.title if main else ""))) if names else "not known yet"),
        ("controls", ", ".join(names[1:]) or "none"),
        ("seed" if len(run.seeds) == 1 else "seeds", ", ".join(map(_known, run.seeds))),
        ("weights to keep", "all" if main and run.keep is None else _keep(run.keep) + _shared(run.config)),
        ("task", _task(main) if main else "not evaluated yet"),
        ("data", run.data or "not known"),
        *(("other data", text) for text in run.accepted),
    ]
    unfinished = f"This run is unfinished: it has no results.json yet. {_progress(run)}"
    note = "" if main else markup.paragraph(unfinished, "note")
    return markup.heading(f"Run {run.title}", 1) + note + markup.pairs_table(pairs)


def _task(main: Outcome) -> str:
    task, unit = main.task, f" in {main.task.unit}" if main.task.unit else ""
    better = "higher" if task.higher_is_better else "lower"
    return f"{task.name}: {task.metric}{unit} of {decimal(task.examples)} test examples, {better} is better"


def _progress(run: Run) -> str:
    if not run.epochs:
        return "No epoch is done."
    last = run.epochs[-1]
    return f"Last epoch done: {last.method}, {last.key[1]}, epoch {last.epoch} of {last.epochs}."


def _results(run: Run) -> str:
    found = run.outcomes
    if not found:
        return ""
    metric = found[0].task.metric
    text = (
        "Evaluations stand in the order of time: the last is that of the final network. MACs are multiply-accumulates "
        "for one example, in all and with the weights that are not zero. Time is the sum of the phases below."
    )
    if not all(math.isnan(each.nid) for each in found):
        text += f" NID is the final network's {metric} divided by the thousands of kept weights."
    if len(run.seeds) > 1:
        text += (
            " Each seed has its row; under them stand mean and standard deviation of the sample (n − 1). The seeds run "
            "as a batch: a seed's time is its share."
        )
    parts = [markup.heading("Results"), markup.rows_table(*table_of(columns(found), found)), markup.paragraph(text)]
    if every := evaluations_table(found):
        parts.append(markup.details("All metrics of the evaluations", markup.rows_table(*every)))
    parts += [markup.heading("Weights", 3), markup.rows_table(*table_of(weight_columns(found), found))]
    if not all(math.isnan(each.parameters["paper"]) for each in found):
        parts.append(markup.paragraph("“The paper's count” counts kept weights as the DASS paper's table does."))
    return "\n".join(parts)


def _origin(run: Run) -> str:
    parts = [markup.heading("Origin")]
    environment, starts = dict(run.environment), run.environment.get("starts")
    if isinstance(starts, dict) and len(starts) < 2:  # it says what the rest says
        del environment["starts"]
    if environment:
        parts += [markup.heading("Environment", 3), markup.pairs_table(_flat(environment))]
    parts.append(markup.details("Configuration (config.toml, all values resolved)", markup.pre(run.config_text)))
    return "\n".join(parts)


def _flat(tree: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as (dotted name, value) pairs."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{before}{key}.")
        else:
            pairs.append((before + key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return pairs


def _known(value: Any) -> str:
    return "not known" if value is None else str(value)


def _shared(config: dict[str, Any]) -> str:
    """How the kept weights are shared out, where it is not per layer."""
    table = config.get("sparsity")
    name = table.get("distribution", "layer") if isinstance(table, dict) else "layer"
    return "" if name == "layer" else f", shared out by {name}"


def _keep(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _known(value)
    return f"{value:g} ({100 * value:g} % of the prunable weights)"
