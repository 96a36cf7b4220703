"""Looks at the held-out items: does training help them, and is it healthy?"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_sda.alignment.encoding import ItemEncoder, micro_batches
from recbole_sda.alignment.health import distance_to_base, effective_rank, mean_pairwise_cosine, retrieval
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.similarity import AlignmentLoss

BEST_BY = "mrr"


class HeldOut:
    """The held-out items, and where the base model puts them.

    Args:
        rows: the held-out rows; every process embeds its share of them.
        micro_batch: items that go through the model at once.
    """

    def __init__(
        self,
        encode: ItemEncoder,
        rows: np.ndarray,
        loss: AlignmentLoss,
        processes: Processes,
        *,
        modalities: Sequence[str],
        micro_batch: int,
    ):
        self.encode, self.loss, self.processes, self.modalities = encode, loss, processes, modalities
        self.total = len(rows)
        self.parts = micro_batches(processes.share(rows), micro_batch)
        self.base = self._embed(base=True)

    @torch.no_grad()
    def look(self, step: int) -> dict:
        """What the held-out items say now, in plain numbers."""
        held = self._embed()
        loss = float(self.loss(*held.values(), base=list(self.base.values())))
        held, base = ({name: rows.cpu() for name, rows in views.items()} for views in (held, self.base))
        return {
            "step": step,
            "loss": None,  # of training; before the first step there is none
            "held_out_loss": loss,
            **retrieval(*list(held.values())[:2], center=self.loss.center),
            "mean_pairwise_cosine": {name: mean_pairwise_cosine(rows) for name, rows in held.items()},
            "effective_rank": {name: effective_rank(rows) for name, rows in held.items()},
            "distance_to_base": {name: distance_to_base(rows, base[name]) for name, rows in held.items()},
        }

    def _embed(self, *, base: bool = False) -> dict[str, Tensor]:
        """modality → (held-out items, H)."""
        embed = self.encode.embed
        return {m: self.processes.gather(embed(m, self.parts, base=base), self.total) for m in self.modalities}
