"""`tune`: a sweep from its command to its winners."""

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_sda.artefacts import digest
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.plans import make_plans
from recbole_sda.prepare import prepare_dataset
from recbole_sda.recommend import OF_THE_COMMAND
from recbole_sda.trainer import plain
from recbole_sda.tuning.planning import Planned, Trial, check_corners, plan
from recbole_sda.tuning.records import FAILED, FINISHED, RUNNING, STOPPED, Records, best_score
from recbole_sda.tuning.results import conclude
from recbole_sda.tuning.settings import Settings, read_command
from recbole_sda.tuning.trial import Job, explain
from recbole_sda.tuning.workers import connect_for, evaluate_winners, run_grid, run_suggested

logger = logging.getLogger(__name__)

OF_THE_SETTINGS = ("search", "samples", "scheduler", "grace_period", "reduction_factor")


def tune(
    model: str | None = None,
    dataset: str | None = None,
    config_dict: dict | None = None,
    config_file_list: Sequence[str] | None = None,
    *,
    argv: Sequence[str] = (),
) -> dict:
    """Train every combination or draw of a space of values, choose by validation, test the winners alone.

    Trials run side by side under Ray. Each distinct adapter and feature store is made once, and what a killed
    sweep had made is not made again.

    Args:
        model: one, or several with commas; a space may name them instead.
        config_dict: with ``space``, a file, and the keys ``tune_*``, ``cpus``, ``gpus``, ``resume``,
            ``ray_address``.

    Returns:
        ``folder``, where everything lies; ``trials``: ``model``, ``values``, ``state`` (finished, stopped or
        failed), ``score``, ``epochs``, ``seconds`` of each, those of a model together and the best first;
        ``failures``: the trials with their ``error``; ``winners``: model → ``values``, ``score``, ``valid``,
        ``test``, ``file`` to run it with; ``config``, ``versions``, ``hardware``.

    Raises:
        SDAError: a mistake in the input, before any work; no trial succeeded; the disk is full.
    """
    command, settings, base = read_command(model, dataset, config_dict, config_file_list, argv)
    planned = check_corners(command, settings) if settings.search == "optuna" else plan(command, settings)
    prepare_dataset(base)
    _check_runs(planned)
    folder = Path(base["checkpoint_dir"]) / "tune" / _identity(settings, base)
    job = Job(command, str(folder), settings.cpus, settings.gpus, settings.metric, settings.bigger)
    try:
        with _sole_sweep(folder):
            records = Records(folder)
            finished = _finished(records, planned, settings)
            connect_for(settings)
            _announce(planned, settings, folder, len(finished))
            tried = _run(planned, job, settings, records, finished)
            return conclude(tried, job, settings, base, evaluate_winners)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SDAError(explain(error)) from error
        raise


def _check_runs(planned: Planned) -> None:
    """Find out, before any work, what would stop all trials of a kind: data, backbone, features."""
    kinds = {}
    for config in planned.configs:
        kind = str([config[key] for key in ("features", "adapter", "alignment", "modalities", "backbone")])
        kinds.setdefault(kind, {}).setdefault(config["model"], config)
    for by_model in kinds.values():
        make_plans(list(by_model.values()))


def _identity(settings: Settings, base: SDAConfig) -> str:
    """The same sweep has the same folder, whatever it runs on."""
    said = {**base.external_config_dict, **base.final_config_dict}  # the first has other models' keys, too
    config = {key: value for key, value in said.items() if key not in OF_THE_COMMAND}
    space = {key: [type(entry).__name__, *entry] for key, entry in settings.space.items()}
    search = {name: getattr(settings, name) for name in OF_THE_SETTINGS}
    return digest(plain({"config": config, "models": settings.models, "space": space, "search": search}))


@contextmanager
def _sole_sweep(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise SDAError(f"another process runs this sweep in {folder}; wait for it, or stop it") from error
    try:
        yield
    finally:
        lock.release()


def _finished(records: Records, planned: Planned, settings: Settings) -> dict[str, dict]:
    """Name → record of the trials that need not run again."""
    there = records.all()
    done = {trial.name: record for trial, record in there if record["state"] == FINISHED}
    if settings.resume:
        if not there:
            raise SDAError(
                f"resume: {records.folder} holds no trial of a sweep with these settings; leave --resume out "
                "(adapters and trainings that are there are used again in any case)"
            )
        # asha has to see what was before; a finished trial tells it at once.
        return {} if settings.scheduler == "asha" else done
    if there:
        logger.info(
            "%s holds %d trials of an earlier run of this sweep, %d finished; they are taken up anew, from their "
            "trained models; --resume would have kept the finished ones",
            records.folder,
            len(there),
            len(done),
        )
    records.clear()
    return {}


def _announce(planned: Planned, settings: Settings, folder: Path, finished: int) -> None:
    adapters = "no adapter to train"
    if planned.adapters:
        number = "" if settings.search == "optuna" else f"{planned.adapters} "
        adapters = f"{number}distinct adapters, each trained once"
    total, output = _total(planned, settings), folder / "trials"
    logger.info("%d trials (%s search); %s; their output goes to %s", total, settings.search, adapters, output)
    if finished:
        logger.info("%d of them had finished before", finished)


def _run(
    planned: Planned, job: Job, settings: Settings, records: Records, finished: dict[str, dict]
) -> list[tuple[Trial, dict]]:
    """Every trial with its record."""
    ended, total = dict(finished), _total(planned, settings)

    def done(trial: Trial, error: str | None) -> None:
        record = _ended(records.read(trial), error, settings)
        records.write(trial, record)
        ended[trial.name] = record
        logger.info("%d of %d: %s: %s", len(ended), total, trial, in_words(record, settings.metric))

    if settings.search != "optuna":
        if left := [trial for trial in planned.trials if trial.name not in finished]:
            run_grid(left, job, settings, done)
        return [(trial, ended[trial.name]) for trial in planned.trials if trial.name in ended]
    for model in settings.models:
        before = [(t, r["score"]) for t, r in records.all() if t.model == model and t.name in finished]
        if len(before) < settings.samples:
            run_suggested(model, job, settings, done, before=[pair for pair in before if pair[1] is not None])
    return [(trial, record) for trial, record in records.all() if trial.name in ended]


def _total(planned: Planned, settings: Settings) -> int:
    return settings.samples * len(settings.models) if settings.search == "optuna" else len(planned.trials)


def _ended(record: dict | None, error: str | None, settings: Settings) -> dict:
    """The record of a trial that Ray is done with; one that had not finished was stopped, or its worker died."""
    record = record or {"curve": [], "state": RUNNING, "seconds": 0.0}
    if error is not None:
        last = " ".join(error.split())[-500:]
        failure = {"type": "WorkerDied", "message": f"its worker died again and again: {last}"}
        return {**record, "state": FAILED, "error": failure}
    if record["state"] == RUNNING:
        score = best_score(record["curve"], bigger=settings.bigger)
        epochs = record["curve"][-1]["epoch"] if record["curve"] else 0
        return {**record, "state": STOPPED, "score": score, "epochs": epochs}
    return record


def in_words(record: dict, metric: str) -> str:
    if record["state"] == FAILED:
        return f"failed: {record['error']['type']}: {record['error']['message']}"
    score = "no score" if record["score"] is None else f"valid {metric} {record['score']:.4f}"
    return f"{record['state']}, {score}, {record['epochs']} epochs, {record['seconds']:.0f} s"
