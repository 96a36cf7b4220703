"""InfoNCE: the ablation of CMSA without its soft target."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sda.alignment.similarity import AlignmentLoss


class InfoNCELoss(AlignmentLoss):
    """Symmetric InfoNCE: each item has one right partner, itself in the other modality.

    ::

        L = ½ [ CE(X̂Ŷᵀ / τ, I) + CE(ŶX̂ᵀ / τ, I) ]
    """

    def compare(self, pair: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        return sum(self.map_chunks(partial(self._compare_rows, pair), len(pair[0])))

    def _compare_rows(self, pair: Sequence[Tensor], rows: slice) -> Tensor:
        own = torch.arange(rows.start, rows.stop, device=pair[0].device)
        sums = [
            F.cross_entropy(queries[rows] @ keys.T / self.temperature, own, reduction="sum")
            for queries, keys in (pair, pair[::-1])
        ]
        return torch.stack([torch.stack([value, torch.zeros_like(value)]) for value in sums])  # one-hot: entropy 0
