"""What kind of value each key takes: its comment in ``properties/overall.yaml`` says it, the bounds stand here.

A key whose default is empty may stay empty.
"""

from collections.abc import Callable, Mapping
from functools import cache

from recbole_sda.defaults import key_types, parse_value, read_properties
from recbole_sda.errors import SDAError

CHOICES = {
    "adapter": ("moda", "lora", "none"),
    "align_teacher": ("mean", "per_modality", "base"),
    "align_scale_teacher": ("divide", "multiply"),
    "align_divergence": ("kl", "cross_entropy"),
    "align_mixed_precision": ("none", "bf16"),
    "backbone_quantization": ("none", "8bit", "4bit"),
    "pooling": ("auto", "mean", "last_token", "model"),
    "gate_scale": ("none", "num_experts"),
    "feature_dtype": ("float16", "bfloat16", "float32"),
    "fusion": ("concat", "sum", "gated", "attention"),
    "feature_reduction": ("none", "pca", "whiten"),
    "feature_activation": ("gelu", "relu", "tanh", "none"),
    "feature_placement": ("auto", "device", "disk"),
    "missing_features": ("refuse", "learn"),
    "use_item_id": ("none", "add", "concat"),
    "protocol": ("full", "uni100"),
    "history_mask": ("recbole", "all", "none"),
    "tune_search": ("auto", "grid", "random", "optuna"),
    "tune_scheduler": ("asha", "none"),
}
# Whole numbers start at 1 unless they stand here; None is any.
MINIMUM = {
    **{"diagnose_batches": 10, "tail_max_popularity": 0, "read_workers": 0, "protocol_seed": 0},
    "tune_reduction_factor": 2,
    "pooling_layer": None,
}
# Open intervals of the numbers that are not simply above 0.
SHARES = ("tail_head_share", "align_holdout_share")
HALF_OPEN_SHARES = ("lora_dropout", "cold_share")
NOT_NEGATIVE = ("gpus",)
KIND_NAMES = ("text", "image", "audio", "vectors")
# Read as they are typed, whatever YAML would make of them: a prompt in braces, a revision of digits.
UNLISTED_TEXTS = ("model", "dataset")
NULLS = ("", "~", "null", "None")


@cache
def optional_keys() -> frozenset[str]:
    return frozenset(key for key, default in read_properties("overall").items() if default is None)


@cache
def keys_of_type(name: str) -> tuple[str, ...]:
    """The keys whose comment says ``(name)``, but for those with a list of choices."""
    return tuple(key for key, kind in key_types().items() if kind == name and key not in CHOICES)


def is_text(key: str) -> bool:
    return key in UNLISTED_TEXTS or key in keys_of_type("str")


def typed_value(key: str, value):
    """A value from the command line or a dictionary; what is no text already is as it should be."""
    if not isinstance(value, str):
        return value
    if is_text(key):
        return None if value in NULLS else value
    if key.endswith("_num_interval"):  # "[5,10]" is an interval to RecBole, not a list
        return value
    return parse_value(value)


def names(key: str, value) -> list[str] | None:
    """A list of names, which may come as text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise SDAError(f"{key}={value!r} must be names with commas between them")
    return list(value)


def check_kinds(values: Mapping) -> None:
    """Raises: SDAError: at the first value that is of another kind or out of bounds."""
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            raise SDAError(f"{key}={values[key]!r} is unknown; choose {', '.join(choices)}")
    for kind, check in CHECKS.items():
        for key in keys_of_type(kind):
            if values[key] is not None or key not in optional_keys():
                check(key, values[key])


def _check_whole(key: str, value) -> None:
    least = MINIMUM.get(key, 1)
    if type(value) is not int or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise SDAError(f"{key}={value!r} must be a whole number{bound}")


def _check_number(key: str, value) -> None:
    number = type(value) in (int, float)
    if key in SHARES:
        if not number or not 0 < value < 1:
            raise SDAError(f"{key}={value!r} must lie between 0 and 1, for example 0.2")
    elif key in HALF_OPEN_SHARES:
        if not number or not 0 <= value < 1:
            raise SDAError(f"{key}={value!r} must lie in [0, 1)")
    elif key in NOT_NEGATIVE:
        if not number or not 0 <= value < float("inf"):
            raise SDAError(f"{key}={value!r} must be a number of at least 0")
    elif not number or not 0 < value < float("inf"):
        raise SDAError(f"{key}={value!r} must be a number greater than 0")


def _check_boolean(key: str, value) -> None:
    if type(value) is not bool:
        raise SDAError(f"{key}={value!r} must be True or False")


def _check_text(key: str, value) -> None:
    if not isinstance(value, str) or not value:
        raise SDAError(f"{key}={value!r} must be text; in YAML put quotes around it")


def _check_mapping(key: str, value) -> None:
    wanted, example = MAPPINGS[key]
    if not isinstance(value, dict) or not all(isinstance(k, str) and wanted(v) for k, v in value.items()):
        raise SDAError(f"{key}={value!r} must be a mapping such as {example}")


def _is_part(value) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


MAPPINGS = {
    "modality_kinds": (lambda value: value in KIND_NAMES, "{back: image}"),
    "prompt_field_templates": (lambda value: isinstance(value, str), '{price: "costs {value};"}'),
    "prompt_field_chars": (lambda value: type(value) is int and value >= 1, "{description: 400}"),
    "align_corrupt": (_is_part, "{text: 0.3}, of shares in [0, 1)"),
}
CHECKS: dict[str, Callable[[str, object], None]] = {
    "int": _check_whole,
    "float": _check_number,
    "bool": _check_boolean,
    "str": _check_text,
    "dict": _check_mapping,
}
