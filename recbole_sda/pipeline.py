"""The three stages in order, for every variant of a comparison."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from recbole_sda import compat

compat.prepare_recbole()

from recbole.utils import init_logger  # noqa: E402

from recbole_sda.catalog import Catalog  # noqa: E402
from recbole_sda.catalog import item_tokens as catalog_tokens  # noqa: E402
from recbole_sda.catalog.demo import ensure_demo  # noqa: E402
from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.diagnostics import DIAGNOSES  # noqa: E402
from recbole_sda.errors import SDAError  # noqa: E402
from recbole_sda.features import FeatureProvider, FeatureStore  # noqa: E402
from recbole_sda.model import check_model  # noqa: E402
from recbole_sda.recommend import item_tokens, load_dataset, recommend  # noqa: E402
from recbole_sda.report.table import results_table  # noqa: E402
from recbole_sda.stages import EncoderStages  # noqa: E402
from recbole_sda.variants import VARIANTS, variant_name  # noqa: E402

logger = logging.getLogger(__name__)

DEMO = "demo"
CATALOGUE_MODEL = "BPR"  # whose configuration loads a dataset when no model is asked for


def run(
    model: str | None = None,
    dataset: str | None = None,
    config_dict: dict | None = None,
    config_file_list: Sequence[str] | None = None,
    *,
    argv: Sequence[str] = (),
) -> dict:
    """Adapt, embed, recommend: once, or for every variant of ``compare``.

    Returns:
        ``model``, ``dataset``, ``seed`` and ``runs``: one dictionary a variant with ``variant``, ``valid``,
        ``test``, ``timings`` (seconds), ``artefacts`` (paths), ``items`` and ``missing``. With a single
        variant its entries stand at the top, too.

    Raises:
        SDAError: a mistake in the input, before any work.
    """
    config = SDAConfig(model, dataset, config_file_list, config_dict, argv=argv)
    if config.unused_keys:
        logger.warning("keys that %s does not read: %s", config["model"], ", ".join(config.unused_keys))
    variants = _variants(config)
    result_file = _check_result_file(config["result_file"])
    _prepare_dataset(config)
    if any(variant["features"] != "none" for variant in variants.values()):
        check_model(config["model"])
    init_logger(config)
    plans = _plan(config, variants)

    runs = []
    result = {"model": config["model"], "dataset": config["dataset"], "seed": config["seed"], "runs": runs}
    for name, (variant_config, stages) in plans.items():
        logger.info("%s on %s: %s", config["model"], config["dataset"], name)
        runs.append({"variant": name, **_run_variant(variant_config, stages, name)})
        if result_file:  # after every variant: a run that is killed leaves what it has
            _write_result(result_file, result)
    logger.info("%s", results_table(result, k=_table_k(config), split=_split_in_words(config["eval_args"])))
    return {**runs[0], **result} if len(runs) == 1 else result


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
    result_file = _check_result_file(config["result_file"])
    result = diagnosis.run(_catalog_of(config))
    if result_file:
        _write_result(result_file, result)
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
    _prepare_dataset(config)
    return open_catalog(config, item_tokens(load_dataset(config)))


def open_catalog(config: SDAConfig, tokens: tuple[str, ...]) -> Catalog:
    """The catalogue of these items, and with ``all_items`` of the rest, as the configuration describes it."""
    if config["all_items"]:
        item_file = Path(config["data_path"]) / f"{config['dataset']}.item"
        if not item_file.is_file():
            raise SDAError(f"all_items=True, but {item_file} does not exist; leave all_items out")
        tokens = tuple(dict.fromkeys([*tokens, *catalog_tokens(item_file, config["ITEM_ID_FIELD"])]))
    catalog = Catalog.open(
        config["data_path"],
        tokens,
        modalities=config["modalities"],
        kinds=config["modality_kinds"],
        name=config["dataset"],
        item_field=config["ITEM_ID_FIELD"],
        text_fields=config["text_fields"],
        image_folder=config["image_folder"],
        max_image_pixels=config["max_image_pixels"],
        max_audio_seconds=config["max_audio_seconds"],
        strict=config["strict"],
        index_folder=Path(config["checkpoint_dir"]) / "catalog",
    )
    logger.info("%s", catalog.summary())
    return catalog


def _variants(config: SDAConfig) -> dict[str, dict]:
    """Name → the keys that make the variant."""
    if config["compare"]:
        return {name: VARIANTS[name] for name in config["compare"]}
    keys = {key: config[key] for key in ("features", "adapter", "alignment")}
    return {variant_name(**keys): keys}


def _plan(config: SDAConfig, variants: dict[str, dict]) -> dict[str, tuple]:
    """Each variant's configuration and encoder stages, checked before the first of them runs."""
    tokens = item_tokens(load_dataset(config))
    catalog = None
    plans = {}
    for name, keys in variants.items():
        variant, stages = config.replace(**keys), None
        if variant["features"] == "auto":
            catalog = catalog or open_catalog(config, tokens)
            stages = EncoderStages(variant, catalog)
            stages.check()
        elif variant["features"] != "none":
            store = FeatureStore.open(variant["features"], verify=True)
            FeatureProvider(store, tokens, dataset=config["dataset"])
        plans[name] = variant, stages
    return plans


