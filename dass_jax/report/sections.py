"""The sections of the report that hold figures: each takes the run and returns HTML, which may be empty."""

import math

from matplotlib.figure import Figure

from dass_jax.architectures.darts import Cell, Genotype
from dass_jax.report import bars, curves, heatmap, markup
from dass_jax.report.cells import cell_figure, dot
from dass_jax.report.records import SEARCH, TRAINING, Run, methods
from dass_jax.report.results import Layer, decimal, first_seeds, titled
from dass_jax.report.style import colour

_STAGES = {
    "step1": "Step 1: architecture search (dense operations; in dass_op and dass_joint sparse ones)",
    "step2": "Step 2: architecture search with sparse operations",
    "pretrain": "Step 3: training of the dense network",
    "scores": "Step 3: learning of the pruning scores",
    "finetune": "Step 3: fine-tuning of the sparse network",
}


def cells(run: Run) -> str:
    names = methods(run)
    found = [(each.method, each.seed, each.genotype) for each in run.outcomes if each.genotype is not None]
    if run.outcomes and not found:
        return ""
    if run.genotypes:
        main = names[0] if names else "found architecture"
        found = [(main, seed, genotype) for seed, genotype in run.genotypes.items()] + [
            each for each in found if each[0] != main
        ]
    if not found:
        return markup.heading("Cells") + markup.paragraph("No cell has been derived yet.")
    groups: dict[tuple[str, Genotype], list[int]] = {}
    for method, seed, genotype in found:
        groups.setdefault((method, genotype), []).extend([] if seed is None else [seed])
    parts = [markup.heading("Cells")]
    for index, ((method, genotype), seeds) in enumerate(groups.items()):
        name = method + _of_seeds(seeds)
        html = _genotype(genotype, name)
        role = "" if method == found[0][0] else "the control "
        parts.append(markup.details(f"Cells of {role}{name}", html) if index else html)
    return "\n".join(parts)


def _of_seeds(seeds: list[int]) -> str:
    """ ", seeds 0, 3" for a title; nothing when the run has only one."""
    return f", seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else ""


def _genotype(genotype: Genotype, method: str) -> str:
    caption = (
        "A cell of the network. c_{k-2} and c_{k-1} are the outputs of the two cells before; each node adds up what "
        "its edges bring; each edge is one operation; the output c_k joins all nodes' channels. Numbers are those of "
        "the genotype's file. A crossing without a dot is no connection."
    )
    figures = (
        markup.image(cell_figure(cell, f"{kind} cell, {method}"), f"Graph of the {kind} cell: {_sentence(cell)}")
        for kind, cell in genotype._asdict().items()
    )
    text = "\n\n".join(dot(cell, f"{kind} cell, {method}") for kind, cell in genotype._asdict().items())
    as_text = markup.details("The same as DOT text (Graphviz)", markup.pre(text))
    return markup.wide("\n".join(figures), caption) + as_text


def _sentence(cell: Cell) -> str:
    names = ("c_{k-2}", "c_{k-1}", *(f"node {node}" for node in range(2, len(cell) + 2)))
    edges = ((pair, node) for node, pairs in enumerate(cell, start=2) for pair in pairs)
    return "; ".join(f"{names[source]} to {names[node]} by {operation}" for (operation, source), node in edges)


def learning(run: Run) -> str:
    parts = [_stage(run, stage) for stage in (*SEARCH, *TRAINING)]
    return markup.heading("Learning curves") + ("\n".join(filter(None, parts)) or markup.paragraph("No epoch is done."))


def _stage(run: Run, stage: str) -> str:
    """Loss, accuracy and gap of one stage; empty if no method has come to it."""
    found = {quantity: curves.series(run.epochs, methods(run), stage, quantity) for quantity in ("loss", "accuracy")}
    if not found["loss"]:
        return ""
    total = max(each.epochs for each in run.epochs if each.stage == stage)
    who = ", ".join(each.method for each in found["loss"])
    figures = [
        (curves.value_figure(lines, stage, quantity, total), f"Curves of {quantity} over {total} epochs of {who}")
        for quantity, lines in found.items()
    ]
    seen, unseen = curves.names(stage)
    caption = f"Solid: {seen}. No {unseen} values were measured in this stage."
    if curves.has_gap(found["accuracy"]):
        alt = f"Generalisation gap over {total} epochs of {who}"
        figures.append((curves.gap_figure(curves.gaps(run.epochs, methods(run), stage), stage, total), alt))
        shaded = "" if len(run.seeds) > 1 else f"; it is shaded for {found['accuracy'][0].method}"
        caption = (
            f"Solid: {seen}, dashed: {unseen}; accuracy in per cent. The gap, in points, is the accuracy on {seen} "
            f"images minus that on {unseen} images{shaded}. The table holds the last epoch with both."
        )
    turned = curves.series(run.epochs, methods(run), stage, "cosine")
    if stage in SEARCH and any(each.unseen.epoch.size for each in turned):
        alt = f"Cosine between α's gradient and its first-order part over {total} epochs of {who}"
        figures.append((curves.cosine_figure(turned, stage, total), alt))
        caption += " The cosine is between the gradient that α follows and its first-order part; 1 is first order."
    if collapse := _collapse(run, stage, total):
        figures += collapse
        caption += (
            " Skip connections are counted in the cells that would be derived after each epoch; entropy is the mean of "
            "the edges', which falls to 0 as one operation takes all."
        )
    for each in run.epochs:
        if each.stage == stage and each.stopped:
            caption += f" {each.method}: ended by search.stop_at_skips after epoch {each.epoch}."
    if len(run.seeds) > 1:
        caption += " All figures are means over the seeds; bands: one standard deviation (n − 1) to either side."
    if stage in SEARCH:
        caption += " The lower level sees the train images, the upper level the validation images."
    images = [markup.image(*figure) for figure in figures]
    header = (
        ("method", ""),
        ("epoch", ""),
        ("accuracy", f"{seen} [%]"),
        ("accuracy", f"{unseen} [%]"),
        ("gap", "[points]"),
    )
    last = markup.rows_table(header, [curves.last_epoch(each) for each in found["accuracy"]], main=(0,))
    return markup.heading(_STAGES[stage], 3) + markup.panels([*images, last], caption)


