"""Stage 3's models: features in place of an item table, and recommenders of our own."""

from recbole_sda import compat

compat.prepare_recbole()

from recbole_sda.model.attach import FeatureSlot, attach_item_features  # noqa: E402
from recbole_sda.model.item_features import ItemFeatures  # noqa: E402
from recbole_sda.model.registry import OWN_MODELS, register_model  # noqa: E402
from recbole_sda.model.slmrec import SLMRec  # noqa: E402
from recbole_sda.model.slots import SLOTS, Slots, check_model  # noqa: E402
from recbole_sda.model.vbpr import VBPR  # noqa: E402

__all__ = [
    "OWN_MODELS",
    "SLOTS",
    "VBPR",
    "FeatureSlot",
    "ItemFeatures",
    "SLMRec",
    "Slots",
    "attach_item_features",
    "check_model",
    "register_model",
]
