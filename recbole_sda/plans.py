"""What a command asks for, one plan a training: every seed, model and variant, checked before the first begins."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recbole_sda import compat
from recbole_sda.defaults import read_yaml

compat.prepare_recbole()

from recbole.utils import ModelType  # noqa: E402

from recbole_sda.catalog import Catalog  # noqa: E402
from recbole_sda.catalog import item_tokens as catalog_tokens  # noqa: E402
from recbole_sda.catalog.settings import open_described  # noqa: E402
from recbole_sda.cold_items import check_cold  # noqa: E402
from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.errors import SDAError  # noqa: E402
from recbole_sda.evaluation.checks import (  # noqa: E402
    LEAVE_ONE_OUT,
    check_dataset,
    check_group_split,
    metric_group,
)
from recbole_sda.idle_keys import check_idle  # noqa: E402
from recbole_sda.model import check_model  # noqa: E402
from recbole_sda.own_features import settle_own_features  # noqa: E402
from recbole_sda.ray_recommend import check_processes  # noqa: E402
from recbole_sda.recommend import item_tokens, load_dataset  # noqa: E402
from recbole_sda.stages import EncoderStages  # noqa: E402
from recbole_sda.variants import embeds, is_own, variants_of  # noqa: E402

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One training.

    Attributes:
        config: with the keys of the variant and the seed in place.
        variant: its name.
        stages: that make its features; None where it needs none made.
    """

    config: SDAConfig
    variant: str
    stages: EncoderStages | None

    @property
    def named(self) -> tuple[str, str, str, int]:
        """Model, dataset, variant, seed."""
        return self.config["model"], self.config["dataset"], self.variant, self.config["seed"]


def model_configs(
    model: str | None, dataset: str | None, files: Sequence[str] | None, values: dict | None, argv: Sequence[str]
) -> list[SDAConfig]:
    """A configuration for each model of ``model=SASRec,VBPR``.

    Raises:
        SDAError: of any of them, and a typed key that none of the models reads or that would do nothing.
    """
    names = named_models(model, files, values, argv)
    if len(names) == 1:
        configs = [SDAConfig(model, dataset, files, values, argv=argv)]
        check_idle(configs)
        return configs
    others = [argument for argument in argv if not argument.startswith("--model=")]
    configs = [SDAConfig(name, dataset, files, values, argv=others, one_of_several=True) for name in names]
    check_read(configs)
    check_idle(configs)
    if reasons := incomparable(configs):
        raise SDAError(reasons[0])
    return configs


def named_models(
    model: str | None, files: Sequence[str] | None, values: dict | None, argv: Sequence[str]
) -> list[str]:
    """The names in ``model=SASRec,VBPR``, wherever that is said; one empty name where it is not.

    Raises:
        SDAError: as :func:`check_names`.
    """
    said = [model, *(a.removeprefix("--model=") for a in reversed(argv) if a.startswith("--model="))]
    said += [(values or {}).get("model"), *(read_yaml(file).get("model") for file in reversed(files or ()))]
    names = [name.strip() for name in str(next(filter(None, said), "")).split(",")]
    check_names(names)
    return names


def check_names(names: Sequence[str]) -> None:
    """Raises: SDAError: a model is named twice; two classes have one name."""
    if len(set(names)) < len(names):
        raise SDAError(f"model={','.join(names)} names a model twice")
    classes = [name.rpartition(":")[2] for name in names]
    if twice := [name for number, name in enumerate(classes) if name in classes[:number]]:
        raise SDAError(
            f"model={','.join(names)} names two classes {twice[0]}, and figures and files tell models apart by "
            "their classes' names; call one of them something else"
        )


def check_read(configs: Sequence[SDAConfig]) -> None:
    """Raises: SDAError: a typed key that none of the models reads."""
    unread = set.intersection(*(set(config.unused_typed_keys) for config in configs))
    if unread:
        names = ", ".join(config["model"] for config in configs)
        raise SDAError(f"key {min(unread)!r} is read by none of the models {names}; leave it out")


