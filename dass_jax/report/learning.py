"""The sections on what was recorded epoch by epoch: each takes the run and returns HTML, which may be empty."""

from collections.abc import Iterable

from dass_jax.report import curves, declared, heatmap, markup
from dass_jax.report.curves import Group
from dass_jax.report.declared import Key
from dass_jax.report.records import Run, keys, methods
from dass_jax.report.sections import of_seeds
from dass_jax.report.tables import in_brackets


def learning(run: Run) -> str:
    own, checks = ([_phase(run, key) for key in keys(run) if key[0].startswith("check ") == of] for of in (False, True))
    found = "\n".join(own) or markup.paragraph("No epoch is done.")
    more = markup.details("Trainings of architectures that check scores", "\n".join(checks)) if checks else ""
    return markup.heading("Learning curves") + found + more


def _phase(run: Run, key: Key) -> str:
    """The curves of one phase, of all methods that have come to it."""
    own = [each for each in run.epochs if each.key == key]
    who = [method for method in methods(run) if any(each.method == method for each in own)]
    total = max(each.epochs for each in own)
    titles = {method: declared.phase(run.declared, method, key).title for method in who}
    panels: list[str] = []
    captions: list[str] = []
    for group in curves.groups(run.declared, run.epochs, methods(run), key):
        alt = f"Curves of {group.title} over {total} epochs of {_named(each.method for each in group.series)}"
        panels.append(markup.image(curves.value_figure(group, key[1], total), alt))
        if group.gaps:
            alt = f"Gap of {group.title} over {total} epochs of {_named(each.first.method for each in group.gaps)}"
            panels += [markup.image(curves.gap_figure(group, key[1], total), alt), _last_epochs(group)]
            captions.append(_of_gap(group))
    captions += [f"{method}: {title}." for method, title in titles.items() if title != titles[who[0]]]
    captions += [
        f"{each.method}{of_seeds([] if each.seed is None else [each.seed])} ended early, after epoch {each.epoch}."
        for each in own
        if each.stopped
    ]
    if not panels:
        return markup.heading(titles[who[0]], 3) + markup.paragraph(" ".join(["No metric was recorded.", *captions]))
    captions.insert(0, "A colour for each method; where a figure has several lines, its legend names them.")
    if len(run.seeds) > 1:
        captions.append("All figures are means over the seeds; bands: one standard deviation (n − 1) to either side.")
    return markup.heading(titles[who[0]], 3) + markup.panels(panels, " ".join(captions))


def _named(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _of_gap(group: Group) -> str:
    first, second = curves.names(group)
    unit = f", in {curves.points(group.unit)}," if group.unit else ""
    shaded = "" if curves.has_bands(group) else f"; it is shaded for {group.gaps[0].first.method}"
    return f"The gap of {group.title}{unit} is {first} less {second}{shaded}. The table holds the last epoch with both."


def _last_epochs(group: Group) -> str:
    units = [f"{line} {in_brackets(group.unit)}".strip() for line in curves.names(group)]
    gap = in_brackets(curves.points(group.unit))
    header = [("method", ""), ("epoch", ""), *((group.title, unit) for unit in units), ("gap", gap)]
    return markup.rows_table(header, curves.last_epochs(group), main=(0,))


def matrices(run: Run) -> str:
    parts = {method: _of_method(run, method) for method in methods(run)}
    shown = [
        html if index == 0 else markup.details(f"Matrices of the control {method}", html)
        for index, (method, html) in enumerate(parts.items())
        if html
    ]
    return markup.heading("Matrices over the epochs") + "\n".join(shown) if shown else ""


def _of_method(run: Run, method: str) -> str:
    seed = next((each.seed for each in run.epochs if each.method == method), None)
    known = {(each.method, each.seed): each.chosen for each in run.outcomes}.get((method, seed), {})
    found = heatmap.histories(run.declared, run.epochs, method, keys(run), seed)
    name = method + of_seeds([] if seed is None else [seed])
    images, captions = [], []
    for each in found:
        rows, columns, epochs = each.values.shape
        chosen = known.get(each.name, ())
        fits = all(row < rows and column < columns for row, column in chosen)
        figure = heatmap.heat_figure(each, f"{each.matrix.title}, {name}", chosen if fits else ())
        images.append(markup.image(figure, f"Heat map of {each.matrix.title} of {name} over {epochs} epochs"))
        if rows > heatmap.MOST:
            captions.append(f"Drawn are the first {heatmap.MOST} of its {rows} rows.")
    shown = dict.fromkeys((each.matrix.value, each.matrix.title) for each in found)
    captions.append(f"Shown are: {', '.join(f'{value} ({title})' for value, title in shown)}.")
    captions.append(
        "A panel for each row of the matrix, a line in it for each column, the epochs from left to right; the colour "
        "scale at the top right runs from the smallest to the largest value. At a red line another phase begins; a red "
        "triangle marks what became part of the architecture. Grey: not recorded."
    )
    if seed is not None:
        captions.append(f"Shown is seed {seed}; metrics.jsonl holds the others.")
    return markup.wide("\n".join(images), " ".join(captions)) if images else ""
