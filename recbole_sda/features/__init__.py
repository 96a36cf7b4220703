"""Stage 2: the catalogue's embeddings on disk, and the way from there to any recommender."""

from recbole_sda.features.provider import FeatureProvider
from recbole_sda.features.store import FeatureStore, write_store

__all__ = ["FeatureProvider", "FeatureStore", "write_store"]
