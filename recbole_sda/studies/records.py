"""Each measure's figures of an arm with a seed: written once and found again.

A record's file is named by what its figures depend on, so that a study that was killed goes on where it was, and
studies that share arms share figures.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from recbole_sda.artefacts import digest, written_whole
from recbole_sda.config import SDAConfig
from recbole_sda.studies.bench import Bench
from recbole_sda.studies.measures import MEASURES, needs_model

logger = logging.getLogger(__name__)

VERSION = 1  # of the measures: another one where the same settings come to other figures


def measure(config: SDAConfig, names: Sequence[str]) -> dict[str, dict]:
    """Each measure's record of one arm with one seed: measured now, or found.

    Returns:
        name → ``figures`` (name → number, None where undefined), ``seconds``, ``depends_on``; measures that the
        arm does not have are left out.
    """
    bench = Bench.prepare(config, with_model=needs_model(names))
    return {name: _measured_once(name, bench) for name in names if MEASURES[name].applies(bench)}


def check_measures(config: SDAConfig, names: Sequence[str]) -> None:
    """Raises: SDAError: what would stop :func:`measure` later."""
    bench = Bench.prepare(config, with_model=needs_model(names))
    for name in names:
        if MEASURES[name].applies(bench):
            MEASURES[name].check(bench)


def _measured_once(name: str, bench: Bench) -> dict:
    measured_by = {"measure": name, "version": VERSION, **MEASURES[name].depends_on(bench)}
    folder = Path(bench.config["checkpoint_dir"]) / "studies" / "cells"
    file = folder / f"{name}-{digest(measured_by)}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        logger.warning("%s is damaged; it is measured anew", file)
    started = time.monotonic()
    figures = {key: _number(value) for key, value in MEASURES[name].figures(bench).items()}
    record = {"figures": figures, "seconds": round(time.monotonic() - started, 1), "depends_on": measured_by}
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def _number(value) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
