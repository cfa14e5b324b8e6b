"""Runs inside a notebook: one output that is rewritten while a run works, and pictures of what it found.

    from dass_jax import notebook
    print(notebook.start("compiled"))
    results = notebook.run(["--config", "digits_dass"], "runs/mine")     # the words of python -m dass_jax.train

The notebooks in `notebooks/` are made with it. It needs IPython, which every notebook has.
"""

import base64
import contextlib
import contextvars
import io
import os
import pathlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dass_jax import config, report, train
from dass_jax.errors import Stopped, UserError
from dass_jax.report import markup, records, style
from dass_jax.runtime import folder, settings

BEAT = 1.0
"""Seconds between two looks at the clock while something runs."""
DRAWING = 0.1
"""The share of a run's time that drawing its curves may take."""
LINES = 8
"""Of what was said last: a run of days must not fill the page."""
DPI = 80
"""Points of the screen on an inch of a figure."""
WIDTH = 16
"""Characters of a phase's bar."""


def start(cache: str | os.PathLike[str]) -> str:
    """Settles where compiled programs are kept, which must be before the first one; says what JAX computes on.

    Args:
      cache: a folder, made if it is not there.

    Raises:
      UserError: if it cannot be written, or JAX finds no device of the kind that JAX_PLATFORMS names.
    """
    path = pathlib.Path(cache).expanduser()
    folder.make(path, "cache")
    without = train.prepare_jax(config.from_dict({"runtime": {"compilation_cache": str(path.absolute())}}))
    if without:
        raise UserError(without)
    settings.check_platform()
    kinds = Counter(f"{device.device_kind} ({device.platform})" for device in jax.local_devices())
    return ", ".join(f"{number} × {kind}" for kind, number in kinds.items())


