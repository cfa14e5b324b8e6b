"""The sections on what was found and what it costs: each takes the run and returns HTML, which may be empty."""

import math

from dass_jax.report import bars, graphs, markup, shown
from dass_jax.report.graphs import Architecture
from dass_jax.report.records import Run, methods
from dass_jax.report.results import Known, Layer, first_seeds, titled
from dass_jax.report.style import colour
from dass_jax.report.tables import decimal


def architectures(run: Run) -> str:
    names = methods(run)
    found = [(each.method, each.seed, each.architecture) for each in run.outcomes if each.architecture is not None]
    if run.outcomes and not found:
        return ""
    if run.architectures:
        main = names[0] if names else "found architecture"
        found = [(main, seed, architecture) for seed, architecture in run.architectures.items()] + [
            each for each in found if each[0] != main
        ]
    if not found:
        return markup.heading("Architecture") + markup.paragraph("No architecture has been found yet.")
    groups: dict[tuple[str, str], tuple[Architecture, list[int]]] = {}
    for method, seed, architecture in found:
        group = groups.setdefault((method, architecture.json), (architecture, []))
        group[1].extend([] if seed is None else [seed])
    parts = [markup.heading("Architecture")]
    for index, ((method, _), (architecture, seeds)) in enumerate(groups.items()):
        name = method + of_seeds(seeds)
        html = _architecture(architecture, name)
        role = "" if method == found[0][0] else "the control "
        parts.append(markup.details(f"Architecture of {role}{name}", html) if index else html)
    return "\n".join(parts)


def of_seeds(seeds: list[int]) -> str:
    """ ", seeds 0, 3" for a title; nothing when the run has only one."""
    return f", seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else ""


def _architecture(found: Architecture, method: str) -> str:
    caption = (
        "Each edge is labelled with its operation; an arrow without a label only connects. A crossing without a dot is "
        "no connection."
    )
    notes = [markup.paragraph(f"{part}: {why}", "note") for part, why in found.warnings.items()]
    as_json = markup.details("The same as JSON", markup.pre(found.json))
    if not found.graphs:
        return "\n".join([*notes, markup.pre(found.json)])
    titles = [f"{graph.name}, {method}" for graph in found.graphs]
    figures = [
        markup.image(graphs.graph_figure(graph, title), f"Graph of the {graph.name}: {graphs.sentence(graph)}")
        for graph, title in zip(found.graphs, titles, strict=True)
    ]
    text = "\n\n".join(graphs.dot(graph, title) for graph, title in zip(found.graphs, titles, strict=True))
    as_dot = markup.details("The same as DOT text (Graphviz)", markup.pre(text))
    return "\n".join([*notes, markup.wide("\n".join(figures), caption), as_dot, as_json])


def predictions(run: Run) -> str:
    """What the networks predict of pixels; empty for other tasks."""
    return shown.html(run.shown, tuple(methods(run)), len(run.seeds) > 1)


def published(run: Run) -> str:
    """What a table of published results says of the architectures; empty without one."""
    rows = [
        (each.method, "" if each.seed is None else str(each.seed), column, *_known(known))
        for each in run.outcomes
        for column, known in each.table.items()
    ]
    if not rows:
        return ""
    header = (("method", ""), ("seed", ""), ("column", ""), ("accuracy", "[%]"), ("rank", ""), ("of", ""))
    caption = (
        "What the configuration's table says of the found architectures, without any training of this run. Rank 1 is "
        "the best of all architectures of the table; regret is the distance from it in points; the percentile says how "
        "many per cent of the architectures are worse."
    )
    table = markup.rows_table((*header, ("regret", "[points]"), ("percentile", "[%]")), rows)
    return markup.heading("By the table") + markup.paragraph(caption) + table


def _known(known: Known) -> tuple[str, ...]:
    return (
        decimal(known.value, 2),
        decimal(known.rank),
        decimal(known.of),
        decimal(known.regret, 2),
        decimal(known.percentile, 1),
    )


def sparsity(run: Run) -> str:
    first = first_seeds(run.outcomes)
    parts = [_layers(each.layers, titled(each), index) for index, each in enumerate(first)]
    shown = [
        html if index == 0 else markup.details(f"Layers of the control {titled(each)}", html)
        for index, (html, each) in enumerate(zip(parts, first, strict=True))
        if html
    ]
    return markup.heading("Sparsity by layer") + "\n".join(shown) if shown else ""


def _layers(layers: tuple[Layer, ...], method: str, index: int) -> str:
    if not layers:
        return ""
    caption = (
        "Each dot is a layer: kept weights in per cent of its prunable weights, on a logarithmic axis. A red triangle "
        "at the bottom is a layer that lost all its weights. The dashed line is the share over all layers."
    )
    figure = bars.sparsity_figure(layers, f"kept weights of each layer, {method}", colour(index))
    alt = f"Kept share of the {len(layers)} layers of {method}"
    header = (("layer", ""), ("weights", ""), ("kept", ""), ("kept", "[%]"))
    rows = (
        (layer.path, decimal(layer.weights), decimal(layer.kept), decimal(share, 3))
        for layer, share in zip(layers, bars.kept_share(layers).tolist(), strict=True)
    )
    table = markup.details(f"All {len(layers)} layers of {method} as a table", markup.rows_table(header, rows))
    return markup.wide(markup.image(figure, alt), caption) + table


def time(run: Run) -> str:
    seconds = _reported(run) or _measured(run)
    if not any(seconds.values()):
        return ""
    phases = list(dict.fromkeys(phase for times in seconds.values() for phase in times))
    rows = [[method, *(decimal(times.get(each, math.nan), 1) for each in phases)] for method, times in seconds.items()]
    caption = "Time of each phase in seconds. A hyphen: the method does not have this phase."
    if len(run.seeds) > 1:
        caption += " Sums over the seeds."
    if not run.outcomes:
        caption += " Unfinished run: sums over the epochs done so far."
    header = [("method", ""), *((phase, "[s]") for phase in phases)]
    figure = markup.wide(markup.image(bars.time_figure(seconds), "Seconds of each phase of each method"), caption)
    return markup.heading("Time") + figure + markup.rows_table(header, rows, main=(0,))


def _reported(run: Run) -> dict[str, dict[str, float]]:
    """Seconds of the finished run: method -> phase -> sum over the seeds."""
    sums: dict[str, dict[str, float]] = {}
    for each in run.outcomes:
        phases = sums.setdefault(each.method, dict.fromkeys(each.seconds, 0.0))
        for phase, seconds in each.seconds.items():
            phases[phase] = phases.get(phase, 0.0) + seconds
    return sums


def _measured(run: Run) -> dict[str, dict[str, float]]:
    """Seconds of the epochs so far: method -> phase -> sum."""
    sums: dict[str, dict[str, float]] = {}
    for each in run.epochs:
        phases = sums.setdefault(each.method, {})
        known = 0.0 if math.isnan(each.seconds) else each.seconds
        phases[each.key[1]] = phases.get(each.key[1], 0.0) + known
    return sums
