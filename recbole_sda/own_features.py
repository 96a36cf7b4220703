"""Features of the user's own take their place in a configuration, before anything is trained."""

import logging
from collections.abc import Sequence
from pathlib import Path

from recbole_sda.features import FeatureProvider
from recbole_sda.features.sources import import_features, open_features
from recbole_sda.variants import is_own

logger = logging.getLogger(__name__)


def settle_own_features(config, keys: dict, tokens: Sequence[str]) -> dict:
    """A variant's keys, where its own features are imported, checked against the items, and their modalities said.

    Args:
        config: reads ``checkpoint_dir``, ``dataset``, ``missing_features``, and ``modalities`` if they are given.
        keys: the variant's; returned as they are unless its ``features`` are the user's own.
        tokens: the dataset's items.

    Raises:
        SDAError: whatever would stop the run later.
    """
    if not is_own(keys["features"]):
        return keys
    features = import_features(keys["features"], Path(config["checkpoint_dir"]) / "features")
    chosen = open_features(features, config["modalities"] if config.given("modalities") else None)
    provider = FeatureProvider(chosen, tokens, dataset=config["dataset"], missing=config["missing_features"])
    for line in provider.coverage():
        logger.info("features: %s", line)
    # Nothing is embedded: what says how does not matter, and must not contradict these modalities.
    settled = {"modalities": list(provider.modalities), "modality_kinds": {}, "adapter": "none"}
    return {**keys, **settled, "features": features}
