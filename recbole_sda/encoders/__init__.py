"""The LVLM side, which knows nothing of RecBole: items become prompts, prompts pooled embeddings."""

from recbole_sda.encoders.backbone import Backbone
from recbole_sda.encoders.families import FAMILIES, Family
from recbole_sda.encoders.loading import check_loading, load_backbone
from recbole_sda.encoders.pooling import Pooling
from recbole_sda.encoders.prompts import Prompts
from recbole_sda.encoders.source import backbone_identity, read_family

__all__ = [
    "FAMILIES",
    "Backbone",
    "Family",
    "Pooling",
    "Prompts",
    "backbone_identity",
    "check_loading",
    "load_backbone",
    "read_family",
]
