"""What a finished training came to, beside its checkpoint, so that nobody trains it twice.

``X.json`` lies beside ``X.pth``. A command of many trainings that was killed takes the finished ones from there. A
training that was to be validated only, as those of a sweep are, is tested from there when that is asked for.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import recbole_sda
from recbole_sda.artefacts import written_whole
from recbole_sda.distributed import from_main

logger = logging.getLogger(__name__)

VERSION = 2  # of the training: another one where the same configuration comes to other figures, or to more


def trained_once(
    checkpoint: Path,
    data: int,
    train: Callable[[], dict],
    add_test: Callable[[dict], dict | None] | None = None,
    *,
    is_main: bool = True,
) -> dict:
    """What ``train`` returns, or returned when this checkpoint was trained on the same data.

    Args:
        checkpoint: whose name says configuration and features.
        data: a fingerprint of the splits.
        train: leaves the checkpoint, and returns JSON values with ``test``, None if it was not tested, and
            ``artefacts``: name → path or None.
        add_test: an outcome without ``test`` → the same with it, or None where only training anew could tell;
            None hides the test results that may be there.
        is_main: of several processes, all of which call this, the one that writes.

    Returns:
        with ``seconds``, the time that the training took.
    """
    file, made_from = checkpoint.with_suffix(".json"), {"made_from": _made_from(data)}
    finished = from_main(_read(file, made_from) if is_main else None)
    if finished and add_test is None:
        finished = _without_test(finished)
    elif finished and finished["test"] is None:
        finished = add_test(finished)
        if finished and is_main:
            _write(file, {**made_from, "outcome": finished})
    if finished:
        logger.info("reused training %s; remove %s to train anew", checkpoint, file)
        return finished
    started = time.monotonic()
    outcome = train()
    outcome["seconds"] = round(time.monotonic() - started, 1)
    if is_main:
        _write(file, {**made_from, "outcome": outcome})
    return outcome


def _without_test(outcome: dict) -> dict:
    return {**outcome, "test": None, "artefacts": {**outcome["artefacts"], "user_results": None}}


def _write(file: Path, content: dict) -> None:
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _made_from(data: int) -> dict:
    return {"data": data, "version": VERSION, "recbole_sda": recbole_sda.__version__}


def _read(file: Path, made_from: dict) -> dict | None:
    """None where there is none, it is of other data or another version, or what it names is gone."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        found_from, outcome, artefacts = found["made_from"], found["outcome"], found["outcome"]["artefacts"]
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        logger.warning("%s is damaged; training starts anew", file)
        return None
    if {"made_from": found_from} != made_from:
        logger.warning("%s is of other data or another version; training starts anew", file)
        return None
    if gone := [path for path in artefacts.values() if path and not Path(path).exists()]:
        logger.warning("%s is gone; training starts anew", gone[0])
        return None
    return outcome
