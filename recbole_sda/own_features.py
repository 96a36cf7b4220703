"""Features of the user's own take their place in a configuration, before anything is trained."""

import logging
from collections.abc import Sequence
from pathlib import Path

from recbole_sda.features import FeatureProvider
from recbole_sda.features.provider import StoredModality
from recbole_sda.features.sources import import_features, open_features
from recbole_sda.model.attach import prepare_tables
from recbole_sda.variants import embeds

logger = logging.getLogger(__name__)


def settle_own_features(configs: Sequence, tokens: Sequence[str]) -> dict:
    """Import the user's features, check them against the items, and make the tables that the models will read.

    The tables are what training would begin with; to make them now costs nothing and reads every value, so that a
    bad one is found before the other variants have trained.

    Args:
        configs: one a model, all of the same ``features``; read are ``checkpoint_dir``, ``dataset``,
            ``missing_features``, ``fusion``, ``feature_*``, and ``modalities`` if they are given.
        tokens: the dataset's items.

    Returns:
        The keys of the variant that uses them.

    Raises:
        SDAError: whatever would stop the run later.
    """
    config = configs[0]
    features = import_features(config["features"], Path(config["checkpoint_dir"]) / "features")
    chosen = _chosen(config, features)
    provider = FeatureProvider(chosen, tokens, dataset=config["dataset"], missing=config["missing_features"])
    for line in provider.coverage():
        logger.info("features: %s", line)
    # Nothing is embedded: what says how does not matter, and must not contradict these modalities.
    settled = {"modalities": list(provider.modalities), "modality_kinds": {}, "adapter": "none"}
    settled["features"] = features
    for each in configs:
        prepare_tables(provider, each.replace(**settled))
    return settled


def _chosen(config, features: str) -> dict[str, StoredModality]:
    found = open_features(features)
    if not config.given("modalities"):
        return found
    # In a comparison that embeds, too, modalities of other names are what the other variants embed.
    if embeds(config) and found.keys().isdisjoint(config["modalities"]):
        return found
    return open_features(features, config["modalities"])
