"""Published figures beside which ours may stand: of the DASS paper (arXiv 2207.06968v5, CIFAR-10) accuracies, of the
SCAS paper (Yeshwanth et al. 2020, Table 1) how much smaller a network gets before it loses a point.

DASS' accuracies are those of one batch of 64 test images (89.06 % = 57/64), so each has a standard error of about four
points: orderings and gaps are to be compared, not single figures. SCAS' reductions compare architectures that were
searched for each by itself, so they can exceed what pruning alone gives.
"""

from typing import NamedTuple

_SCAS = "Published: SCAS (Yeshwanth et al. 2020), Table 1. It compares architectures that were searched for separately."
SOURCES = {
    "cifar10": "Published: DASS, arXiv 2207.06968v5, Tables 4 to 6, CIFAR-10, 20 cells and 36 channels unless named "
    "otherwise. Its accuracies are those of one batch of 64 test images: a standard error of about 4 points.",
    "scas_cifar10": _SCAS,
    "scas_cifar100": _SCAS,
    "scas_mnist": _SCAS,
}
"""By the names that `[report] published` gives them."""


class Figure(NamedTuple):
    """Sparse accuracy in per cent as the paper gives it, and thousands of kept weights by its own count."""

    accuracy: float
    kept_thousands: float | None = None
    about: bool = False
    """Read off a figure, so with one decimal."""


# (method, network, keep); a network without a name is set beside the paper's Small.
CIFAR10 = {
    ("dass", "Small", 0.01): Figure(89.06, 17.0),
    ("dass", "Medium", 0.01): Figure(92.18, 53.65),
    ("dass", "Large", 0.01): Figure(95.31, 105.5),
    ("dass_op", "Small", 0.01): Figure(85.7, about=True),
    ("darts_sparse", "Small", 0.01): Figure(81.25),
}
GAPS = {("dass", "darts_sparse", "Small", keep): gap for keep, gap in ((0.1, 1.57), (0.05, 1.04), (0.01, 7.81))}
"""(method, other method, network, keep) → points by which the first is better."""

# Network → by what factors (weights, MACs) the sparsest network within a point of the dense one is smaller.
REDUCTIONS = {
    "scas_cifar10": {"ENAS macro": (4.7, 6.5), "ENAS micro": (7.3, 8.0), "DARTS": (3.9, 4.7), "SMASH": (9.1, 9.8)},
    "scas_cifar100": {"ENAS macro": (2.0, 1.7), "ENAS micro": (3.0, 2.8), "DARTS": (5.6, 1.9), "SMASH": (12.3, 6.6)},
    "scas_mnist": {"ENAS macro": (11.6, 9.5), "ENAS micro": (11.1, 19.3), "DARTS": (6.4, 5.2), "SMASH": (10.8, 14.4)},
}


def has_accuracies(source: str) -> bool:
    """Whether a source has accuracies of single networks."""
    return source == "cifar10"


def accuracy(source: str, method: str, network: str, keep: float) -> Figure | None:
    """The published figure for a run of that kind; None where there is none."""
    return CIFAR10.get((method, _size(network), keep)) if source == "cifar10" else None


def gap(source: str, method: str, other: str, network: str, keep: float) -> float | None:
    """Published points by which `method` is better than `other`; None where there is none."""
    if source != "cifar10":
        return None
    size = _size(network)
    if (method, other, size, keep) in GAPS:
        return GAPS[method, other, size, keep]
    found = GAPS.get((other, method, size, keep))
    return None if found is None else -found


def _size(network: str) -> str:
    """A network that is called by its sizes has no name of its own: it stands beside the paper's Small."""
    return "Small" if network.endswith(" channels") else network
