"""Backbones by name or folder, checked before any work starts."""

import hashlib
from pathlib import Path

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from recbole_sda.encoders.backbone import Backbone
from recbole_sda.encoders.prompts import Prompts
from recbole_sda.encoders.tiny import WEIGHTS_SEED, build_tiny
from recbole_sda.errors import SDAError

TINY = "tiny"
WHOLE_FILE_BYTES = 32 << 20
SAMPLED_BLOCKS, BLOCK_BYTES = 64, 1 << 16


def backbone_identity(name: str, revision: str | None = None) -> str:
    """What tells this backbone's weights from any other's, for digests. Downloads the configuration only.

    Raises:
        SDAError: it cannot be had, with the remedy. Nothing expensive has run yet.
    """
    if name == TINY:
        return f"tiny, weights seed {WEIGHTS_SEED}"
    folder = Path(name).expanduser()
    if folder.is_dir():
        _read_config(str(folder), None)
        return f"folder {_folder_digest(folder)}"
    config = _read_config(name, revision)
    return f"{name}@{getattr(config, '_commit_hash', None) or revision or 'main'}"


def load_backbone(
    name: str,
    *,
    prompts: Prompts,
    min_pixels: int,
    max_pixels: int,
    revision: str | None = None,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
) -> Backbone:
    """Load weights, tokenizer and image processor.

    Args:
        name: ``tiny``, a folder, or a name on the model hub.
        min_pixels, max_pixels: a picture is resized to an area between these, keeping its shape.
        dtype: see :func:`resolve_dtype`.
    """
    device = torch.device(device)
    if name == TINY:
        model, tokenizer, image_processor = build_tiny()
        model.to(dtype=resolve_dtype(dtype, device))
    else:
        name = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
        source = {"revision": revision, "trust_remote_code": False}
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=resolve_dtype(dtype, device), **source)
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        image_processor = AutoImageProcessor.from_pretrained(name, backend="pil", **source)
    image_processor.size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    return Backbone(model.eval().to(device), tokenizer, image_processor, prompts)


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


def _read_config(name: str, revision: str | None):
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SDAError(
            f"backbone={name!r} cannot be had: {reason} "
            "Give --backbone=FOLDER with a downloaded model, or --backbone=tiny to try the road "
            "with the built-in random one."
        ) from error
    if config.model_type != "qwen2_5_vl":
        raise SDAError(
            f"backbone={name!r} is a {config.model_type!r} model; this version reads qwen2_5_vl, "
            "for example --backbone=Qwen/Qwen2.5-VL-3B-Instruct"
        )
    return config


def _folder_digest(folder: Path) -> str:
    """Small files whole; of weights their size and evenly spaced blocks, so that 15 GB take no minute."""
    seen = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        seen.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE_BYTES:
                seen.update(file.read())
                continue
            for block in range(SAMPLED_BLOCKS):
                file.seek(block * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
                seen.update(file.read(BLOCK_BYTES))
    return seen.hexdigest()[:16]
