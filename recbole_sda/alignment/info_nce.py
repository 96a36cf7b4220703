"""InfoNCE: the ablation of CMSA without its soft target."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sda.alignment.similarity import AlignmentLoss


class InfoNCELoss(AlignmentLoss):
    """Symmetric InfoNCE: each item has one right partner, itself in the other modality.

    ::

        L = ½ [ CE(X̂Ŷᵀ / τ, I) + CE(ŶX̂ᵀ / τ, I) ]
    """

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        cross = first @ second.T / self.temperature  # (B, B)
        own = torch.arange(len(cross), device=cross.device)
        return 0.5 * (F.cross_entropy(cross, own) + F.cross_entropy(cross.T, own))
