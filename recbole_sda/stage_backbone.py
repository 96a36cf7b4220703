"""The backbone as stages 1 and 2 take it: bare, under a new adapter, or under a trained one."""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model

from recbole_sda.encoders import Backbone, load_backbone
from recbole_sda.encoders.vectors import load_projectors
from recbole_sda.stage_settings import StageSettings

# Keys of the backbone, with backbone_ before them, that say how it is loaded, not from where.
LOADING_KEYS = ("dtype", "quantization", "attn_implementation", "device_map")
NO_ADAPTER = "none"


def bare_backbone(settings: StageSettings, device: torch.device | None = None) -> Backbone:
    """Args: device: instead of the configuration's."""
    config, kinds = settings.config, settings.catalog.kinds
    backbone = load_backbone(
        config["backbone"],
        **settings.source,
        **{name: config[name] for name in ("min_pixels", "max_pixels")},
        **{name: config[f"backbone_{name}"] for name in LOADING_KEYS},
        prompts=settings.prompts,
        pooling=settings.pooling,
        kinds=kinds,
        device=device or config["device"],
    )
    for modality, kind in kinds.items():
        if kind != "text":
            backbone.collator.check_sizes(modality, settings.catalog.sizes(modality))
    return backbone


def newly_adapted_backbone(settings: StageSettings, device: torch.device | None = None) -> Backbone:
    """As stage 1 begins: the adapter and the projections of vectors are drawn with ``seed``."""
    torch.manual_seed(settings.config["seed"])
    backbone = bare_backbone(settings, device)
    backbone.model = get_peft_model(backbone.model, settings.peft_config())
    backbone.add_projectors(settings.vector_widths)
    return backbone


def adapted_backbone(settings: StageSettings, adapter: str) -> Backbone:
    """Args: adapter: the digest of a trained one, or ``none``."""
    backbone = bare_backbone(settings)
    if adapter != NO_ADAPTER:
        folder = Path(settings.config["checkpoint_dir"]) / "adapters" / adapter
        backbone.model = PeftModel.from_pretrained(backbone.model, folder)
        if widths := settings.vector_widths:
            backbone.add_projectors(widths)
            load_projectors(backbone.projectors, folder)
    return backbone