def incomparable(configs: Sequence[SDAConfig]) -> list[str]:
    """Why figures of these models cannot be compared, each reason with its remedy; none where they can."""
    return [*_differing_splits(configs), *_differing_masks(configs)]


def _differing_splits(configs: Sequence[SDAConfig]) -> Iterator[str]:
    """RecBole splits sequential models by time and general ones at random unless it is told."""
    splits = {config["model"]: str(config["eval_args"]) for config in configs}
    if len(set(splits.values())) > 1:
        listed = "; ".join(f"{model}: {split}" for model, split in splits.items())
        remedy = f"Say --eval_args='{LEAVE_ONE_OUT}'"
        yield f"eval_args differ, so that figures cannot be compared: {listed}. {remedy}"


def _differing_masks(configs: Sequence[SDAConfig]) -> Iterator[str]:
    sequential = {config["model"]: config["MODEL_TYPE"] == ModelType.SEQUENTIAL for config in configs}
    if len(set(sequential.values())) > 1 and configs[0]["history_mask"] == "recbole":
        masked = [name for name, is_sequential in sequential.items() if not is_sequential]
        yield (
            f"history_mask=recbole: RecBole lets {', '.join(n for n in sequential if n not in masked)} recommend "
            f"what a user had before and keeps {', '.join(masked)} from it, so that their figures cannot be "
            "compared; say --history_mask=all or --history_mask=none"
        )


def make_plans(configs: Sequence[SDAConfig]) -> list[Plan]:
    """Every seed, model and variant, in this order.

    Raises:
        SDAError: a mistake that would stop one of them later.
    """
    config = configs[0]
    variants = variants_of(config)
    for each in configs:
        if any(variant["features"] != "none" for variant in variants.values()):
            check_model(each["model"], each)
            check_cold(each)
        check_processes(each)
    dataset = load_dataset(config, announce=True)
    for each in configs[1:]:
        check_dataset(each, dataset)
    tokens = item_tokens(dataset)
    catalog = open_catalog(config, tokens) if embeds(config) else None
    seeds = config["seeds"] or [config["seed"]]
    plans = []
    for seed in seeds:
        for each in configs:
            plans += _plans_of_model(each, seed, variants, catalog, check=seed == seeds[0])
    # What reads all interactions, and then all features, comes last.
    for each in configs:
        if metric_group(each["valid_metric"]):
            check_group_split(each, load_dataset(each))
    return _with_own_features(plans, configs, tokens)


def _plans_of_model(config, seed, variants, catalog, *, check: bool) -> Iterator[Plan]:
    for name, keys in variants.items():
        variant, stages = config.replace(seed=seed, **keys), None
        if variant["features"] == "auto":
            stages = EncoderStages(variant, catalog)
            if check:
                stages.check()
        yield Plan(variant, name, stages)


def _with_own_features(plans: list[Plan], configs, tokens) -> list[Plan]:
    if not any(is_own(plan.config["features"]) for plan in plans):
        return plans
    keys = settle_own_features(configs, tokens)
    return [
        replace(plan, config=plan.config.replace(**keys)) if is_own(plan.config["features"]) else plan
        for plan in plans
    ]


def open_catalog(config: SDAConfig, tokens: tuple[str, ...]) -> Catalog:
    """The catalogue of these items, and with ``all_items`` of the rest, as the configuration describes it."""
    if config["all_items"]:
        item_file = Path(config["data_path"]) / f"{config['dataset']}.item"
        if not item_file.is_file():
            raise SDAError(f"all_items=True, but {item_file} does not exist; leave all_items out")
        tokens = tuple(dict.fromkeys([*tokens, *catalog_tokens(item_file, config["ITEM_ID_FIELD"])]))
    folder = Path(config["data_path"])
    catalog = open_described(folder, tokens, config, strict=config["strict"])
    logger.info("%s", catalog.summary())
    return catalog
