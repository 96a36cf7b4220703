"""Where each model keeps its item table, so that features can take its place after the model is built."""

from torch import Tensor, nn

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider
from recbole_sda.model.item_features import ItemFeatures
from recbole_sda.model.standardise import standardised

# Model → attributes that hold an item table. Only models whose swap is tested stand here.
SLOTS = {
    "SASRec": ("item_embedding",),
    "BERT4Rec": ("item_embedding",),
    "GRU4Rec": ("item_embedding",),
    "BPR": ("item_embedding",),
    "LightGCN": ("item_embedding",),
    "VBPR": ("item_content", "item_content_bias"),
}


class FeatureSlot(nn.Module):
    """A place for features in a model that has nothing of its own to put there.

    Left empty, the model goes without its content terms.

    Args:
        num_embeddings, embedding_dim: the table's shape, as of ``nn.Embedding``.
        std: at which the table would start.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, std: float):
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.std = num_embeddings, embedding_dim, std


def check_model(model: str) -> None:
    """Refuse, before any work, a model that cannot take features.

    Raises:
        SDAError: its item table is not known.
    """
    if model not in SLOTS:
        raise SDAError(
            f"model={model!r}: it is not known where this model keeps its item table, so it cannot use "
            f"features. Choose {', '.join(SLOTS)}, or --features=none to run it on item IDs"
        )


def attach_item_features(model: nn.Module, provider: FeatureProvider, config) -> nn.Module:
    """Put features in place of the model's item table; the model's class is untouched.

    Args:
        model: a built model, before its trainer (the optimizer must see the new parameters).
        provider: the features of its items, in its item order.
        config: reads ``modalities``, ``fusion``, ``feature_reduction``, ``feature_dimension``, ``use_item_id``.

    Returns:
        The same model.
    """
    name = type(model).__name__
    check_model(name)
    lacking = [m for m in config["modalities"] if m not in provider.modalities]
    if lacking:
        raise SDAError(
            f"modalities={','.join(config['modalities'])}, but {provider.store.path} holds "
            f"{', '.join(provider.modalities)}; say --modalities={','.join(provider.modalities)}"
        )
    features, present = _tables(provider, config)
    for slot in SLOTS[name]:
        table = getattr(model, slot)
        empty = isinstance(table, FeatureSlot)
        replacement = ItemFeatures(
            features,
            present,
            num_embeddings=table.num_embeddings,
            embedding_dim=table.embedding_dim,
            std=table.std if empty else float(table.weight.detach().std()),
            fusion=config["fusion"],
            item_id=table if config["use_item_id"] == "add" and not empty else None,
        )
        setattr(model, slot, replacement.to(config["device"]))
    return model


def _tables(provider: FeatureProvider, config) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features and presence by modality, on the device, once for all slots."""
    features, present = {}, {}
    for modality in config["modalities"]:
        table, mask = standardised(
            provider, modality, reduction=config["feature_reduction"], dimension=config["feature_dimension"]
        )
        features[modality], present[modality] = table.to(config["device"]), mask.to(config["device"])
    return features, present
