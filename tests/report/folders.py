"""Run folders of two systems, written here: a search for cells in two steps, and one that nobody has heard of."""

import html.parser
import json
import pathlib
from typing import Any

from dass_jax.architectures.family import Edge, Graph

METHODS = ("dass", "random")
CELLS = ("normal", "reduce")
EDGES = ("c_{k-2} → 2", "c_{k-1} → 2", "c_{k-2} → 3", "c_{k-1} → 3", "2 → 3")
OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")
OPERATIONS += ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")


def pair(group: str, unit: str, seen: str, unseen: str, other: str, gap: bool = False) -> list[dict[str, Any]]:
    """Two curves of one figure: `train` and `other`."""
    first = {"metric": seen, "group": group, "line": "train", "unit": unit, "style": "solid", "gap": gap}
    return [first, {"metric": unseen, "group": group, "line": other, "unit": unit, "style": "dashed"}]


def matrix(cell: str) -> dict[str, Any]:
    grid = [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    labels = {"rows": list(EDGES), "columns": list(OPERATIONS), "value": "weight", "panel": "row", "grid": grid}
    return {"title": f"{cell} cell", **labels}


def phase(chain: str, name: str, title: str) -> dict[str, Any]:
    searching = chain == "search"
    names = [("lower_loss", "upper_loss"), ("lower_accuracy", "upper_accuracy")] if searching else []
    names = names or [("loss", "test_loss"), ("accuracy", "test_accuracy")]
    other = "validation" if searching else "test"
    curves = [*pair("loss", "nats", *names[0], other), *pair("accuracy", "%", *names[1], other, gap=True)]
    matrices = {cell: matrix(cell) for cell in CELLS} if searching else {}
    return {"chain": chain, "name": name, "title": title, "epochs": 2, "curves": curves, "matrices": matrices}


SEARCH = [phase("search", "step1", "Step 1: search"), phase("search", "step2", "Step 2: search, sparse")]
TRAINING = [phase("training", name, f"Step 3: {name}") for name in ("pretrain", "scores", "finetune")]
PHASES = {"methods": {"dass": [*SEARCH, *TRAINING], "random": TRAINING}}


def search_epoch(name: str, epoch: int, epochs: int, **changes: Any) -> dict[str, Any]:
    """Weight of edge e, operation o is (epoch + e/10 + o/100)/10, so that every cell of the heat map is known."""
    rows = [[(epoch + edge / 10 + operation / 100) / 10 for operation in range(8)] for edge in range(5)]
    values = {"lower_loss": 2.0, "lower_accuracy": 30.0 + epoch, "upper_loss": 2.5, "upper_accuracy": 25.0}
    head = {"method": "dass", "chain": "search", "phase": name, "epoch": epoch, "epochs": epochs, "seconds": 1.5}
    return head | values | {"matrices": {"normal": rows, "reduce": rows}} | changes


def training_epoch(method: str, name: str, epoch: int, **changes: Any) -> dict[str, Any]:
    head = {"method": method, "chain": "training", "phase": name, "epoch": epoch, "epochs": 2, "seconds": 0.25}
    return head | {"loss": 1.0, "accuracy": 60.0, "test_loss": 1.5, "test_accuracy": 51.25} | changes


def cell(name: str, *nodes: tuple[tuple[str, int], ...]) -> Graph:
    """The graph of a cell whose nodes, from 2, are (operation, input) pairs, as DARTS numbers them."""
    names = ["c_{k-2}", "c_{k-1}", *(str(2 + node) for node in range(len(nodes)))]
    edges = [Edge(names[i], str(node), operation) for node, pairs in enumerate(nodes, 2) for operation, i in pairs]
    return Graph(f"{name} cell", (*names, "c_k"), (*edges, *(Edge(node, "c_k", "") for node in names[2:])))


ONE = cell("one", (("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 2), ("dil_conv_5x5", 0)))
TWO = cell("two", (("avg_pool_3x3", 1), ("skip_connect", 0)), (("sep_conv_5x5", 1), ("dil_conv_3x3", 2)))


def architecture(*graphs: Graph, **changes: Any) -> dict[str, Any]:
    """What architecture.json holds, and a part of what results.json holds."""
    drawn = [{"name": g.name, "nodes": list(g.nodes), "edges": list(map(list, g.edges))} for g in graphs]
    return {"architecture": {"space": "darts", "parts": drawn}, "graphs": drawn, "warnings": {}} | changes


TASK = {"name": "classification", "metric": "accuracy", "unit": "%", "higher_is_better": True, "examples": 12345}


def outcome(method: str, sparse: float, **changes: Any) -> dict[str, Any]:
    layers = [{"path": f"cells_{index // 2}/op<{index}>/weight", "weights": 1000, "kept": index} for index in range(4)]
    return {
        "method": method,
        "seed": 7,
        "keep": 0.05,
        **architecture(ONE, TWO),
        "chosen": {"normal": [[0, 4], [1, 3], [4, 1], [2, 7]]},
        "task": TASK,
        "evaluations": {"dense": {"accuracy": 71.234, "loss": 0.75}, "sparse": {"accuracy": sparse, "loss": 0.875}},
        "parameters": {"total": 65432, "prunable": 54321, "kept": 2716, "kept_with_bn_bias": 3999, "paper": 2750},
        "macs": {"dense": 9876543, "nonzero": 456789},
        "nid": 23.456,
        "compression": 24.09,
        "seconds": {"compile": 10.0, "step1": 20.5, "pretrain": 30.0, "scores": 4.0, "finetune": 50.25},
        "layers": layers,
    } | changes


def final() -> dict[str, Any]:
    control = outcome("random", 55.5, seconds={"compile": 1.0, "pretrain": 2.0, "scores": None, "finetune": 3.0})
    return outcome("dass", 66.785) | {"controls": {"random": control}}


def write(
    run: pathlib.Path, lines: list[dict[str, Any]], finished: bool = True, phases: dict[str, Any] | None = PHASES
) -> pathlib.Path:
    run.mkdir(exist_ok=True)
    (run / "config.toml").write_text('keep = 0.05\nname = "<script>alert(1)</script>"\n')
    (run / "environment.json").write_text(json.dumps({"versions": {"jax": "1.2.3"}, "commit": "a&b", "seed": 7}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if phases is not None:
        (run / "phases.json").write_text(json.dumps(phases))
    if finished:
        (run / "architecture.json").write_text(json.dumps(architecture(ONE, TWO)))
        (run / "results.json").write_text(json.dumps(final()))
    return run


DIAMOND = Graph(
    "still",
    ("mash", "wash", "low wines", "feints", "spirit"),
    (
        Edge("mash", "wash", "ferment 72h"),
        Edge("wash", "low wines", "pot still"),
        Edge("wash", "feints", "column still"),
        Edge("wash", "feints", "column still"),
        Edge("low wines", "spirit", "cut"),
        Edge("feints", "spirit", ""),
    ),
)
GRAIN = {"title": "grain shares", "rows": ["rye", "oats", "malt"], "columns": ["fine", "coarse"], "value": "share"}
STRANGE_PHASES = {
    "methods": {
        "alchemy": [
            {
                "chain": "search",
                "name": "sift",
                "title": "Sifting of the grain",
                "epochs": 2,
                "curves": [{"metric": "murk", "group": "murk", "line": "in the vat", "unit": "dB", "style": "dotted"}],
                "matrices": {"grain": GRAIN},
            },
            {
                "chain": "search",
                "name": "brew",
                "title": "Brewing",
                "epochs": 1,
                "curves": [],
                "matrices": {"grain": GRAIN},
            },
            {
                "chain": "training",
                "name": "age",
                "title": "Ageing",
                "epochs": 2,
                "curves": pair("proof", "°", "proof_cask", "proof_bottle", "bottle", gap=True),
            },
        ]
    }
}


def strange_epoch(chain: str, name: str, epoch: int, epochs: int, **values: Any) -> dict[str, Any]:
    head = {"method": "alchemy", "chain": chain, "phase": name, "epoch": epoch, "epochs": epochs, "seconds": 1.0}
    return head | values


STRANGE_LINES = [
    *(
        strange_epoch("search", "sift", n, 2, murk=-3.5 * n, matrices={"grain": [[n, 0], [0, n], [n, n]]})
        for n in (1, 2)
    ),
    strange_epoch(
        "search", "brew", 1, 1, froth_height=7, matrices={"grain": [[3, 3], [3, 3], [3, 9]]}, skipped_steps=2
    ),
    *(strange_epoch("training", "age", n, 2, proof_cask=0.61 + n, proof_bottle=0.5, note="oak") for n in (1, 2)),
    strange_epoch("training", "tasting", 1, 1, smiles=0.25, matrices={"who": [[1.0, 2.0]]}),
]


def strange_outcome(**changes: Any) -> dict[str, Any]:
    evaluations = {"cask": {"proof": 0.61}, "bottle": {"proof": 0.5, "haze": 3}, "glass": {"proof": 0.4375}}
    task = {"name": "distilling", "metric": "proof", "unit": "", "higher_is_better": False, "examples": 30}
    found = outcome("alchemy", 0.0, task=task, evaluations=evaluations, nid=None, keep=None, layers=[])
    found |= architecture(DIAMOND, warnings={"still": "it leaks <badly>"}) | {"chosen": {"grain": [[2, 1]]}}
    return found | {"seconds": {"sift": 2.0, "brew": 1.0, "age": 2.0, "tasting": 1.0}} | changes


def strange(run: pathlib.Path) -> pathlib.Path:
    """A finished run of it."""
    write(run, STRANGE_LINES, finished=False, phases=STRANGE_PHASES)
    control = strange_outcome(evaluations={"glass": {"proof": 0.75}}, architecture=None, graphs=[])
    (run / "results.json").write_text(json.dumps(strange_outcome() | {"controls": {"tea": control}}))
    return run


class Page(html.parser.HTMLParser):
    """Collects what a report holds, and fails on an element that is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.alts = [attributes["alt"] for tag, attributes in self.tags if tag == "img"]

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += " " + data
