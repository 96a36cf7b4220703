"""The catalogue's rows as embeddings, the way training asks for them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.batching import collate_items

AUTOCAST = {"bf16": torch.bfloat16}


def micro_batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


class ItemEncoder:
    """Embeds rows of a catalogue; pictures are read when their micro-batch runs, and forgotten after it.

    Args:
        mixed_precision: ``none``, or the name of a dtype in `AUTOCAST`.

    Attributes:
        tokens: how many went through the model with a graph so far, padding left out.
    """

    def __init__(self, backbone: Backbone, catalog: Catalog, mixed_precision: str = "none"):
        self.backbone, self.catalog, self.tokens = backbone, catalog, 0
        # not the accelerator's, which is one for all trainings of a process
        self.autocast = {"dtype": AUTOCAST.get(mixed_precision), "enabled": mixed_precision != "none"}

    def __call__(self, modality: str, rows: np.ndarray) -> Tensor:
        """(b, H) float32."""
        inputs = collate_items(self.catalog, self.backbone, modality, rows)
        if torch.is_grad_enabled():
            self.tokens += int(inputs["attention_mask"].sum())
        with torch.autocast(self.backbone.device.type, **self.autocast):
            return self.backbone(modality, inputs)

    @torch.no_grad()
    def embed(self, modality: str, parts: Sequence[np.ndarray], *, base: bool = False) -> Tensor:
        """(B, H) without a graph and without dropout; ``base`` leaves the adapter out."""
        training = self.backbone.training
        self.backbone.eval()
        try:
            if not base:
                return torch.cat([self(modality, part) for part in parts])
            with self.backbone.model.disable_adapter():
                return torch.cat([self(modality, part) for part in parts])
        finally:
            self.backbone.train(training)
