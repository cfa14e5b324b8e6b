"""The report of a run: one self-contained HTML file with every table and figure."""

import os
import pathlib
from typing import Any

from dass_jax.errors import UserError
from dass_jax.report import markup, style
from dass_jax.report.records import Run, methods, read
from dass_jax.report.results import COLUMNS, WEIGHT_COLUMNS, Column, decimal, table_of
from dass_jax.report.sections import SECTIONS


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
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
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
        ("method", names[0] if names else "not known yet"),
        ("controls", ", ".join(names[1:]) or "none"),
        ("seed" if len(run.seeds) == 1 else "seeds", ", ".join(map(_known, run.seeds))),
        ("weights to keep", _keep(run.keep)),
        ("test images", decimal(main.accuracy["test_images"]) if main else "not evaluated yet"),
    ]
    unfinished = f"This run is unfinished: it has no results.json yet. {_progress(run)}"
    note = "" if main else markup.paragraph(unfinished, "note")
    return markup.heading(f"Run {run.title}", 1) + note + markup.pairs_table(pairs)


def _progress(run: Run) -> str:
    if not run.epochs:
        return "No epoch is done."
    last = run.epochs[-1]
    return f"Last epoch done: {last.method}, {last.stage}, epoch {last.epoch} of {last.epochs}."


def _results(run: Run) -> str:
    if not run.outcomes:
        return ""
    accuracies = (
        "Accuracies are on the whole test set: dense before pruning, sparse after fine-tuning. MACs are "
        "multiply-accumulates for one image, in all and with the weights that are not zero. NID is the "
        "sparse accuracy divided by the thousands of kept weights. Time is the sum of the stages below."
    )
    if len(run.seeds) > 1:
        accuracies += (
            " Each seed has its row; under them stand mean and standard deviation of the sample (n − 1). The seeds run "
            "as a batch: a seed's time is its share."
        )
    return "\n".join(
        (
            markup.heading("Results"),
            _columns(COLUMNS, run),
            markup.paragraph(accuracies),
            markup.heading("Weights", 3),
            _columns(WEIGHT_COLUMNS, run),
            markup.paragraph(
                "Numbers of weights. “The paper's count” counts kept weights as the DASS paper's table does."
            ),
        )
    )


def _columns(columns: tuple[Column, ...], run: Run) -> str:
    return markup.rows_table(*table_of(columns, run.outcomes))


def _origin(run: Run) -> str:
    parts = [markup.heading("Origin")]
    if run.environment:
        parts += [markup.heading("Environment", 3), markup.pairs_table(_flat(run.environment))]
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


def _keep(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _known(value)
    return f"{value:g} ({100 * value:g} % of the prunable weights)"
