"""`python -m dass_jax.latency RUN_OR_CHECKPOINT …`: time, size and memory of each form of a network, batch 1."""

import argparse
import json
import pathlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from dass_jax.errors import Parser, UserError, check_new_file, guarded, show
from dass_jax.latency import clock
from dass_jax.schema import check_arguments


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises UserError."""
    parser = Parser(
        prog="python -m dass_jax.latency",
        description="Times the forms of trained networks in turns: masked dense, compacted, sparse; XLA, ONNX Runtime.",
    )
    text = "a run's folder, one of its files networks/*.npz, or one of its folders checkpoints/*"
    parser.add_argument("sources", metavar="RUN_OR_CHECKPOINT", nargs="+", type=pathlib.Path, help=text)
    parser.add_argument("--method", help="which method's network of the run; default: the main one")
    parser.add_argument("--seed", type=int, help="which seed's network; needed if a run has several")
    text = "check the networks on the test images of these data first, which must be those of their runs"
    parser.add_argument("--data", metavar="SOURCE", help=text)
    text = "continue if they are others, of as many classes and of the same size"
    parser.add_argument("--data.accept-changed", dest="accept", action="store_true", help=text)
    parser.add_argument("--warm-up", type=int, default=100, help="untimed runs of each form; default: 100")
    parser.add_argument("--repetitions", type=int, default=1000, help="timed runs of each form; default: 1000")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--page", type=pathlib.Path, metavar="FILE", help="also write a page with pictures (HTML)")
    text = "also leave latency.json in each run's folder, where an experiment's table looks for it"
    parser.add_argument("--record", action="store_true", help=text)
    found = parser.parse_args(argv)
    check_arguments(found, clock.TIMES)
    for flag in ("out", "page"):
        check_new_file(getattr(found, flag), f"--{flag}")
    for place in found.sources if found.record else []:
        if not (place / "results.json").exists():
            raise UserError(f"--record with {str(place)!r}; allowed: folders of finished runs")
    return found


def of_source(place: pathlib.Path, given: argparse.Namespace, progress: Any) -> dict[str, Any]:
    """The figures of one network."""
    from dass_jax.deploy import check, compact, files, images, source
    from dass_jax.latency import forms, peak

    found = source.trained(place, given.method, given.seed)
    if given.data is not None:
        test = images.tested(found, given.data, given.accept)
        for line in test.said:
            progress.say(line)
        found = test.found
        with progress.busy(f"{found.name}: checking it on the test set"):
            images.demand_measured(test, check.compare(found, {})["masked"], place)
    able, missing = forms.available()
    for line in missing:
        progress.say(line)
    image = next(check.batches(found, 1))[0]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with progress.busy(f"{found.name}: compacting and writing"):
            dense = source.graph_of(found)
            graphs = {"masked": dense, "compacted": compact.compact(dense)}
            sizes = {form.name: forms.write(folder, form, graphs) for form in able}
        calls = {}
        for form in able:
            with progress.busy(f"compiling {form.name}", announce=False):
                run = files.load(folder / form.file)
                run(image)
            calls[form.name] = lambda run=run: run(image)
        with progress.busy(f"timing {len(calls)} forms in turns"):
            times = clock.in_turns(calls, given.warm_up, given.repetitions)
        shape = dense.nodes[0].shape
        memory: dict[str, int | None] = {}
        for form in able if not given.no_memory else []:
            with progress.busy(f"memory of {form.name}", announce=False):
                memory[form.name] = peak.measured(folder / form.file, shape)
    faster = min((name for name in forms.DENSE if name in times), key=lambda name: times[name].median)
    return {
        "network": found.name,
        "keep": found.keep,
        "task": found.task,
        "result": found.network.result,
        "before": {"result": first_result(place, found.network), "form": faster},
        "kept_weights": found.kept,
        "forms": {
            name: {
                "median_ms": one.median,
                "p90_ms": one.p90,
                "speedup": round(times[faster].median / one.median, 2),
                "bytes": sizes[name],
                "peak_bytes": memory.get(name),
            }
            for name, one in times.items()
        },
    }


def first_result(place: pathlib.Path, network: Any) -> float | None:
    """The main metric of a run's network at the first of several evaluations, with all of its weights; None where there
    is but one, and for what is no folder of a finished run."""
    file = place / "results.json"
    if not file.exists():
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    for part in (data, *data.get("controls", {}).values()):
        for one in part.get("runs", [part]):
            evaluations = list(one["evaluations"].values())
            if (one["method"], one["seed"]) == (network.method, network.seed) and len(evaluations) > 1:
                return float(evaluations[0][one["task"]["metric"]])
    return None


def amount(value: float, unit: str) -> str:
    """`24.46 %`, as the reports round it."""
    from dass_jax.report.tables import decimals

    return f"{value:.{decimals(unit, [value])}f} {unit}".rstrip()


def table(found: dict[str, Any]) -> str:
    """The figures of one network for people."""
    task, value = found["task"], found["result"]
    result = "" if value is None else f", {task['metric']} {amount(value, task['unit'])}"
    share = "nothing pruned" if found["keep"] is None else f"keep {found['keep']:g}"
    lines = [
        f"{found['network']}: {share}, {found['kept_weights']:,} weights kept{result}",
        f"{'':<28}{'median [ms]':>12}{'p90 [ms]':>10}{'× dense':>9}{'bytes':>12}{'memory [MB]':>13}",
    ]
    for name, one in found["forms"].items():
        memory = "?" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e6:.1f}"
        lines.append(
            f"{name:<28}{one['median_ms']:>12.3f}{one['p90_ms']:>10.3f}{one['speedup']:>9.2f}"
            f"{one['bytes']:>12,}{memory:>13}"
        )
    return "\n".join(lines)


def pareto(runs: Sequence[dict[str, Any]]) -> str:
    """The forms of all networks that no other one beats, in the main metric and latency or in it and bytes."""
    from dass_jax.report.experiment.statistics import pareto as front
    from dass_jax.report.pareto import named

    task = runs[0]["task"]
    points = [
        (run["result"], one["median_ms"], one["bytes"], f"{named(run)}: {name}")
        for run in runs
        if run["result"] is not None
        for name, one in run["forms"].items()
    ]
    lines = []
    for what, costs in (("latency", [point[1] for point in points]), ("bytes", [point[2] for point in points])):
        lines.append(f"best {task['metric']} against {what}:")
        places = [(float(cost), point[0]) for cost, point in zip(costs, points, strict=True)]
        for index in front(places, task["higher_is_better"]):
            result, ms, size, name = points[index]
            lines.append(f"  {amount(result, task['unit']):>8}  {ms:9.3f} ms  {size:>11,} bytes  {name}")
    return "\n".join(lines)


def check_task(first: dict[str, Any], own: dict[str, Any], place: pathlib.Path) -> None:
    """Raises UserError if a network is measured by something else than the first one."""
    (name, metric), (wanted, by) = ((task["name"], task["metric"]) for task in (own, first))
    if (name, metric) != (wanted, by):
        raise UserError(f"{str(place)!r} is of the task {name}, by {metric}; allowed: {wanted}, by {by}, as the first")


def main(argv: Sequence[str]) -> int:
    """The command line; the exit code is 0."""
    given = parse(argv)
    import os

    from dass_jax.report import pareto as page
    from dass_jax.runtime import folder, settings
    from dass_jax.runtime.progress import Progress

    progress = Progress()
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "warm_up": given.warm_up,
        "repetitions": given.repetitions,
    }
    runs = list[dict[str, Any]]()
    with settings.own():
        settings.check_platform()
        for place in given.sources:
            runs.append(of_source(place, given, progress))
            check_task(runs[0]["task"], runs[-1]["task"], place)
            if given.record:
                folder.write_json(place / "latency.json", {**about, **runs[-1]})
    if given.out is not None:
        given.out.write_text(json.dumps({**about, "runs": runs}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show("\n\n".join([*map(table, runs), *([pareto(runs)] if len(runs) > 1 else [])]))
    if given.page is not None:
        said = (
            f"{about['machine']}; {given.repetitions} calls of each form in turns, after {given.warm_up} untimed ones."
        )
        show(f"page: {page.build(given.page, runs, said)}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
