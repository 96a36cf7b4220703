"""What Optuna suggests, as trials, and trials as what it would have suggested."""

from collections.abc import Sequence

from recbole_sda.errors import SDAError
from recbole_sda.tuning.planning import Trial, read_values
from recbole_sda.tuning.settings import Settings
from recbole_sda.tuning.trial import Job


def optuna_search(settings: Settings, before: Sequence[tuple[Trial, float | None]]):
    """Ray's, which knows the trials before and begins with other draws than they did."""
    from ray.tune.search.optuna import OptunaSearch

    known = [(t, score) for t, score in before if score is not None and t.values.keys() == settings.space.keys()]
    points = [{key: _suggestion(settings, key, value) for key, value in t.values.items()} for t, _ in known]
    return OptunaSearch(
        metric="best",
        mode=settings.mode,
        seed=settings.seed + len(before),
        points_to_evaluate=points or None,
        evaluated_rewards=[score for _, score in known] or None,
    )


def suggested_trial(model: str, settings: Settings, job: Job, config: dict) -> Trial:
    """The trial of what Optuna suggests: key → what the key's ``domain`` holds."""
    values = {key: entry.value(config[key]) for key, entry in settings.space.items()}
    trial = Trial(model, values)
    try:
        return Trial(model, read_values(job.configure(trial), values))
    except SDAError:
        return trial  # they contradict each other: it fails when it runs, and is listed with the reason


def _suggestion(settings: Settings, key: str, value):
    """What Optuna would have said for this value."""
    entry = settings.space[key]
    return entry.values.index(value) if hasattr(entry, "values") else value
