"""Energy and CO2 of a run as the package codecarbon measures them: of the whole machine, while the run is at work.

What it measures depends on the machine (RAPL counters, NVIDIA's, else an estimate from the processor's name and load);
the grams are those of a country's electricity. Nothing is asked of the network for them.
"""

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from dass_jax.errors import UserError, nearest
from dass_jax.runtime import folder

FILE = "energy.json"


def check(country: str) -> None:
    """Raises UserError if nothing can be measured for that country: codecarbon would take the world's mean unasked."""
    try:
        from codecarbon.input import DataSource
    except ImportError as error:
        raise UserError(
            f"report.country = {country!r} needs the package codecarbon; allowed: after pip install 'dass_jax[co2]', "
            "or report.watts with report.grams_per_kwh in its place"
        ) from error
    known = DataSource().get_global_energy_mix_data()
    if country not in known:
        raise UserError(
            f"report.country = {country!r}{nearest(country, known)}; allowed: a code of three capital letters that "
            f"codecarbon knows, e.g. {', '.join(sorted(set(known) & {'DEU', 'FRA', 'USA'}))}"
        )


@contextlib.contextmanager
def metered(country: str, own: pathlib.Path) -> Iterator[None]:
    """Adds what the block uses, however it ends, to `FILE` in the run's folder `own`; "" measures nothing."""
    if not country:
        yield
        return
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)  # what a user must know is said by the progress lines
    tracker = OfflineEmissionsTracker(
        country_iso_code=country, save_to_file=False, log_level="error", allow_multiple_runs=True
    )
    tracker.start()
    try:
        yield
    finally:
        tracker.stop()
        measured = getattr(tracker, "final_emissions_data", None)
        # codecarbon keeps its errors to itself: then there is nothing to add. A run that was refused has no folder.
        if measured is not None and (own / "config.toml").exists():
            folder.write_json(own / FILE, _sum(read(own), measured))


def read(own: pathlib.Path) -> dict[str, float]:
    """{"seconds", "kwh", "grams"} of a run so far; zeros if nothing was measured."""
    file = own / FILE
    if not file.exists():
        return {"seconds": 0.0, "kwh": 0.0, "grams": 0.0}
    return {name: float(value) for name, value in json.loads(file.read_text(encoding="utf-8")).items()}


def _sum(before: dict[str, float], measured: Any) -> dict[str, float]:
    return {
        "seconds": before["seconds"] + measured.duration,
        "kwh": before["kwh"] + measured.energy_consumed,
        "grams": before["grams"] + 1000 * measured.emissions,
    }


def grams(own: pathlib.Path, seconds: float) -> float | None:
    """CO2 in grams of `seconds` of the run at the mean rate that was measured; None if nothing was."""
    found = read(own)
    return found["grams"] / found["seconds"] * seconds if found["seconds"] else None
