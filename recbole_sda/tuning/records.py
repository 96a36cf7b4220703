"""What is known of a trial, a JSON file in the sweep's folder from its beginning on.

The folder is ``<checkpoint_dir>/tune/<digest of the sweep>``::

    trials/<name>/record.json   state, curve, and what the training came to
    trials/<name>/log.txt       what the trial had to say
    results.json, results.csv, best-<MODEL>.yaml, plots
"""

import json
import logging
import shutil
from pathlib import Path

from filelock import FileLock

from recbole_sda.result_files import write_result
from recbole_sda.tuning.planning import Trial

logger = logging.getLogger(__name__)

FINISHED, FAILED, RUNNING, STOPPED = "finished", "failed", "running", "stopped"


class Records:
    """Args: folder: the sweep's."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def trial_folder(self, trial: Trial) -> Path:
        return self.folder / "trials" / trial.name

    def read(self, trial: Trial) -> dict | None:
        """None where there is none; a damaged one is told, and its trial runs again."""
        file = self.trial_folder(trial) / "record.json"
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if {"state", "curve", "values"} <= record.keys():
                return record
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError):
            pass
        logger.warning("%s is damaged; its trial runs again, from what it had trained", file)
        return None

    def write(self, trial: Trial, record: dict) -> dict:
        """Returns: the record that is there then. What has finished stays so, whatever comes later: the trial told
        again, a worker's death, another draw of the same values."""
        folder = self.trial_folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "record.lock"):
            there = self.read(trial) if record["state"] != FINISHED else None
            if there is not None and there["state"] == FINISHED:
                return there
            write_result(folder / "record.json", {"model": trial.model, "values": trial.values, **record})
        return record

    def all(self) -> list[tuple[Trial, dict]]:
        """Of a search that draws as it goes, in no order."""
        found = []
        for file in sorted(self.folder.glob("trials/*/record.json")):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                trial = Trial(content["model"], content["values"])
            except (ValueError, LookupError, TypeError):
                logger.warning("%s is damaged; its trial runs again, from what it had trained", file)
                continue
            found.append((trial, content))
        return found

    def of(self, model: str) -> list[tuple[Trial, dict]]:
        return [(trial, record) for trial, record in self.all() if trial.model == model]

    def clear(self) -> None:
        """For a sweep that begins anew; trained adapters and recommenders lie elsewhere."""
        shutil.rmtree(self.folder / "trials", ignore_errors=True)


def ended_record(record: dict | None, error: str | None, *, bigger: bool) -> dict:
    """The record of a trial that Ray is done with; one that had not finished was stopped, or its worker died.

    Args:
        error: Ray's.
    """
    record = record or {"curve": [], "state": RUNNING, "seconds": 0.0}
    if record["state"] == FINISHED:
        return record
    if error is not None:
        last = " ".join(error.split())[-500:]
        failure = {"type": "WorkerDied", "message": f"its worker died again and again: {last}"}
        return {**record, "state": FAILED, "error": failure}
    if record["state"] == RUNNING:
        score = best_score(record["curve"], bigger=bigger)
        epochs = record["curve"][-1]["epoch"] if record["curve"] else 0
        return {**record, "state": STOPPED, "score": score, "epochs": epochs}
    return record


def in_words(record: dict, metric: str) -> str:
    if record["state"] == FAILED:
        return f"failed: {record['error']['type']}: {record['error']['message']}"
    score = "no score" if record["score"] is None else f"valid {metric} {record['score']:.4f}"
    return f"{record['state']}, {score}, {record['epochs']} epochs, {record['seconds']:.0f} s"


def best_score(curve: list[dict], *, bigger: bool) -> float | None:
    """Of the evaluated epochs; None where nothing was, or no score is a number."""
    scores = [point["valid_score"] for point in curve if point["valid_score"] is not None]
    return (max if bigger else min)(scores) if scores else None
