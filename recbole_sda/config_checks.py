"""The checks of our keys: each error names the key, what was found, and the remedy."""

from collections.abc import Mapping

from accelerate.utils import is_tensorboard_available, is_wandb_available

from recbole_sda.errors import SDAError
from recbole_sda.variants import VARIANTS, check_names

MODALITIES = ("image", "text")

CHOICES = {
    "adapter": ("moda", "lora", "none"),
    "alignment": ("cmsa", "info_nce"),
    "align_teacher": ("mean", "per_modality", "base"),
    "align_scale_teacher": ("divide", "multiply"),
    "align_divergence": ("kl", "cross_entropy"),
    "align_mixed_precision": ("none", "bf16"),
    "gate_scale": ("none", "num_experts"),
    "feature_dtype": ("float16", "float32"),
    "fusion": ("concat", "sum"),
    "feature_reduction": ("none", "pca"),
    "use_item_id": ("none", "add"),
}
POSITIVE_INTEGERS = [
    "min_pixels",
    "max_pixels",
    "max_image_pixels",
    "prompt_value_chars",
    "lora_r",
    "num_experts",
    "align_chunk_rows",
    "align_batch_size",
    "align_micro_batch",
    "align_steps",
    "align_holdout_max",
    "align_eval_every",
    "align_checkpoint_every",
    "align_workers",
    "embed_batch_tokens",
    "feature_dimension",
]
POSITIVE_NUMBERS = ["align_temperature", "lora_alpha", "align_learning_rate", "align_max_grad_norm"]
OPTIONAL_POSITIVE_INTEGERS = ["align_patience"]
OPTIONAL_POSITIVE_NUMBERS = ["align_teacher_temperature", "align_teacher_perplexity"]
SHARES = ["tail_head_share", "align_holdout_share"]
BOOLEANS = [
    "strict",
    "all_items",
    "align_learn_temperature",
    "align_center",
    "align_normalize",
    "align_stop_gradient",
    "align_transpose_target",
    "align_gradient_checkpointing",
]
LISTS = ["modalities", "compare", "text_fields", "align_trackers"]
TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
# Read as they are typed: a prompt in braces is no mapping, a revision of digits no number.
TEXTS = [
    "model",
    "dataset",
    "features",
    "backbone",
    "prompt_domain",
    "prompt_image",
    "prompt_text",
    "prompt_field",
]
OPTIONAL_TEXTS = ["backbone_revision", "image_folder", "result_file"]
MIN_DIAGNOSE_BATCHES = 10
METRICS_WITHOUT_K = ("gauc", "auc", "mae", "rmse", "logloss")


def check_values(config) -> None:
    """Check and settle our keys in place: lists may come as text with commas.

    Raises:
        SDAError: at the first key that is wrong.
    """
    values = config.final_config_dict
    for key in LISTS:
        values[key] = _names(key, values[key])
    _check_kinds(values)
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


def _check_kinds(values: Mapping) -> None:
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            raise SDAError(f"{key}={values[key]!r} is unknown; choose {', '.join(choices)}")
    for key in POSITIVE_INTEGERS + [k for k in OPTIONAL_POSITIVE_INTEGERS if values[k] is not None]:
        if type(values[key]) is not int or values[key] < 1:
            raise SDAError(f"{key}={values[key]!r} must be a whole number of at least 1")
    batches = values["diagnose_batches"]
    if type(batches) is not int or batches < MIN_DIAGNOSE_BATCHES:
        raise SDAError(
            f"diagnose_batches={batches!r} must be a whole number of at least {MIN_DIAGNOSE_BATCHES}; "
            "fewer say too little"
        )
    for key in POSITIVE_NUMBERS + [k for k in OPTIONAL_POSITIVE_NUMBERS if values[k] is not None]:
        if type(values[key]) not in (int, float) or not 0 < values[key] < float("inf"):
            raise SDAError(f"{key}={values[key]!r} must be a number greater than 0")
    for key in SHARES:
        if type(values[key]) not in (int, float) or not 0 < values[key] < 1:
            raise SDAError(f"{key}={values[key]!r} must lie between 0 and 1, for example 0.2")
    for key in BOOLEANS:
        if type(values[key]) is not bool:
            raise SDAError(f"{key}={values[key]!r} must be True or False")
    if type(values["lora_dropout"]) not in (int, float) or not 0 <= values["lora_dropout"] < 1:
        raise SDAError(f"lora_dropout={values['lora_dropout']!r} must lie in [0, 1)")
    limit = values["tail_max_popularity"]
    if limit is not None and (type(limit) is not int or limit < 0):
        raise SDAError(f"tail_max_popularity={limit!r} must be a whole number of at least 0, or empty")
    for key in TEXTS + [k for k in OPTIONAL_TEXTS if values[k] is not None]:
        if not isinstance(values[key], str) or not values[key]:
            raise SDAError(f"{key}={values[key]!r} must be text; in YAML put quotes around it")


def _check_modalities(config) -> None:
    values = config.final_config_dict
    modalities = values["modalities"]
    unknown = [m for m in modalities or [] if m not in MODALITIES]
    if not modalities or unknown or len(set(modalities)) < len(modalities):
        raise SDAError(f"modalities={modalities!r}: choose image, text or image,text")
    if len(modalities) > 1 or values["adapter"] == "none":
        return
    remedy = f"alignment needs an image and a text; with modalities={modalities[0]} use"
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