def run(words: Sequence[str], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Runs or continues what `python -m dass_jax.train` would for these words in the folder `path`, and shows it in one
    output of the cell: where it stands, its curves as they grow.

    Compiled programs are kept where `start` has said, unless the words say it.

    Returns:
      What results.json holds.

    Raises:
      UserError: as `train.perform`.
      Stopped: after "interrupt"; the same call resumes from there.
    """
    asked = config.parse([*words, "--workdir", str(path)], prog="words").config
    live = Live()
    with settings.own() as aside:
        for line in filter(None, (settings.said(aside), train.prepare_jax(asked))):
            live.say(line)
        try:
            results, _ = train.perform(asked, pathlib.Path(path), live)
        except Stopped:
            live.say("stopped, and everything is kept: the same cell resumes here")
            raise
        finally:
            live.refresh(draw=True)
    return results


def show(*figures: Figure) -> None:
    """Figures in the order in which they are given, as pictures in the output of the cell."""
    _display("\n".join(map(_image, figures)))


def drawings(path: str | os.PathLike[str]) -> list[Figure]:
    """What each method of the finished run in a folder has found, drawn.

    Raises:
      UserError: if the folder holds no run.
    """
    found = []
    for outcome in records.read(pathlib.Path(path)).outcomes:
        for graph in outcome.architecture.graphs if outcome.architecture is not None else ():
            found.append(report.graph_figure(graph, f"{outcome.method}: {graph.name}"))
    return found


class Live:
    """What `runtime.progress.Progress` offers, in one output of a cell that is rewritten."""

    def __init__(self) -> None:
        self.now = ""
        self.said: list[str] = []
        self.phases: dict[str, Phase] = {}
        self.doing = ""
        self.picture, self.drawn, self.due = "", 0, 0.0
        self.lock = threading.Lock()
        self.output = _display("", new=True)

    def say(self, text: str) -> None:
        """One line."""
        self.now = text
        self.said.append(text)
        self.refresh()

    @contextlib.contextmanager
    def busy(self, text: str, announce: bool = True) -> Iterator[None]:
        """Says that it still runs, until the block ends, in a line that goes then."""
        done, began, before = threading.Event(), time.monotonic(), self.doing

        def beat() -> None:
            while not done.wait(BEAT):
                self.doing = f"{text}: {time.monotonic() - began:.0f} s"
                self.refresh()

        if announce:
            self.now = self.doing = text
            self.refresh()
        # In the context of the cell: the output is looked up there.
        thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.doing = before

    @contextlib.contextmanager
    def phase(self, name: str, done: int, epochs: int) -> Iterator["Phase"]:
        """The bar of one phase that starts after `done` epochs."""
        found = self.phases[name] = Phase(self, name, done, epochs)
        self.refresh()
        try:
            yield found
        finally:
            self.refresh(draw=True)

    def refresh(self, draw: bool = False) -> None:
        """Writes the output anew; the curves if that is due, or if `draw` and they have grown."""
        with self.lock:
            grown = sum(len(values) for phase in self.phases.values() for values in phase.curves.values())
            if grown > self.drawn and (draw or time.monotonic() > self.due):
                began = time.monotonic()
                self.picture, self.drawn = _image(_curves(list(self.phases.values()))), grown
                took = time.monotonic() - began
                self.due = time.monotonic() + took / DRAWING
            hidden = len(self.said) - LINES
            lines = [f"({hidden} lines before)"] if hidden > 0 else []
            lines += self.said[-LINES:]
            lines += [phase.line() for phase in self.phases.values()]
            lines += [self.doing] if self.doing else []
            self.output.update(_html(_pre("\n".join(lines)) + self.picture))


class Phase:
    """One phase's bar and curves."""

    def __init__(self, live: Live, name: str, done: int, epochs: int) -> None:
        self.live, self.name, self.done, self.epochs = live, name, done, epochs
        self.first, self.began = done, time.monotonic()
        self.curves: dict[str, list[float]] = {}
        self.text = ""

    def epoch(self, figures: dict[str, float]) -> None:
        """One epoch is over; `figures` are shown beside it."""
        self.done += 1
        for name, value in figures.items():
            self.curves.setdefault(name, []).append(value)
        each = (time.monotonic() - self.began) / (self.done - self.first)
        left = each * (self.epochs - self.done)
        self.text = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self.text += f"  {left:.0f} s left" if left else ""
        self.live.now = self.line()
        self.live.refresh()

    def line(self) -> str:
        """The bar."""
        full = WIDTH * self.done // max(self.epochs, 1)
        bar = "█" * full + "░" * (WIDTH - full)
        return f"{bar} {self.name}  epoch {self.done}/{self.epochs}  {self.text}".rstrip()


def _curves(phases: Sequence[Phase]) -> Figure:
    """A row for losses and one for the other figures, a column for each phase that has begun."""
    shown = [phase for phase in phases if phase.curves]
    figure = Figure(figsize=(min(2.6 * len(shown), 13) + 0.6, 3.6), facecolor="white", layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False, sharey="row", sharex="col")
    for column, phase in enumerate(shown):
        grid[0, column].set_title(style.literal(phase.name), fontsize=9)
        colours = {name: style.colour(n) for n, name in enumerate(dict.fromkeys(map(_level, phase.curves)))}
        for name, values in phase.curves.items():
            axes = grid[0 if name.endswith("loss") else 1, column]
            epochs = range(phase.done - len(values) + 1, phase.done + 1)
            axes.plot(epochs, values, marker=".", color=colours[_level(name)], label=style.literal(name))
        for axes in grid[:, column]:
            axes.set_xlim(0.5, phase.epochs + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=8)
            if axes.lines:
                axes.legend(fontsize=7)
        grid[1, column].set_xlabel("epoch", fontsize=8)
    return figure


def _level(name: str) -> str:
    """`upper_loss`, `upper_accuracy` → `upper`."""
    return name.rpartition("_")[0]


def _pre(text: str) -> str:
    """Text as it stands, whose long lines are not broken: a bar is one line."""
    return markup.pre(text).replace("<pre>", '<pre style="white-space: pre; overflow-x: auto">')


def _image(figure: Figure) -> str:
    """The figure inside the page itself. Not as SVG: where notebooks are shown that is often taken out."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=2 * DPI)
    width = round(DPI * figure.get_size_inches()[0])
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" width="{width}" style="max-width: 100%">'


def _html(text: str) -> Any:
    from IPython.display import HTML

    return HTML(text)


def _display(html: str, new: bool = False) -> Any:
    """Shows HTML in the output of the cell; `new`: returns what rewrites it. Raises UserError outside of a notebook."""
    if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
        raise UserError(
            "dass_jax.notebook shows its output in a cell; allowed: a notebook, or python -m dass_jax.train"
        )
    from IPython.display import display

    return display(_html(html), display_id=True) if new else display(_html(html))
