"""One trial in its worker: the run that the command describes with the trial's values, validated, never tested."""

import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from recbole_sda import compat

compat.prepare_recbole()

from recbole.utils import init_logger  # noqa: E402

from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.full_disk import full_disk_line, is_full_disk  # noqa: E402
from recbole_sda.plans import Plan, make_plans  # noqa: E402
from recbole_sda.run_plan import run_plan  # noqa: E402
from recbole_sda.tuning.planning import Trial  # noqa: E402
from recbole_sda.tuning.records import FAILED, FINISHED, RUNNING, Records, best_score  # noqa: E402
from recbole_sda.tuning.settings import Command  # noqa: E402

logger = logging.getLogger(__name__)

AGAIN = "run the command with --resume"


@dataclass(frozen=True)
class Job:
    """What every trial of a sweep needs to know.

    Attributes:
        sweep: the sweep's folder.
        cpus: threads of each trial.
        gpus: 0 runs on the CPU.
        metric: by which epochs and trials are chosen; bigger: whether more of it is better.
    """

    command: Command
    sweep: str
    cpus: int
    gpus: float
    metric: str
    bigger: bool

    def configure(self, trial: Trial) -> SDAConfig:
        """On the devices that Ray gave this process."""
        # RecBole sets CUDA_VISIBLE_DEVICES itself, from this key.
        gpu_id = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if self.gpus else "-1"
        return self.command.configure(trial.model, {**trial.values, "gpu_id": gpu_id})


def run_trial(trial: Trial, job: Job, report: Callable[[dict], None]) -> dict:
    """Train, and report the validation score after every evaluation.

    A mistake or a fault ends the trial alone: it is in the record. What kills the process leaves a training that
    goes on where it was when the trial runs again.

    A trial that has finished before tells what it told then.

    Args:
        report: takes ``epoch``, ``score`` of that epoch and ``best`` so far.

    Returns:
        The record, as it is on the disk.
    """
    _settle_process(job)
    records, started = Records(job.sweep), time.monotonic()
    curve, known = [], records.read(trial)
    if known is not None and known["state"] == FINISHED:
        for number in range(len(known["curve"])):
            report(_reported(known["curve"][: number + 1], job))
        return known
    # So that a sweep that is killed while an adapter trains can be resumed.
    records.write(trial, {"state": RUNNING, "curve": known["curve"] if known else [], "seconds": 0.0})
    with _output(records.trial_folder(trial) / "log.txt"):

        def evaluated(point: dict) -> None:
            if curve and point["epoch"] <= curve[-1]["epoch"]:
                return
            curve.append(point)
            records.write(trial, {"state": RUNNING, "curve": curve, "seconds": _since(started)})
            report(_reported(curve, job))

        try:
            for point in known["curve"] if known else ():  # before it was killed
                evaluated(point)
            plan = _plan(job, trial)
            outcome = run_plan(
                plan,
                test=False,
                on_epoch=lambda epoch, _, score: evaluated({"epoch": epoch, "valid_score": _number(score)}),
            )
            for point in outcome["curve"]:  # of a training that was there
                evaluated({"epoch": point["epoch"], "valid_score": point["valid_score"]})
            record = {**outcome, "state": FINISHED, "score": _score(outcome, job), "seconds": _since(started)}
        except Exception as error:
            traceback.print_exc()
            failure = {"type": type(error).__name__, "message": explain(error)}
            record = {"state": FAILED, "curve": curve, "error": failure, "seconds": _since(started)}
        return records.write(trial, record)


def evaluate_winner(trial: Trial, job: Job) -> dict:
    """The tested outcome of a finished trial, from its checkpoint; or ``error``, what went wrong."""
    _settle_process(job)
    with _output(Records(job.sweep).trial_folder(trial) / "log.txt"):
        try:
            return run_plan(_plan(job, trial))
        except Exception as error:
            traceback.print_exc()
            return {"error": {"type": type(error).__name__, "message": explain(error)}}


def explain(error: BaseException) -> str:
    """In one line, with the remedy where a disk is full."""
    if is_full_disk(error):
        return full_disk_line(error, AGAIN)
    return " ".join(str(error).split()) or type(error).__name__


def _plan(job: Job, trial: Trial) -> Plan:
    config = job.configure(trial)
    logging.getLogger().handlers.clear()  # Ray's; beside them RecBole's would not be installed
    init_logger(config)
    (plan,) = make_plans([config])
    return plan


def _settle_process(job: Job) -> None:
    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line, and a worker's is Ray's
    os.chdir(job.command.folder)  # relative paths are those of the process that asked for the sweep
    torch.set_num_threads(job.cpus)


@contextmanager
def _output(file: Path) -> Iterator[None]:
    """What is said and printed goes to the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    package = logging.getLogger("recbole_sda")
    with open(file, "a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        before = package.level, package.propagate
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        package.propagate = False
        try:
            yield
        finally:
            package.removeHandler(handler)
            package.setLevel(before[0])
            package.propagate = before[1]


def _reported(curve: list[dict], job: Job) -> dict:
    worst = -math.inf if job.bigger else math.inf
    last, best = curve[-1]["valid_score"], best_score(curve, bigger=job.bigger)
    return {
        "epoch": curve[-1]["epoch"],
        "score": worst if last is None else last,
        "best": worst if best is None else best,
    }


def _score(outcome: dict, job: Job) -> float | None:
    """Of the epoch that was kept; models that learn in one step have no curve."""
    return (outcome["valid"] or {}).get(job.metric)


def _number(score: float) -> float | None:
    return float(score) if math.isfinite(score) else None


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
