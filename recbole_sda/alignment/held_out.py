"""Looks at the held-out items: does training help them, and is it healthy?"""

import numpy as np
import torch
from torch import Tensor

from recbole_sda.alignment.encoding import ItemEncoder, micro_batches
from recbole_sda.alignment.faults import check_finite
from recbole_sda.alignment.health import distance_to_base, effective_rank, mean_pairwise_cosine, retrieval
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.alignment.similarity import AlignmentLoss

BEST_BY = "mrr"


class HeldOut:
    """The held-out items, and where the base model puts them.

    Args:
        rows: the held-out rows; every process embeds its share of them.
    """

    def __init__(
        self,
        encode: ItemEncoder,
        rows: np.ndarray,
        loss: AlignmentLoss,
        processes: Processes,
        settings: AlignmentSettings,
    ):
        self.encode, self.loss, self.processes, self.settings = encode, loss, processes, settings
        self.names = [encode.catalog.tokens[row] for row in rows]
        self.parts = micro_batches(processes.share(rows), settings.micro_batch)
        self.base = self._embed(0, base=True)

    @torch.no_grad()
    def look(self, step: int) -> dict:
        """What the held-out items say now, in plain numbers."""
        held = self._embed(step)
        names = self.settings.modalities[:2]
        loss = float(self.loss(*held.values(), base=list(self.base.values())))
        held, base = ({name: rows.cpu() for name, rows in views.items()} for views in (held, self.base))
        return {
            "step": step,
            "loss": None,  # of training; before the first step there is none
            "held_out_loss": loss,
            **retrieval(*[held[name] for name in names], names=names, center=self.loss.center),
            "mean_pairwise_cosine": {name: mean_pairwise_cosine(rows) for name, rows in held.items()},
            "effective_rank": {name: effective_rank(rows) for name, rows in held.items()},
            "distance_to_base": {name: distance_to_base(rows, base[name]) for name, rows in held.items()},
        }

    def _embed(self, step: int, *, base: bool = False) -> dict[str, Tensor]:
        """modality → (held-out items, H)."""
        embedded = {}
        for modality in self.settings.modalities:
            own = self.encode.embed(modality, self.parts, base=base)
            embedded[modality] = self.processes.gather(own, len(self.names))
            check_finite(
                embedded[modality], f"the held-out {modality} embeddings", self.names, step, self.settings
            )
        return embedded
