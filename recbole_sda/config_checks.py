"""The checks of our keys: each error names the key, what was found, and the remedy."""

import difflib
import re
from collections.abc import Mapping

from accelerate.utils import is_tensorboard_available, is_wandb_available

from recbole_sda.alignment.named_losses import find_loss
from recbole_sda.catalog.corrupted import PAIRS
from recbole_sda.errors import SDAError
from recbole_sda.evaluation import known_metrics
from recbole_sda.evaluation.candidates import NEGATIVES
from recbole_sda.idle_keys import WORKERS
from recbole_sda.key_kinds import check_kinds, keys_of_type, names
from recbole_sda.model.registry import check_importable
from recbole_sda.stage_settings import TEACHER
from recbole_sda.variants import VARIANTS, check_names, embeds, is_own

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
        values[key] = names(key, values[key])
    for key in keys_of_type("ints"):
        values[key] = _whole_numbers(key, values[key])
    check_kinds(values)
    find_loss(values["alignment"])
    check_names(values["compare"] or [])
    _check_modalities(config)
    values["align_trackers"] = values["align_trackers"] or []
    _check_trackers(values["align_trackers"])
    _check_corruptions(values)
    _check_contradictions(config)
    if values["adapter"] == "moda" and values["lora_r"] % values["num_experts"]:
        divisors = [n for n in range(1, values["lora_r"] + 1) if values["lora_r"] % n == 0]
        raise SDAError(
            f"num_experts={values['num_experts']} does not divide lora_r={values['lora_r']}; "
            f"choose one of {', '.join(map(str, divisors))}"
        )
    if values["fusion"] == "sum" and values["feature_reduction"] != "none":
        raise SDAError(
            f"fusion=sum adds the modalities' coordinates, and feature_reduction={values['feature_reduction']} "
            "gives each modality its own; use fusion=concat, gated or attention, or feature_reduction=none"
        )
    if values["min_pixels"] > values["max_pixels"]:
        raise SDAError(f"min_pixels={values['min_pixels']} is above max_pixels={values['max_pixels']}")
    if values["pooling_layer"] is not None and values["pooling_last_layers"] != 1:
        raise SDAError(
            f"pooling_layer={values['pooling_layer']} chooses one layer, pooling_last_layers="
            f"{values['pooling_last_layers']} averages several; leave one of them out"
        )
    _check_valid_metric(values)
    _check_candidates(values)
    if any(values[key] > 1 for key in (*WORKERS, "study_workers")):
        check_importable(values["model"])


def check_metrics(values: dict) -> None:
    """Check and settle what RecBole, which crashes on other kinds, reads next.

    Raises:
        SDAError: ``metrics`` are not names or not known, ``valid_metric`` is none.
    """
    values["metrics"] = names("metrics", values["metrics"])
    if not values["metrics"]:
        raise SDAError(f"metrics={values['metrics']!r} names none; choose some, for example Hit,NDCG")
    known = {name.lower(): name for name in known_metrics()}
    for name in values["metrics"]:
        if name.lower() not in known:
            near = [known[n] for n in difflib.get_close_matches(name.lower(), known, n=3)]
            remedy = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known.values())}"
            raise SDAError(f"metrics: {name!r} is unknown; {remedy}")
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
    strangers = [name for name in values["modality_kinds"] if name not in modalities]
    # What a file says of kinds and adapters serves other runs where nothing is embedded.
    makes_features = embeds(values)
    if strangers and makes_features:
        raise SDAError(
            f"modality_kinds names {', '.join(strangers)}, but modalities={','.join(modalities)}; add it there"
        )
    if len(modalities) > 1 or values["adapter"] == "none":
        return
    remedy = f"alignment needs two modalities, such as an image and a text; with modalities={modalities[0]} use"
    trained = [name for name in values["compare"] or [] if VARIANTS[name].get("adapter", "none") != "none"]
    if trained:
        raise SDAError(f"compare names {', '.join(trained)}, but {remedy} --compare=ids,zero_shot")
    if not config.given("adapter"):
        # Nobody asked for adaptation in so many words, and one modality leaves nothing to align.
        values["adapter"] = "none"
    elif makes_features:
        raise SDAError(f"adapter={values['adapter']}, but {remedy} --adapter=none, or leave adapter out")


def _check_trackers(names: list[str]) -> None:
    for name in names:
        if name not in TRACKERS:
            raise SDAError(f"align_trackers={','.join(names)}: {name!r} is unknown; choose {', '.join(TRACKERS)}")
        if not TRACKERS[name]():
            raise SDAError(f"align_trackers={','.join(names)}: {name} is not installed; pip install {name}")


def _check_corruptions(values: Mapping) -> None:
    known = [*values["modalities"], PAIRS, TEACHER]
    for name in values["align_corrupt"] or {}:
        if name not in known:
            raise SDAError(f"align_corrupt: {name!r} is unknown; choose {', '.join(known)}")


def _check_contradictions(config) -> None:
    values = config.final_config_dict
    if not values["compare"]:
        return
    features = {**config.internal_config_dict, **config.external_config_dict}["features"]  # before any variant's
    owns = "features" in values["compare"]
    if owns and not is_own(features):
        raise SDAError(
            f"compare={','.join(values['compare'])} runs features of your own, and features={features}; name "
            "them: --features=FOLDER_OR_FILE"
        )
    said = [key for key in ("features", "adapter", "alignment") if config.given(key)]
    said = [key for key in said if not (owns and key == "features")]
    if said:
        remedy = ", or add features to compare" if said[0] == "features" and is_own(features) else ""
        raise SDAError(
            f"compare={','.join(values['compare'])} sets {said[0]} itself, and {said[0]}={values[said[0]]} "
            f"was given too; leave one of them out{remedy}"
        )


def _check_valid_metric(values: Mapping) -> None:
    metric, available = values["valid_metric"], []
    for name in values["metrics"]:
        without_k = name.lower() in METRICS_WITHOUT_K
        available += [name] if without_k else [f"{name}@{k}" for k in values["topk"]]
    if metric.lower() not in [name.lower() for name in available]:
        raise SDAError(f"valid_metric={metric} is not computed; choose one of {', '.join(available)}")
    if metric.lower().startswith(("coldhit", "coldndcg")):
        raise SDAError(f"valid_metric={metric} is undefined: validation holds no cold item; validate by NDCG@10")


def _check_candidates(values: Mapping) -> None:
    modes = sorted(set(values["eval_args"]["mode"].values()))
    for key, default in (("protocol", "full"), ("history_mask", "recbole")):
        if values[key] != default and modes != ["full"]:
            raise SDAError(
                f"{key}={values[key]} chooses among the scores of all items, and eval_args mode {','.join(modes)} "
                f"scores RecBole's own samples; use mode full, or leave {key} out"
            )
    if values["protocol"] == "uni100" and max(values["topk"]) > NEGATIVES + 1:
        raise SDAError(
            f"topk={max(values['topk'])} is longer than protocol=uni100's {NEGATIVES + 1} candidates; lower topk"
        )


def _whole_numbers(key: str, value) -> list[int] | None:
    """``1,2,3``, ``[1, 2, 3]`` or one number."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    numbers = [int(part) if isinstance(part, str) and part.strip().isdecimal() else part for part in parts]
    if not numbers or not all(type(number) is int for number in numbers) or len(set(numbers)) < len(numbers):
        raise SDAError(f"{key}={value!r} must be whole numbers with commas between them, each once, such as 1,2,3")
    return numbers
