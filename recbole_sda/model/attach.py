"""Features take their place in a built model; the model's class is untouched."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from recbole_sda.errors import SDAError
from recbole_sda.features import FeatureProvider, FeatureStore
from recbole_sda.features.reduction import prepare_features
from recbole_sda.model.by_modality import ByModality
from recbole_sda.model.item_features import ItemFeatures
from recbole_sda.model.projection import MappedTable
from recbole_sda.model.slots import SLOTS, check_model

logger = logging.getLogger(__name__)

MIB, GIB = 2**20, 2**30


class FeatureSlot(nn.Module):
    """A place for features in a model that has nothing of its own to put there.

    Left empty, the model goes without its content terms.

    Args:
        num_embeddings, embedding_dim: the table's shape, as of ``nn.Embedding``.
        std: at which the table would start.
        by_modality: fill it with a table for each modality instead of one for all.
        normalize: divide each item's features by their length.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        std: float,
        *,
        by_modality: bool = False,
        normalize: bool = False,
    ):
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.std = num_embeddings, embedding_dim, std
        self.by_modality, self.normalize = by_modality, normalize


def attach_item_features(model: nn.Module, provider: FeatureProvider, config) -> nn.Module:
    """Put features in place of the model's item tables.

    All tables of one model share the features. Names that hold one table hold one replacement.

    Args:
        model: a built model, before its trainer (the optimizer must see the new parameters).
        provider: the features of its items, in its item order.
        config: reads ``modalities``, ``fusion``, ``feature_*``, ``use_item_id``, ``device``, ``checkpoint_dir``.

    Returns:
        The same model.

    Raises:
        SDAError: the model cannot take features, or the store lacks a modality.
    """
    check_model(type(model).__name__)
    _check_modalities(provider, config)
    device = torch.device(config["device"])
    features = _place(prepare_tables(provider, config), config, device)
    present = {name: _with_padding(provider.present(name)).to(device) for name in features}
    tables = {id(table): table for table in map(model.get_submodule, SLOTS[type(model).__name__].tables)}
    for table in tables.values():
        with torch.device(device):
            _replace(model, table, _replacement(table, features, present, config))
    _leave_out_of_broadcasts(model)
    return model


def _check_modalities(provider: FeatureProvider, config) -> None:
    if any(modality not in provider.modalities for modality in config["modalities"]):
        raise SDAError(
            f"modalities={','.join(config['modalities'])}, but {provider.describe()} holds "
            f"{', '.join(provider.modalities)}; say --modalities={','.join(provider.modalities)}"
        )


def prepare_tables(provider: FeatureProvider, config) -> dict[str, FeatureStore]:
    """modality → its prepared table on disk, made now or found.

    Args:
        config: as of :func:`attach_item_features`.

    Raises:
        SDAError: ``fusion=sum`` of several widths, a modality that no item has, a value that is not finite.
    """
    widths = {modality: provider.width(modality) for modality in config["modalities"]}
    if config["fusion"] == "sum" and len(set(widths.values())) > 1:
        raise SDAError(f"fusion=sum needs modalities of one width, found {widths}; use another fusion")
    return {
        modality: prepare_features(
            provider,
            modality,
            reduction=config["feature_reduction"],
            dimension=config["feature_dimension"],
            folder=Path(config["checkpoint_dir"]) / "tables",
            device=torch.device(config["device"]),
        )
        for modality in config["modalities"]
    }


def _place(stores: Mapping[str, FeatureStore], config, device: torch.device) -> dict[str, Tensor | MappedTable]:
    """Each table on the device, or left on the disk."""
    size = sum(store.values(modality).nbytes for modality, store in stores.items())
    placement = config["feature_placement"]
    if placement == "auto":
        placement = "device" if size <= config["feature_device_gib"] * GIB else "disk"
    tables = {modality: MappedTable(store, modality) for modality, store in stores.items()}
    logger.info(
        "features: %s, reduction %s, %s",
        " + ".join(f"{modality} {table.shape[1]}" for modality, table in tables.items()),
        config["feature_reduction"],
        f"{size / MIB:.1f} MiB on {device}" if placement == "device" else "mapped from disk",
    )
    if placement == "disk":
        return tables
    return {modality: table[:].to(device) for modality, table in tables.items()}


def _with_padding(present) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.bool), torch.from_numpy(present)])


def _replacement(table: nn.Module, features: Mapping, present: Mapping, config) -> nn.Module:
    """One ItemFeatures in the place of ``table``, or of a slot that wants it one for each modality."""
    empty = isinstance(table, FeatureSlot)
    if empty and config["use_item_id"] != "none":
        logger.warning("use_item_id=%s: the model keeps item IDs apart from features", config["use_item_id"])

    def build(modalities) -> ItemFeatures:
        # One modality has nothing to be fused with, and idle gates would draw random numbers.
        return ItemFeatures(
            {name: features[name] for name in modalities},
            {name: present[name] for name in modalities},
            num_embeddings=table.num_embeddings,
            embedding_dim=table.embedding_dim,
            std=table.std if empty else float(table.weight.detach().std()),
            fusion=config["fusion"] if len(modalities) > 1 else "concat",
            hidden_size=config["feature_hidden_size"],
            activation=config["feature_activation"],
            item_id=None if empty or config["use_item_id"] == "none" else table,
            item_id_fusion=config["use_item_id"],
            normalize=empty and table.normalize,
        )

    if empty and table.by_modality:
        return ByModality({name: build([name]) for name in features})
    return build(features)


def _replace(model: nn.Module, table: nn.Module, replacement: nn.Module) -> None:
    """Wherever the model holds ``table``, under however many names."""
    for owner in list(model.modules()):
        for name, child in list(owner._modules.items()):
            if child is table:
                setattr(owner, name, replacement)


def _leave_out_of_broadcasts(model: nn.Module) -> None:
    """Have DistributedDataParallel leave the features alone: by default it sends every buffer at every step."""
    ignored = list(getattr(model, "_ddp_params_and_buffers_to_ignore", []))
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ItemFeatures):
            ignored += [f"{prefix}.{name}" for name in module._buffers]
    model._ddp_params_and_buffers_to_ignore = ignored
