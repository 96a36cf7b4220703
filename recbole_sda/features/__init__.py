"""Stage 2: the catalogue's embeddings on disk, and the way from there to any recommender."""

from recbole_sda.features.provider import FeatureProvider
from recbole_sda.features.store import FeatureStore, reusable_rows, write_store

__all__ = ["FeatureProvider", "FeatureStore", "reusable_rows", "write_store"]
