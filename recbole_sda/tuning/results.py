"""What a sweep comes to: ranks, winners with their test, files."""

import csv
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from recbole_sda.artefacts import written_whole
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.report.environment import run_record
from recbole_sda.result_files import write_result
from recbole_sda.trainer import plain
from recbole_sda.tuning.command_checks import of_the_sweep
from recbole_sda.tuning.planning import Trial
from recbole_sda.tuning.plots import write_plots
from recbole_sda.tuning.records import FAILED, FINISHED
from recbole_sda.tuning.settings import Settings, class_name
from recbole_sda.tuning.table import sweep_tables
from recbole_sda.tuning.trial import Job

logger = logging.getLogger(__name__)

OF_A_TRIAL = ("state", "score", "seconds", "error", "valid", "artefacts", "curve")
NOT_WRITTEN = ("model", "dataset", "gpu_id", "result_file", "config_files")


def conclude(
    tried: Sequence[tuple[Trial, dict]],
    job: Job,
    settings: Settings,
    base: SDAConfig,
    evaluate_winners: Callable[[Sequence[Trial], Job], list[dict]],
) -> dict:
    """Rank the trials, test each model's winner, write and show everything.

    Args:
        tried: each trial with its record.

    Raises:
        SDAError: no trial finished.
    """
    trials = ranked([_entry(trial, record) for trial, record in tried], settings)
    result = {
        "model": ",".join(map(class_name, settings.models)),
        "dataset": base["dataset"],
        "metric": settings.metric,
        "bigger": settings.bigger,
        "swept": list(settings.space),
        "search": settings.search,
        "notes": list(settings.notes),
        "folder": job.sweep,
        "trials": trials,
        "failures": [entry for entry in trials if entry["state"] == FAILED],
        **run_record([base]),
    }
    folder = Path(job.sweep)
    write_result(folder / "results.json", result)  # before the winners: a kill leaves what there is
    by_name = {trial.name: trial for trial, _ in tried}
    best = [by_name[entry["name"]] for entry in winners(trials)]
    if not best:
        raise SDAError(_nothing_finished(result))
    result["winners"] = {}
    for trial, outcome in zip(best, evaluate_winners(best, job), strict=True):
        entry = next(entry for entry in trials if entry["name"] == trial.name)
        file = _write_best(folder, trial, job)
        kept = {key: outcome.get(key) for key in ("test", "artefacts", "error") if outcome.get(key)}
        result["winners"][trial.model_name] = {**entry, **kept, "file": str(file)}
    write_result(folder / "results.json", result)
    write_csv(folder / "results.csv", result)
    logger.info("%s", "\n".join(["", *sweep_tables(result)]))
    logger.info("%s", _files(folder, result, write_plots(folder, result)))
    return result


def ranked(trials: list[dict], settings: Settings) -> list[dict]:
    """Each model's together, the best first, those without a score last."""

    models = [class_name(model) for model in settings.models]

    def place(entry: dict) -> tuple:
        model, score = models.index(entry["model"]), entry["score"]
        if score is None:
            return model, True, 0
        return model, False, -score if settings.bigger else score

    return sorted(trials, key=place)


def winners(trials: Sequence[dict]) -> list[dict]:
    """The best finished trial of each model, of ranked ones; a stopped one has no trained model yet."""
    best = {}
    for entry in trials:
        if entry["state"] == FINISHED and entry["score"] is not None:
            best.setdefault(entry["model"], entry)
    return list(best.values())


def write_csv(file: Path, result: dict) -> None:
    """A row a trial, in the table's order."""
    columns = ["model", *result["swept"], "state", "score", "trained_epochs", "seconds", "error"]
    with written_whole(file) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["valid_" + result["metric"] if name == "score" else name for name in columns])
        for entry in result["trials"]:
            error = entry["error"] and f"{entry['error']['type']}: {entry['error']['message']}"
            writer.writerow([{**entry, **entry["values"], "error": error}.get(name, "") for name in columns])


def _entry(trial: Trial, record: dict) -> dict:
    found = {key: record.get(key) for key in OF_A_TRIAL}
    found["trained_epochs"] = record.get("epochs")  # `epochs` itself may be swept
    return {"name": trial.name, "model": trial.model_name, "values": trial.values, **found}


def _write_best(folder: Path, trial: Trial, job: Job) -> Path:
    """What the user said with the trial's values in place: to run it is the same training, which is there."""
    config = job.command.configure(trial.model, trial.values)
    said = config.external_config_dict
    kept = {k: plain(v) for k, v in said.items() if k not in NOT_WRITTEN and not of_the_sweep(k)}
    file = folder / f"best-{trial.model_name}.yaml"
    run = f"--model={trial.model} --dataset={config['dataset']} --config_files={file}"
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    with written_whole(file) as unfinished:
        comment = f"# The best by validation of a sweep:\n#   python run_recbole_sda.py {run}\n"
        unfinished.write_text(comment + text, encoding="utf-8")
    return file


def _nothing_finished(result: dict) -> str:
    failures = result["failures"]
    where = f"{result['folder']}/results.json lists them, {result['folder']}/trials holds their output"
    if not failures:
        return f"no trial finished with a score of {result['metric']}; {where}"
    error = failures[0]["error"]
    first = f"{error['type']}: {error['message']}"
    return f"{len(failures)} trials failed and none finished; the first: {first}; {where}"


def _files(folder: Path, result: dict, plots: Sequence[Path]) -> str:
    lines = [f"to run the best: {winner['file']}" for winner in result["winners"].values()]
    return "\n".join([*lines, *(f"plot: {path}" for path in plots), f"results: {folder / 'results.json'}"])
