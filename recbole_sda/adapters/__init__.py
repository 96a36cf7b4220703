"""MoDA, Modality-Disentangled Adaptation, as a PEFT method (arXiv 2512.06883).

Each adapted linear layer has N_e low-rank experts and a gate that sees nothing but the modality of the
pass. Image passes and text passes mix the same experts in different shares, so their updates fight less
than in one shared LoRA, and a layer costs what a LoRA of the same total rank costs.

    model = peft.get_peft_model(model, MoDAConfig())
    with routing("image"):
        model(**inputs)
    plain = model.merge_and_unload(modality="image")
"""

from recbole_sda.adapters.config import LANGUAGE_MODEL_TARGETS, MoDAConfig
from recbole_sda.adapters.layer import MoDALayer, MoDALinear
from recbole_sda.adapters.model import MoDAModel, register
from recbole_sda.adapters.names import adaptation_summary
from recbole_sda.adapters.routing import checkpoint_routing, routing

__all__ = [
    "LANGUAGE_MODEL_TARGETS",
    "MoDAConfig",
    "MoDALayer",
    "MoDALinear",
    "MoDAModel",
    "adaptation_summary",
    "checkpoint_routing",
    "register",
    "routing",
]

register()
