"""The trials under Ray Tune: side by side, a dead worker's again, those that fall behind stopped."""

import gc
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from recbole_sda.errors import SDAError
from recbole_sda.ray_cluster import connect
from recbole_sda.tuning.planning import Trial
from recbole_sda.tuning.settings import Settings
from recbole_sda.tuning.suggestions import optuna_search, suggested_trial
from recbole_sda.tuning.trial import Job, evaluate_winner, explain, run_trial

MAX_FAILURES = 3  # of a trial's worker; mistakes in a trial are no failures of its worker
NO_END = 10**6  # epochs: asha shall end no trial that is about to end by itself
# Ray's own loggers of results, its answer to Ctrl-C, which would go on with half of the trials, and its refusal of
# trials that end without a score.
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def connect_for(settings: Settings) -> None:
    """Raises: SDAError: Ray is missing, there is no cluster, or no room for one trial."""
    connect("tune", settings.ray_address, log_to_driver=False, logging_level=logging.WARNING)
    import ray

    there = ray.cluster_resources()
    for key, kind in (("cpus", "CPU"), ("gpus", "GPU")):
        if (wanted := getattr(settings, key)) > there.get(kind, 0):
            raise SDAError(f"{key}={wanted:g} for each trial, and Ray has {there.get(kind, 0):g}; lower {key}")


def run_grid(
    trials: Sequence[Trial], job: Job, settings: Settings, on_done: Callable[[Trial, str | None], None]
) -> None:
    """Run these trials.

    Args:
        on_done: called here after each, with Ray's error if its worker died too often.
    """
    from ray import tune

    by_name = {trial.name: trial for trial in trials}
    _fit(
        partial(_run_named, by_name, job),
        {"trial": tune.grid_search(list(by_name))},
        job,
        settings,
        on_done=lambda config, error: on_done(by_name[config["trial"]], error),
    )


def run_suggested(
    model: str,
    job: Job,
    settings: Settings,
    on_done: Callable[[Trial, str | None], None],
    before: Sequence[tuple[Trial, float | None]] = (),
) -> None:
    """Run as many trials of one model as are left, as Optuna suggests them.

    Args:
        before: trials that are done, with their scores; None where one has none.
    """
    _fit(
        partial(_run_suggested, model, settings, job),
        {key: entry.domain() for key, entry in settings.space.items()},
        job,
        settings,
        on_done=lambda config, error: on_done(suggested_trial(model, settings, job, config), error),
        search_alg=optuna_search(settings, before),
        num_samples=settings.samples - len(before),
    )


def evaluate_winners(winners: Sequence[Trial], job: Job) -> list[dict]:
    """Test these finished trials, each with the resources of a trial.

    Returns:
        of each the outcome, or ``error``, also where its worker died.
    """
    import ray

    task = ray.remote(num_cpus=job.cpus, num_gpus=job.gpus)(evaluate_winner)
    return [_tested(running) for running in [task.remote(trial, job) for trial in winners]]


def _tested(running) -> dict:
    import ray

    try:
        return ray.get(running)
    except ray.exceptions.RayError as error:
        return {"error": {"type": type(error).__name__, "message": explain(error)[-500:]}}


def _fit(function: Callable, space: dict, job: Job, settings: Settings, *, on_done: Callable, **search) -> None:
    os.environ.update(QUIET)
    storage = Path(job.sweep).resolve() / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a sweep that was killed; pickles, which nobody reads
    faults = []  # of on_done; Ray would wrap them
    tuner = _tuner(function, space, settings, storage, _told(on_done, faults), search)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the loggers of results
    try:
        tuner.fit()
    except Exception:
        if faults:
            raise faults[0] from None
        raise
    finally:
        del tuner
        gc.collect()  # it is in circles, and keeps the room of the workers it would have used again
        shutil.rmtree(storage, ignore_errors=True)


def _tuner(function: Callable, space: dict, settings: Settings, storage: Path, callback, search: dict):
    from ray import tune

    return tune.Tuner(
        tune.with_resources(function, {"cpu": settings.cpus, "gpu": settings.gpus}),
        param_space=space,
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(settings),
            max_concurrent_trials=settings.concurrent,
            reuse_actors=True,  # a worker takes seconds to import what a trial needs
            **search,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[callback],
            verbose=0,
        ),
    )


def _told(on_done: Callable[[dict, str | None], None], faults: list[Exception]):
    """Ray's callback that calls ``on_done`` after each trial, and notes what it raises."""
    from ray import tune

    def tell(config: dict, error: str | None) -> None:
        try:
            on_done(config, error)
        except Exception as fault:
            faults.append(fault)
            raise

    class Told(tune.Callback):
        def on_trial_complete(self, iteration, trials, trial, **info):
            tell(trial.config, None)

        def on_trial_error(self, iteration, trials, trial, **info):
            tell(trial.config, str(trial.get_pickled_error() or "its worker died"))

    return Told()


def _scheduler(settings: Settings):
    from ray.tune.schedulers import ASHAScheduler

    if settings.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr="epoch",
        metric="score",
        mode=settings.mode,
        max_t=NO_END,
        grace_period=settings.grace_period,
        reduction_factor=settings.reduction_factor,
    )


def _run_named(trials: dict[str, Trial], job: Job, config: dict) -> None:
    _run(trials[config["trial"]], job)


def _run_suggested(model: str, settings: Settings, job: Job, config: dict) -> None:
    _run(suggested_trial(model, settings, job, config), job)


def _run(trial: Trial, job: Job) -> None:
    from ray import tune

    run_trial(trial, job, tune.report)
