"""The checks of our keys: each error names the key, what was found, and the remedy."""

import re
from collections.abc import Mapping

from accelerate.utils import is_tensorboard_available, is_wandb_available

from recbole_sda.errors import SDAError
from recbole_sda.key_kinds import check_kinds, keys_of_type
from recbole_sda.variants import VARIANTS, check_names

TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
# Names become names of files and of keys.
MODALITY_NAME = re.compile(r"[a-z][a-z0-9_]*")
METRICS_WITHOUT_K = ("gauc", "auc", "mae", "rmse", "logloss")


def check_values(config) -> None:
    """Check and settle our keys in place: lists may come as text with commas.

    Raises:
        SDAError: at the first key that is wrong.
    """
    values = config.final_config_dict
    for key in keys_of_type("list"):
        values[key] = _names(key, values[key])
    check_kinds(values)
    _check_modalities(config)
    values["align_trackers"] = values["align_trackers"] or []
    _check_trackers(values["align_trackers"])
    check_names(values["compare"] or [])
    _check_contradictions(config)
    if values["adapter"] == "moda" and values["lora_r"] % values["num_experts"]:
        divisors = [n for n in range(1, values["lora_r"] + 1) if values["lora_r"] % n == 0]
        raise SDAError(
            f"num_experts={values['num_experts']} does not divide lora_r={values['lora_r']}; "
            f"choose one of {', '.join(map(str, divisors))}"
        )
    if values["fusion"] == "sum" and values["feature_reduction"] == "pca":
        raise SDAError(
            "fusion=sum adds the modalities' coordinates, and feature_reduction=pca gives each modality its own; "
            "use fusion=concat or feature_reduction=none"
        )
    if values["min_pixels"] > values["max_pixels"]:
        raise SDAError(f"min_pixels={values['min_pixels']} is above max_pixels={values['max_pixels']}")
    if values["pooling_layer"] is not None and values["pooling_last_layers"] != 1:
        raise SDAError(
            f"pooling_layer={values['pooling_layer']} chooses one layer, pooling_last_layers="
            f"{values['pooling_last_layers']} averages several; leave one of them out"
        )
    _check_valid_metric(values)


def check_metrics(values: dict) -> None:
    """Check and settle what RecBole, which crashes on other kinds, reads next.

    Raises:
        SDAError: ``metrics`` are not names, ``valid_metric`` is none.
    """
    values["metrics"] = _names("metrics", values["metrics"])
    if not values["metrics"]:
        raise SDAError(f"metrics={values['metrics']!r} names none; choose some, for example Hit,NDCG")
    if not isinstance(values["valid_metric"], str):
        raise SDAError(f"valid_metric={values['valid_metric']!r} is no metric; choose one, for example NDCG@10")


def _check_modalities(config) -> None:
    values = config.final_config_dict
    modalities = values["modalities"]
    unfit = [name for name in modalities or [] if not MODALITY_NAME.fullmatch(name)]
    if not modalities or unfit or len(set(modalities)) < len(modalities):
        raise SDAError(
            f"modalities={modalities!r}: choose image, text or image,text, or further names of small letters, "
            "digits and _, each once"
        )
    values["modality_kinds"] = values["modality_kinds"] or {}
    if strangers := [name for name in values["modality_kinds"] if name not in modalities]:
        raise SDAError(
            f"modality_kinds names {', '.join(strangers)}, but modalities={','.join(modalities)}; add it there"
        )
    if len(modalities) > 1 or values["adapter"] == "none":
        return
    remedy = f"alignment needs two modalities, such as an image and a text; with modalities={modalities[0]} use"
    trained = [name for name in values["compare"] or [] if _trains(name)]
    if trained:
        raise SDAError(f"compare names {', '.join(trained)}, but {remedy} --compare=ids,zero_shot")
    if config.given("adapter"):
        raise SDAError(f"adapter={values['adapter']}, but {remedy} --adapter=none, or leave adapter out")
    # Nobody asked for adaptation in so many words, and one modality leaves nothing to align.
    values["adapter"] = "none"


def _check_trackers(names: list[str]) -> None:
    for name in names:
        if name not in TRACKERS:
            raise SDAError(f"align_trackers={','.join(names)}: {name!r} is unknown; choose {', '.join(TRACKERS)}")
        if not TRACKERS[name]():
            raise SDAError(f"align_trackers={','.join(names)}: {name} is not installed; pip install {name}")


def _trains(variant: str) -> bool:
    return VARIANTS[variant].get("adapter", "none") != "none" if variant in VARIANTS else False


def _check_contradictions(config) -> None:
    values = config.final_config_dict
    if not values["compare"]:
        return
    said = [key for key in ("features", "adapter", "alignment") if config.given(key)]
    if said:
        raise SDAError(
            f"compare={','.join(values['compare'])} sets {said[0]} itself, and {said[0]}={values[said[0]]} "
            "was given too; leave one of them out"
        )


def _check_valid_metric(values: Mapping) -> None:
    metric, available = values["valid_metric"], []
    for name in values["metrics"]:
        without_k = name.lower() in METRICS_WITHOUT_K
        available += [name] if without_k else [f"{name}@{k}" for k in values["topk"]]
    if metric.lower() not in [name.lower() for name in available]:
        raise SDAError(f"valid_metric={metric} is not computed; choose one of {', '.join(available)}")


def _names(key: str, value) -> list[str] | None:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise SDAError(f"{key}={value!r} must be names with commas between them")
    return list(value)
