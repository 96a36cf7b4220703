"""`tune`: a sweep from its command to its winners."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

import recbole_sda
from recbole_sda.artefacts import digest
from recbole_sda.config import SDAConfig, find_model
from recbole_sda.errors import SDAError
from recbole_sda.fingerprints import features_identity, interactions_identity
from recbole_sda.full_disk import full_disk_refused
from recbole_sda.model.registry import model_identity
from recbole_sda.outcome import VERSION
from recbole_sda.plans import Plan, make_plans
from recbole_sda.prepare import prepare_dataset
from recbole_sda.ray_cluster import show_gpus
from recbole_sda.recommend import OF_THE_COMMAND
from recbole_sda.trainer import plain
from recbole_sda.tuning.planning import Planned, Trial, check_corners, plan
from recbole_sda.tuning.records import FINISHED, STOPPED, Records, ended_record, in_words
from recbole_sda.tuning.results import conclude
from recbole_sda.tuning.settings import Settings, read_command
from recbole_sda.tuning.trial import AGAIN, Job
from recbole_sda.tuning.workers import connect_for, evaluate_winners, run_grid, run_suggested
from recbole_sda.variants import is_own

logger = logging.getLogger(__name__)

OF_THE_SETTINGS = ("search", "samples", "scheduler", "grace_period", "reduction_factor")
# By which trials differ in what is checked before any work, and in the files that they read.
OF_A_KIND = (
    *("features", "adapter", "alignment", "modalities", "backbone", "backbone_revision"),
    *("modality_kinds", "text_fields", "image_folder", "all_items"),
)


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
        failed), ``score``, ``trained_epochs``, ``seconds`` of each, those of a model together and the best first;
        ``failures``: the trials with their ``error``; ``notes``: why figures of the models cannot be compared;
        ``winners``: model → ``values``, ``score``, ``valid``, ``test``, ``file`` to run it with; ``config``,
        ``versions``, ``hardware``.

    Raises:
        SDAError: a mistake in the input, before any work; no trial succeeded; the disk is full.
    """
    command, settings, base = read_command(model, dataset, config_dict, config_file_list, argv)
    planned = check_corners(command, settings) if settings.search == "optuna" else plan(command, settings)
    prepare_dataset(base)
    plans = _check_runs(planned)
    folder = Path(base["checkpoint_dir"]) / "tune" / _identity(settings, base, plans)
    job = Job(command, str(folder), settings.cpus, settings.gpus, settings.metric, settings.bigger)
    with full_disk_refused(AGAIN), _sole_sweep(folder):
        records = Records(folder)
        finished = _finished(records, settings)
        show_gpus(base)
        connect_for(settings)
        _announce(planned, settings, folder, len(finished))
        tried = _run(planned, job, settings, records, finished)
        return conclude(tried, job, settings, base, evaluate_winners)


def _check_runs(planned: Planned) -> list[Plan]:
    """Find out, before any work, what would stop all trials of a kind: data, backbone, features.

    Returns:
        those of a trial of each kind and model.
    """
    kinds = {}
    for config in planned.configs:
        kind = str([config[key] for key in OF_A_KIND])
        kinds.setdefault(kind, {}).setdefault(config["model"], config)
    return [plan for by_model in kinds.values() for plan in make_plans(list(by_model.values()))]


def _identity(settings: Settings, base: SDAConfig, plans: Sequence[Plan]) -> str:
    """The same sweep of the same data, features and models has the same folder, whatever it runs on.

    What stages 1 and 2 are made from stands in their digests: pictures, the backbone, a loss of the user's own.
    """
    said = {**base.external_config_dict, **base.final_config_dict}  # the first has other models' keys, too
    config = {key: value for key, value in said.items() if key not in OF_THE_COMMAND}
    space = {key: [type(entry).__name__, *entry] for key, entry in settings.space.items()}
    search = {name: getattr(settings, name) for name in OF_THE_SETTINGS}
    made_from = {
        "data": interactions_identity(base),
        "features": [features_identity(p.config) for p in plans if is_own(p.config["features"])],
        "stages": [digest(p.stages.settings.features) for p in plans if p.stages],
        "sources": [model_identity(find_model(model)) for model in settings.models],
        "version": [recbole_sda.__version__, VERSION],
    }
    said = {"config": config, "models": settings.models, "space": space, "search": search, **made_from}
    return digest(plain(said))


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


def _finished(records: Records, settings: Settings) -> dict[str, dict]:
    """Name → record of the trials that need not run again."""
    there = records.all()
    # What a search that draws as it goes has stopped is part of what it knows, and is not drawn again.
    final = (FINISHED, STOPPED) if settings.search == "optuna" else (FINISHED,)
    done = {trial.name: record for trial, record in there if record["state"] in final}
    if settings.resume:
        if not there:
            raise SDAError(
                f"resume: {records.folder} holds no trial of a sweep with these settings; leave --resume out "
                "(adapters and trainings that are there are used again in any case)"
            )
        # asha has to see what was before; a finished trial of a fixed list tells it at once.
        return {} if settings.scheduler == "asha" and settings.search != "optuna" else done
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
        record = records.write(trial, ended_record(records.read(trial), error, bigger=settings.bigger))
        ended[trial.name] = record
        logger.info("%d of %d: %s: %s", len(ended), total, trial, in_words(record, settings.metric))

    if settings.search != "optuna":
        if left := [trial for trial in planned.trials if trial.name not in finished]:
            run_grid(left, job, settings, done)
        return [(trial, ended[trial.name]) for trial in planned.trials if trial.name in ended]
    for model in settings.models:
        if left := [trial for trial, _ in records.of(model) if trial.name not in finished]:
            run_grid(left, job, settings, done)
        before = [(trial, record.get("score")) for trial, record in records.of(model)]
        if len(before) < settings.samples:
            run_suggested(model, job, settings, done, before=before)
    return [(trial, record) for trial, record in records.all() if trial.name in ended]


def _total(planned: Planned, settings: Settings) -> int:
    return settings.samples * len(settings.models) if settings.search == "optuna" else len(planned.trials)
