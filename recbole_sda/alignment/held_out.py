"""Looks at the held-out items: does training help them, and is it healthy?"""

import numpy as np
import torch
from torch import Tensor

from recbole_sda.alignment.encoding import ItemEncoder, Wanted
from recbole_sda.alignment.faults import check_finite
from recbole_sda.alignment.health import (
    distance_to_base,
    effective_rank,
    mean_pairwise_cosine,
    retrieval_by_pairs,
)
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.similarity import AlignmentLoss

BEST_BY = "mrr"


class HeldOut:
    """The held-out items, and where the base model puts them; ask for that before the first look.

    Args:
        rows: the held-out rows; every process embeds its share of them.
    """

    def __init__(self, encode: ItemEncoder, rows: np.ndarray, loss: AlignmentLoss, processes: Processes):
        self.encode, self.loss, self.processes = encode, loss, processes
        self.names = [encode.catalog.tokens[row] for row in rows]
        self.present, self.items = encode.present(rows), torch.from_numpy(rows)
        self.own = processes.share(rows)
        self.base: dict[str, Tensor] = {}

    def reads(self) -> list[Wanted]:
        """What one look asks of the encoder, and the base model, too."""
        return self.encode.reads(self.own, times=1)

    def see_base(self) -> None:
        self.base = self._embed(0, base=True)

    @torch.no_grad()
    def look(self, step: int) -> dict:
        """What the held-out items say now, in plain numbers."""
        held = self._embed(step)
        present = list(self.present.values())
        base = list(self.base.values())
        loss = float(self.loss(*held.values(), present=present, base=base, items=self.items))
        held, base = ({name: rows.cpu() for name, rows in views.items()} for views in (held, self.base))
        own = {name: rows[self.present[name]] for name, rows in held.items()}
        return {
            "step": step,
            "loss": None,  # of training; before the first step there is none
            "held_out_loss": loss,
            **retrieval_by_pairs(held, self.present, center=self.loss.center),
            "mean_pairwise_cosine": {name: mean_pairwise_cosine(rows) for name, rows in own.items()},
            "effective_rank": {name: effective_rank(rows) for name, rows in own.items()},
            "distance_to_base": {
                name: distance_to_base(rows, base[name][self.present[name]]) for name, rows in own.items()
            },
        }

    def _embed(self, step: int, *, base: bool = False) -> dict[str, Tensor]:
        """modality → (held-out items, H)."""
        embedded = {}
        for modality, own in self.encode.embed(self.own, base=base).items():
            embedded[modality] = self.processes.gather(own, len(self.names))
            what = f"the held-out {modality} embeddings"
            check_finite(embedded[modality], what, self.names, step, self.encode.settings)
        return embedded
