"""The three stages in order, for every variant of a comparison."""

import logging
from collections.abc import Sequence
from pathlib import Path

from recbole_sda import compat

compat.prepare_recbole()

from recbole.utils import init_logger  # noqa: E402

from recbole_sda.catalog import Catalog  # noqa: E402
from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.diagnostics import DIAGNOSES  # noqa: E402
from recbole_sda.errors import SDAError  # noqa: E402
from recbole_sda.evaluation.significance import compare  # noqa: E402
from recbole_sda.plans import make_plans, model_configs, open_catalog  # noqa: E402
from recbole_sda.prepare import prepare_dataset  # noqa: E402
from recbole_sda.recommend import item_tokens, load_catalogue  # noqa: E402
from recbole_sda.report.environment import run_record  # noqa: E402
from recbole_sda.report.summary import summarise  # noqa: E402
from recbole_sda.report.table import results_table  # noqa: E402
from recbole_sda.result_files import check_result_file, default_result_file, write_result  # noqa: E402
from recbole_sda.run_plan import run_plan  # noqa: E402
from recbole_sda.stages import EncoderStages  # noqa: E402

logger = logging.getLogger(__name__)

CATALOGUE_MODEL = "BPR"  # whose configuration loads a dataset when no model is asked for


def run(
    model: str | None = None,
    dataset: str | None = None,
    config_dict: dict | None = None,
    config_file_list: Sequence[str] | None = None,
    *,
    argv: Sequence[str] = (),
) -> dict:
    """Adapt, embed, recommend: once, or for every seed, model and variant of a command.

    Returns:
        ``model``, ``dataset``, ``seeds``, ``protocol``, ``history_mask``; ``runs``: a dictionary a training,
        with ``model``, ``variant``, ``seed``, ``valid``, ``test``, ``timings`` (seconds), ``artefacts`` (paths),
        ``items`` and ``missing``; ``summary``: means and deviations over the seeds; ``gains`` over the baselines
        with their intervals and p-values; ``config``, ``versions``, ``hardware``, ``seconds``. The entries of a
        single run stand at the top, too.

    Raises:
        SDAError: a mistake in the input, before any work.
    """
    configs = model_configs(model, dataset, config_file_list, config_dict, argv)
    for config in configs:
        if config.unused_keys:
            logger.warning("keys that %s does not read: %s", config["model"], ", ".join(config.unused_keys))
    config = configs[0]
    result_file = check_result_file(config["result_file"]) or default_result_file(configs)
    prepare_dataset(config)
    init_logger(config)
    plans = make_plans(configs)

    result = {**_heading(configs), "runs": []}
    for plan in plans:
        logger.info("%s on %s: %s, seed %d", *plan.named)
        result["runs"].append(run_plan(plan))
        write_result(result_file, result)  # after every run: a command that is killed leaves what it has
    _conclude(result, config)
    write_result(result_file, result)
    logger.info("%s", results_table(result, k=result["k"], split=result["split"]))
    logger.info("results: %s", result_file)
    return {**result["runs"][0], **result} if len(plans) == 1 else result


def _heading(configs: Sequence[SDAConfig]) -> dict:
    """What all runs of a command share."""
    config = configs[0]
    seeds = config["seeds"] or [config["seed"]]
    return {
        "model": ",".join(config["model"] for config in configs),
        "dataset": config["dataset"],
        "seed": seeds[0],
        "seeds": seeds,
        "protocol": config["protocol"],
        "history_mask": config["history_mask"],
        "k": _table_k(config),
        "split": _split_in_words(config["eval_args"]),
        **run_record(configs),
    }


def _conclude(result: dict, config: SDAConfig) -> None:
    """Means over the seeds, and what each variant gains."""
    result["seconds"] = round(sum(sum(run["timings"].values()) for run in result["runs"]), 1)
    result["summary"] = summarise(result["runs"])
    result["gains"] = compare(
        result["runs"], k=result["k"], resamples=config["bootstrap_samples"], seed=config["protocol_seed"]
    )


def adapt(dataset: str | None = None, config_dict=None, config_file_list=None, *, argv=()) -> Path | None:
    """Stage 1 alone. Returns: the adapter's folder; None with ``adapter=none``."""
    return _encoder_stages(dataset, config_dict, config_file_list, argv).adapt()


def embed(dataset: str | None = None, config_dict=None, config_file_list=None, *, argv=()) -> Path:
    """Stages 1 and 2. Returns: the feature store's folder."""
    return _encoder_stages(dataset, config_dict, config_file_list, argv).embed()


def diagnose(
    what: str | None = None, dataset: str | None = None, config_dict=None, config_file_list=None, *, argv=()
) -> dict:
    """A look at how stage 1 works on a catalogue: ``what`` names one of :data:`DIAGNOSES`.

    Returns: the numbers, as in the JSON file, and ``files``, the paths of what was written.
    """
    if what not in DIAGNOSES:
        found = "nothing to diagnose is named" if what is None else f"diagnose {what!r} is unknown"
        raise SDAError(f"{found}; choose {', '.join(DIAGNOSES)}, for example `diagnose conflict --dataset=demo`")
    config = _config_without_model(dataset, config_dict, config_file_list, argv)
    diagnosis = DIAGNOSES[what](config)
    result_file = check_result_file(config["result_file"])
    result = diagnosis.run(_catalog_of(config))
    if result_file:
        write_result(result_file, result)
    return result


def _encoder_stages(dataset, config_dict, config_file_list, argv) -> EncoderStages:
    config = _config_without_model(dataset, config_dict, config_file_list, argv)
    stages = EncoderStages(config, _catalog_of(config))
    stages.check()
    return stages


def _config_without_model(dataset, config_dict, config_file_list, argv) -> SDAConfig:
    given = [*argv] if any(a.startswith("--model=") for a in argv) else [f"--model={CATALOGUE_MODEL}", *argv]
    return SDAConfig(None, dataset, config_file_list, config_dict, argv=given)


def _catalog_of(config: SDAConfig) -> Catalog:
    prepare_dataset(config)
    return open_catalog(config, item_tokens(load_catalogue(config)))


def _table_k(config: SDAConfig) -> int:
    """The k by which the best epoch was chosen, or the first."""
    _, _, k = config["valid_metric"].partition("@")
    return int(k) if k else config["topk"][0]


def _split_in_words(eval_args: dict) -> str:
    """RecBole splits general and sequential models differently unless told, so the table says how."""
    ((strategy, detail),) = eval_args["split"].items()
    return f"evaluation: split {strategy} {detail}, order {eval_args['order']}"
