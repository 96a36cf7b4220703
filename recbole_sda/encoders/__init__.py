"""The LVLM side: items become prompts, prompts become pooled embeddings of one modality. Knows nothing of RecBole."""

from recbole_sda.encoders.backbone import Backbone
from recbole_sda.encoders.loading import backbone_identity, load_backbone
from recbole_sda.encoders.prompts import Prompts

__all__ = ["Backbone", "Prompts", "backbone_identity", "load_backbone"]
