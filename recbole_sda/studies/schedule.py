"""The cells of a study, one after another in this process or several at once as tasks of Ray."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch

from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.full_disk import is_full_disk
from recbole_sda.progress import progress_bar
from recbole_sda.ray_cluster import connect, show_gpus
from recbole_sda.studies.arms import Cell
from recbole_sda.studies.records import measure

logger = logging.getLogger(__name__)

RETRIES = 3  # of a task whose worker died; what it had finished is found again


def measure_cells(
    cells: Sequence[Cell], measures: Sequence[str], *, workers: int, name: str, check: Callable[[dict], None]
) -> tuple[list[dict], list[dict]]:
    """:func:`measure` of every cell, in the cells' order, and what failed.

    Cells that share an adapter, or features, make them once: the first to ask, the others wait. Arms that are the
    same at several places of the axis are measured once. A cell that fails is no reason to lose the others.

    Args:
        workers: with more than 1, so many cells at once under Ray, each with ``cpus`` and ``gpus`` of its
            configuration.
        name: of the study, in the progress bar.
        check: called with every record; what it raises ends the study.

    Returns:
        a record for each cell, empty where it failed; ``cell`` and ``error`` of each that did.

    Raises:
        OSError: the disk is full.
        SDAError: all failed.
    """
    same = {}
    for place, cell in enumerate(cells):
        same.setdefault((repr(cell.arm.keys), cell.seed, cell.control), []).append(place)
    distinct = [cells[places[0]] for places in same.values()]
    found, failures = [{}] * len(cells), []
    with progress_bar(len(distinct), f"study {name}", "cell") as bar:
        records = _under_ray(distinct, measures, workers) if workers > 1 else _here(distinct, measures)
        places_of = list(same.values())
        for number, record in records:
            if isinstance(record, Exception):
                failures.append(_failure(distinct[number], record))
            else:
                check(record)
                for place in places_of[number]:
                    found[place] = record
            bar.update()
    if failures and not any(found):
        first = failures[0]
        raise SDAError(f"study {name}: nothing could be measured; the first: {first['cell']}: {first['error']}")
    return found, failures


def _failure(cell: Cell, error: Exception) -> dict:
    """Told at once, and in the result."""
    explained = isinstance(error, SDAError)
    said = " ".join(str(error).split())
    said = said if explained else f"{type(error).__name__}: {said}"
    logger.error("%s failed, the others go on: %s", cell.named, said, exc_info=None if explained else error)
    return {"cell": cell.named, "error": said}


def _here(cells: Sequence[Cell], measures: Sequence[str]) -> Iterator[tuple[int, dict | Exception]]:
    for number, cell in enumerate(cells):
        logger.info("%s", cell.named)
        yield number, _tried(lambda config=cell.config: measure(config, measures))


def _tried(get_record: Callable[[], dict]) -> dict | Exception:
    try:
        return get_record()
    except Exception as error:
        if is_full_disk(error):  # then the others would fail, too
            raise
        return error


def _under_ray(
    cells: Sequence[Cell], measures: Sequence[str], workers: int
) -> Iterator[tuple[int, dict | Exception]]:
    """As they are finished."""
    config = cells[0].config
    needs = _room(config, workers)
    import ray

    task = ray.remote(**needs, max_retries=RETRIES)(_in_a_worker)
    running, left = {}, iter(enumerate(cells))
    try:
        while True:
            for number, cell in islice(left, workers - len(running)):
                logger.info("%s", cell.named)
                running[task.remote(cell.config, measures, os.getcwd())] = number
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(done)
            yield number, _tried(partial(_fetched, done))
    finally:
        for unfinished in running:
            ray.cancel(unfinished)


def _fetched(done) -> dict:
    """Raises: what the task did; SDAError: its worker died too often."""
    import ray

    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause or error from error
    except ray.exceptions.RayError as error:
        last = " ".join(str(error).split())[:300]
        raise SDAError(
            f"its worker died again and again ({type(error).__name__}: {last}); run the command again, which "
            "keeps what was measured, with a lower study_workers if memory was short"
        ) from error


def _room(config: SDAConfig, workers: int) -> dict[str, float]:
    """What each cell takes of the cluster, once there is room for one.

    Raises:
        SDAError: Ray is missing, there is no cluster, or no room.
    """
    on_gpu = torch.device(config["device"]).type == "cuda"
    gpus = float(on_gpu) if config["gpus"] is None else config["gpus"]
    if bool(gpus) != on_gpu:
        remedy = "say --use_gpu=False, or leave gpus out" if on_gpu else "leave gpus out"
        raise SDAError(f"gpus={gpus:g} for each cell, and the device is {config['device']}; {remedy}")
    show_gpus(config)
    connect(f"study_workers={workers}", config["ray_address"], log_to_driver=False, logging_level=logging.WARNING)
    import ray

    there = ray.cluster_resources()
    for key, kind, wanted in (("cpus", "CPU", config["cpus"]), ("gpus", "GPU", gpus)):
        if wanted > there.get(kind, 0):
            raise SDAError(f"{key}={wanted:g} for each cell, and Ray has {there.get(kind, 0):g}; lower {key}")
    return {"num_cpus": config["cpus"], "num_gpus": gpus}


def _in_a_worker(config: SDAConfig, measures: Sequence[str], folder: str) -> dict:
    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line, and a worker's is Ray's
    os.chdir(folder)  # relative paths are those of the process that asked
    torch.set_num_threads(max(1, int(config["cpus"])))
    return measure(config, measures)
