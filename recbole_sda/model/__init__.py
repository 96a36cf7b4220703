"""Stage 3's models: features in place of an item table, and recommenders of our own."""

from recbole_sda import compat

compat.prepare_recbole()

from recbole_sda.model.item_features import ItemFeatures  # noqa: E402
from recbole_sda.model.slots import FeatureSlot, attach_item_features, check_model  # noqa: E402
from recbole_sda.model.vbpr import VBPR  # noqa: E402

OWN_MODELS = {"VBPR": VBPR}

__all__ = ["OWN_MODELS", "VBPR", "FeatureSlot", "ItemFeatures", "attach_item_features", "check_model"]
