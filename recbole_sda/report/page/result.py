"""A result as `run` wrote it, checked before a page is made of it, and the command that would make more of it."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from recbole_sda.defaults import parse_value
from recbole_sda.errors import SDAError
from recbole_sda.report.notes import notes
from recbole_sda.report.table import result_tables, title
from recbole_sda.variants import VARIANTS

RUN_FIELDS = {
    "variant": str,
    "valid": dict | None,
    "test": dict | None,
    "epochs": int | float,
    "timings": dict,
    "artefacts": dict,
    "items": int,
    "missing": dict,
}
OPTIONAL = {"config": dict, "versions": dict, "hardware": dict, "split": str, "k": int}
SET_BY_COMPARE = ("features", "adapter", "alignment")
WHERE = "a run writes it to result_file, or under checkpoint_dir/results"


def read_result(source: str | Path | dict) -> tuple[dict, Path | None]:
    """The result and its file, None where there is none.

    Args:
        source: the path of the JSON file, or what :func:`recbole_sda.run` returned.

    Raises:
        SDAError: no such file, not JSON, or not a result of ours.
    """
    if isinstance(source, dict):
        return _checked(source, "the result"), None
    file = Path(source)
    try:
        result = json.loads(file.read_bytes())
    except OSError as error:
        raise SDAError(f"{file} cannot be read ({error.strerror}); name a run's JSON file: {WHERE}") from error
    except (ValueError, RecursionError) as error:
        raise SDAError(f"{file} is not JSON ({error}); name a run's JSON file: {WHERE}") from error
    return _checked(result, str(file)), file


def is_finished(result: dict) -> bool:
    return "summary" in result


def command(verb: str, result: dict, run: dict, **keys) -> str:
    """The command line of ``verb`` under the configuration and the seed of ``run``, changed by ``keys``.

    Keys that are None are left out, and so is what a run would refuse beside the others.

    Args:
        run: one of the result's, with its model and seed.
    """
    said = {"seed": run["seed"], **result["config"].get(run["model"], {}), **keys}
    values = {key: value for key, value in said.items() if value is not None}
    if "compare" in values:  # it sets them itself
        own = "features" in values["compare"].split(",")
        values = {key: v for key, v in values.items() if key not in SET_BY_COMPARE or (own and key == "features")}
    if verb == "run":
        values = _accepted(run["model"], result["dataset"], values)
    named = {"dataset": result["dataset"], "model": run["model"], **values}
    words = [f"--{key}={_typed(value)}" for key, value in named.items()]
    return shlex.join(["python", "run_recbole_sda.py", *verb.split(), *words])


def as_variant(run: dict) -> dict:
    """The keys by which `run` trains this variant alone; of one without a name those that the run was told."""
    return {"compare": run["variant"]} if run["variant"] in VARIANTS else {}


def _accepted(model: str, dataset: str, values: dict) -> dict:
    """Without what the model does not read and what would do nothing: typed, it is refused."""
    from recbole_sda.config import SDAConfig  # it imports RecBole
    from recbole_sda.idle_keys import idle_in

    try:
        config = SDAConfig(model, dataset, config_dict=values, one_of_several=True)
    except SDAError:  # a result of another version, or a class of the user's own: the command will say it
        return values
    refused = {*config.unused_keys, *idle_in(config, values)}
    return {key: value for key, value in values.items() if key not in refused}


def _typed(value: object) -> str:
    """As the command line reads it back."""
    if isinstance(value, str):
        return value
    return repr(value) if parse_value(repr(value)) == value else json.dumps(value)


def _checked(result: object, where: str) -> dict:
    """A copy in which every run has what the page reads."""
    if fault := next(_faults(result), None):
        raise SDAError(f"{where} is no result of a run: {fault}; {WHERE}")
    # With `tune` only the winner is tested.
    runs = [{"skipped": 0, **run, "test": run["test"] or {}} for run in result["runs"]]
    shared = {key: kind() for key, kind in OPTIONAL.items()}
    result = {**shared, "k": 10, **result, "runs": runs}
    try:
        _ = title(result), result_tables(result, k=result["k"]), notes(result, split=result["split"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SDAError(f"{where} is no result of a run: {error!r} in its values; {WHERE}") from error
    return result


def _faults(result: object) -> Iterator[str]:
    if not isinstance(result, dict):
        yield "it holds no JSON object"
    for key, kind in {"dataset": str, "model": str, "runs": list}.items():
        if not isinstance(result.get(key), kind) or not result[key]:
            yield f"it has no {key}"
    for key, kind in OPTIONAL.items():
        if not isinstance(result.get(key, kind()), kind):
            yield f"{key} is not a {kind.__name__}"
    if not isinstance(result.get("seconds", 0), int | float):
        yield "seconds is not a number"
    if not all(isinstance(said, dict) for said in result.get("config", {}).values()):
        yield "config is not one of models"
    for number, run in enumerate(result["runs"]):
        for field, kind in RUN_FIELDS.items():
            if not isinstance(run, dict) or field not in run or not isinstance(run[field], kind):
                yield f"run {number} has no proper {field!r}"