def _collapse(run: Run, stage: str, total: int) -> list[tuple[Figure, str]]:
    """Skip connections and entropy of a search's cells, each with its text; nothing where they are not recorded."""
    figures = []
    for quantity, meaning in (
        ("skips", "Skip connections that the cells would have"),
        ("entropy", "Entropy of the edges"),
    ):
        lines = curves.of_cells(run.epochs, methods(run), stage, quantity)
        if lines:
            text = f"{meaning}, over {total} epochs of {', '.join(each.method for each in lines)}"
            figures.append((curves.cells_figure(lines, stage, quantity, total), text))
    return figures


def weights(run: Run) -> str:
    parts = {method: _heat(run, method) for method in methods(run)}
    shown = [
        html if index == 0 else markup.details(f"Edge weights of the control {method}", html)
        for index, (method, html) in enumerate(parts.items())
        if html
    ]
    return markup.heading("Edge weights") + "\n".join(shown) if shown else ""


def _heat(run: Run, method: str) -> str:
    seed = next((each.seed for each in run.epochs if each.method == method), None)
    derived = {(each.method, each.seed): each.genotype for each in run.outcomes}.get((method, seed))
    if method == methods(run)[0]:
        derived = run.genotypes.get(seed, derived)
    name = method + _of_seeds([] if seed is None else [seed])
    images = []
    for kind in Genotype._fields:
        found = heatmap.history(run.epochs, method, kind, seed)
        if found is not None:
            cell = getattr(derived, kind) if derived else None
            fits = cell is not None and 2 * found.weights.shape[0] == len(cell) * (len(cell) + 3)
            figure = heatmap.heat_figure(found, f"{kind} cell, {name}", cell if fits else None)
            epochs = found.weights.shape[2]
            alt = f"Heat map of the edge weights of the {kind} cell of {name} over {epochs} search epochs"
            images.append(markup.image(figure, alt))
    caption = (
        "Architecture weights after the softmax, epoch by epoch (colour scale at the top right, from the smallest to "
        "the largest). Each panel is an edge “input → node”, each row an operation. The red line is the border between "
        "Step 1 and Step 2; a red triangle marks an operation that is part of the found cell. Grey: not recorded."
    )
    if seed is not None:
        caption += f" Shown is seed {seed}; metrics.jsonl holds the others."
    return markup.wide("\n".join(images), caption) if images else ""


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
    stages = list(dict.fromkeys(stage for times in seconds.values() for stage in times))
    rows = [[method, *(decimal(times.get(each, math.nan), 1) for each in stages)] for method, times in seconds.items()]
    caption = "Time of each stage in seconds. A dash: the method does not have this stage."
    if len(run.seeds) > 1:
        caption += " Sums over the seeds."
    if not run.outcomes:
        caption += " Unfinished run: sums over the epochs done so far."
    header = [("method", ""), *((stage, "[s]") for stage in stages)]
    figure = markup.wide(markup.image(bars.time_figure(seconds), "Seconds of each stage of each method"), caption)
    return markup.heading("Time") + figure + markup.rows_table(header, rows, main=(0,))


def _reported(run: Run) -> dict[str, dict[str, float]]:
    """Seconds of the finished run: method -> stage -> sum over the seeds."""
    sums: dict[str, dict[str, float]] = {}
    for each in run.outcomes:
        stages = sums.setdefault(each.method, dict.fromkeys(each.seconds, 0.0))
        for stage, seconds in each.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return sums


def _measured(run: Run) -> dict[str, dict[str, float]]:
    """Seconds of the epochs so far: method -> stage -> sum."""
    sums: dict[str, dict[str, float]] = {}
    for each in run.epochs:
        stages = sums.setdefault(each.method, {})
        known = 0.0 if math.isnan(each.seconds) else each.seconds
        stages[each.stage] = stages.get(each.stage, 0.0) + known
    return sums


SECTIONS = (cells, learning, weights, sparsity, time)
"""In the order of the page."""
