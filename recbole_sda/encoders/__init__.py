"""The LVLM side, which knows nothing of RecBole: items become prompts, prompts pooled embeddings."""

from recbole_sda.encoders.backbone import Backbone
from recbole_sda.encoders.loading import backbone_identity, load_backbone
from recbole_sda.encoders.prompts import Prompts

__all__ = ["Backbone", "Prompts", "backbone_identity", "load_backbone"]
