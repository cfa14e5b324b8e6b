"""The gallery's drawings, by the report's own functions: `<!-- drawn: NAME -->` becomes the graphs of a published
architecture, `<!-- found: FILE.csv METHOD KEEP SEED -->` those of a row of docs/results/.
"""

import csv
import io
import json
import pathlib
import re
from typing import Any

from matplotlib import rc_context
from mkdocs.structure.files import File, Files

from dass_jax import architectures
from dass_jax.report.graphs import graph_figure

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"
PUBLISHED = re.compile(r"<!-- drawn: (\w+) -->")
FOUND = re.compile(r"<!-- found: (\S+) (\S+) (\S+) (\d+) -->")
PAGE = "gallery.md"


def row(file: str, run: str, keep: str, seed: str) -> dict[str, str]:
    """The row of a table of results, by the network's or the method's name, the kept share and the seed."""
    with (RESULTS / file).open(encoding="utf-8", newline="") as lines:
        found = [
            line
            for line in csv.DictReader(lines)
            if run in (line["method"], line["network"].replace(" ", "_").replace(",", ""))
            and (line["keep"], line["seed"]) == (keep, seed)
        ]
    if len(found) != 1:
        raise ValueError(f"{file} has {len(found)} rows of {run} at {keep} with seed {seed}; allowed: one")
    return found[0]


def drawings(name: str, architecture: Any) -> dict[str, tuple[str, str]]:
    """File → (title, SVG) of each graph."""
    found = {}
    for number, graph in enumerate(architectures.family_of(architecture).graphs(architecture)):
        with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
            svg = io.StringIO()
            graph_figure(graph, graph.name).savefig(svg, format="svg", metadata={"Date": None})
        found[f"gallery/{name}-{number}.svg"] = (graph.name, svg.getvalue())
    return found


def asked(markdown: str) -> dict[str, tuple[str, Any]]:
    """Comment → (name, architecture) of all that the page asks for."""
    published = architectures.published()
    found = {match[0]: (match[1], published[match[1]]) for match in PUBLISHED.finditer(markdown)}
    for match in FOUND.finditer(markdown):
        line = row(*match.groups())
        data = json.loads(line.get("architecture") or line["genotype"])
        name = "-".join((match[1].removesuffix(".csv"), *match.groups()[1:]))
        found[match[0]] = (name, architectures.from_json(data))
    return found


def on_files(files: Files, config: Any) -> Files:
    page = files.get_file_from_path(PAGE)
    assert page is not None
    for name, architecture in asked(page.content_string).values():
        for file, (_, svg) in drawings(name, architecture).items():
            files.append(File.generated(config, file, content=svg))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    if page.file.src_uri != PAGE:
        return markdown
    for comment, (name, architecture) in asked(markdown).items():
        graphs = architectures.family_of(architecture).graphs(architecture)
        shown = [
            f"![{name}: {graph.name}](gallery/{name}-{number}.svg){{ loading=lazy }}"
            for number, graph in enumerate(graphs)
        ]
        markdown = markdown.replace(comment, "\n".join(shown))
    return markdown
