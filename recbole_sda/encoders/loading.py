"""A backbone's weights and processor, with every option that says how they are loaded."""

from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec

import torch
import transformers
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig

from recbole_sda.encoders.backbone import Backbone
from recbole_sda.encoders.collator import Collator
from recbole_sda.encoders.families import Family
from recbole_sda.encoders.pooling import Pooling
from recbole_sda.encoders.processors import processor_class
from recbole_sda.encoders.prompts import Prompts
from recbole_sda.encoders.source import TINY, read_family, resolve_name
from recbole_sda.encoders.tiny import build_tiny_model, build_tiny_processor
from recbole_sda.errors import SDAError

QUANTIZATIONS = ("none", "8bit", "4bit")
UNUSED_WEIGHTS = "lm_head"
LOADING_ERRORS = (OSError, ValueError, ImportError, RuntimeError, SafetensorError)
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def load_backbone(
    name: str,
    *,
    revision: str | None,
    local_files_only: bool,
    trust_remote_code: bool,
    dtype: str,
    device: torch.device | str,
    attn_implementation: str | None,
    quantization: str,
    device_map: str | None,
    min_pixels: int,
    max_pixels: int,
    prompts: Prompts,
    pooling: Pooling,
    kinds: Mapping[str, str] | None = None,
) -> Backbone:
    """Load weights and processor.

    Args:
        name: ``tiny``, a folder, or a name on the model hub.
        revision: a commit or tag on the hub.
        local_files_only: never ask the hub.
        trust_remote_code: run code that comes with the model.
        dtype: see :func:`resolve_dtype`.
        device: where the weights go, unless ``device_map`` says.
        attn_implementation: transformers' name; None leaves it to transformers.
        quantization: ``none``, ``8bit`` or ``4bit``.
        device_map: ``auto`` and so on, or None.
        min_pixels, max_pixels: a picture's area lies between these, as far as the family lets it (see `pixels`).
        prompts: what an item is turned into.
        pooling: from hidden states to an embedding.
        kinds: modality name → kind; None is every kind of the family under its own name.

    Raises:
        SDAError: something is unknown or cannot be had, with the key; before weights are read where that is known.
    """
    source = {
        "revision": revision,
        "local_files_only": local_files_only,
        "trust_remote_code": trust_remote_code,
    }
    device = torch.device(device)
    dtype = resolve_dtype(dtype, device)
    family = read_family(name, **source)
    pooling.resolve(family)
    check_loading(
        name, family, attn_implementation=attn_implementation, quantization=quantization, device_map=device_map
    )
    try:
        processor = _load_processor(name, family, source)
        family.traits.limit_pixels(processor, min_pixels, max_pixels)
        collator = Collator(processor, family, prompts, kinds or {kind: kind for kind in family.kinds})
        if name == TINY:
            model = build_tiny_model(attn_implementation).to(device, dtype)
        else:
            options = {
                "dtype": dtype,
                "device_map": device_map or {"": device},
                "attn_implementation": attn_implementation,
                **_quantized(quantization, dtype),
            }
            model = _load_weights(name, family, **options, **source)
    except LOADING_ERRORS as error:
        raise SDAError(f"backbone={name!r} cannot be loaded: {_reason(error)}") from error
    return Backbone(model.eval(), collator, pooling)


def check_loading(
    name: str, family: Family, *, attn_implementation: str | None, quantization: str, device_map: str | None
) -> None:
    """Whether these options can work, before any weight is read. Arguments as :func:`load_backbone`'s.

    Raises:
        SDAError: with the key and the remedy.
    """
    if quantization not in QUANTIZATIONS:
        raise SDAError(f"backbone_quantization={quantization!r} is unknown; choose {', '.join(QUANTIZATIONS)}")
    if quantization != "none" and find_spec("bitsandbytes") is None:
        raise SDAError(
            f"backbone_quantization={quantization!r} needs bitsandbytes; pip install 'recbole_sda[quantized]'"
        )
    if device_map is not None and device_map not in DEVICE_MAPS:
        raise SDAError(f"backbone_device_map={device_map!r} is unknown; choose {', '.join(DEVICE_MAPS)}")
    if name == TINY:
        given = {"quantization": quantization != "none", "device_map": device_map is not None}
        for key in (key for key, is_given in given.items() if is_given):
            raise SDAError(f"backbone_{key} does nothing for the built-in tiny backbone; leave it out")
    if attn_implementation is not None:
        _check_attention(family, attn_implementation)


def resolve_dtype(name: str, device: torch.device | str) -> torch.dtype:
    """The torch dtype of that name; ``auto`` is bfloat16 on CUDA and float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise SDAError(
            f"backbone_dtype={name!r} is no floating torch dtype; choose auto, float32, bfloat16 or float16"
        )
    return dtype


def _load_processor(name: str, family: Family, source: Mapping):
    if name == TINY:
        return build_tiny_processor()
    return processor_class(family.traits.processor).from_pretrained(resolve_name(name), **source)


def _load_weights(name: str, family: Family, **options):
    model_class = getattr(transformers, family.traits.model_class)
    model, info = model_class.from_pretrained(resolve_name(name), output_loading_info=True, **options)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(UNUSED_WEIGHTS))
    if missing:
        raise SDAError(
            f"its files lack {len(missing)} weights, {missing[0]} among them, which would be random; "
            "download it anew"
        )
    return model


def _quantized(quantization: str, dtype: torch.dtype) -> dict:
    if quantization == "none":
        return {}
    settings = {
        "8bit": {"load_in_8bit": True},
        "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
    }
    return {"quantization_config": BitsAndBytesConfig(**settings[quantization])}


def _check_attention(family: Family, attn_implementation: str) -> None:
    """Builds the model without weights, in no memory: transformers knows no cheaper way to be asked."""
    model_class = getattr(transformers, family.traits.model_class)
    build = getattr(model_class, "from_config", None) or model_class._from_config
    try:
        with torch.device("meta"):
            build(deepcopy(family.config), attn_implementation=attn_implementation)
    except (ValueError, ImportError, OSError) as error:
        raise SDAError(
            f"backbone_attn_implementation={attn_implementation!r} cannot be used: {_reason(error)} "
            "Choose eager or sdpa, or leave it out."
        ) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)