def _run_variant(config: SDAConfig, stages: EncoderStages | None, name: str) -> dict:
    timings, artefacts = {}, {}
    store = None if config["features"] in ("none", "auto") else Path(config["features"])
    if stages is not None:
        adapter, timings["adapt"] = _timed(stages.adapt)
        store, timings["embed"] = _timed(stages.embed)
        artefacts = {"adapter": str(adapter) if adapter else None, "features": str(store)}
    elif store is not None:
        artefacts = {"features": str(store)}
    outcome, timings["train"] = _timed(recommend, config, store, label=name)
    artefacts["checkpoint"] = outcome.pop("checkpoint")
    return {**outcome, "timings": timings, "artefacts": artefacts}


def _timed(function, *args, **kwargs):
    started = time.monotonic()
    value = function(*args, **kwargs)
    return value, round(time.monotonic() - started, 1)


def _prepare_dataset(config: SDAConfig) -> None:
    folder = Path(config["data_path"])
    if config["dataset"] == DEMO:
        settings = {name: config[f"demo_{name}"] for name in ("items", "users", "seed")}
        settings |= {name: config[name] for name in ("image_signal", "text_signal")}
        if "audio" in config["modalities"]:
            settings |= {"audio": True, "audio_signal": config["audio_signal"]}
        try:
            ensure_demo(folder.parent, **settings)
        except OSError as error:
            raise SDAError(
                f"data_path={folder.parent}: the demo cannot be written there ({error.strerror}); "
                "say --data_path=FOLDER with one that can"
            ) from error
    if not list(folder.glob(f"{config['dataset']}*.inter")):
        others = sorted(p.parent.name for p in folder.parent.glob("*/*.inter"))
        raise SDAError(
            f"dataset={config['dataset']!r} is not there: {folder / config['dataset']}.inter does not exist. "
            f"Make it with dataset_scripts/from_csv.py, or use one of: {', '.join(sorted({DEMO, *others}))}"
        )


def _table_k(config: SDAConfig) -> int:
    """The k by which the best epoch was chosen, or the first."""
    _, _, k = config["valid_metric"].partition("@")
    return int(k) if k else config["topk"][0]


def _split_in_words(eval_args: dict) -> str:
    """RecBole splits general and sequential models differently unless told, so the table says how."""
    ((strategy, detail),) = eval_args["split"].items()
    mode = eval_args["mode"]["test"]
    return f"evaluation: split {strategy} {detail}, order {eval_args['order']}, candidates {mode}"


def _write_result(path: Path, result: dict) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _check_result_file(path: str | None) -> Path | None:
    if path is None:
        return None
    if not Path(path).resolve().parent.is_dir():
        raise SDAError(f"result_file={path}: its folder does not exist; make it first")
    return Path(path)
