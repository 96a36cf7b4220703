"""From a projected row for each modality to one row for each item.

``hidden`` is a list of (n, d), ``present`` a list of (n, 1) bool, both in the order of the modalities. Weights
start even, so that what is fused starts as the modalities' mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recbole_sda.model.by_modality import ByModality


class Fusion(nn.Module):
    """Puts a learned vector where an item lacks a modality, and combines.

    Args:
        modalities: their names.
        dim: d.
        std: at which rows start.
    """

    def __init__(self, modalities: Sequence[str], dim: int, std: float):
        super().__init__()
        self.std, self.names = std, tuple(modalities)
        self.missing = ByModality({name: nn.Parameter(torch.randn(dim) * std) for name in modalities})

    def forward(self, hidden: list[Tensor], present: list[Tensor]) -> Tensor:
        filled = [
            torch.where(here, rows, self.missing[name])
            for rows, here, name in zip(hidden, present, self.names, strict=True)
        ]
        return filled[0] if len(filled) == 1 else self.combine(filled)

    def combine(self, hidden: list[Tensor]) -> Tensor:
        raise NotImplementedError


class Concat(Fusion):
    """Σ_m h_m: with a projection a modality, the projection of the concatenated features."""

    def combine(self, hidden):
        return sum(hidden)


class Gated(Fusion):
    """Σ_m g_m ⊙ h_m with, in every dimension, g = softmax over the modalities of G [h_1; …; h_M] + b.

    The gated multimodal unit (Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017) for any
    number of modalities.
    """

    def __init__(self, modalities: Sequence[str], dim: int, std: float):
        super().__init__(modalities, dim, std)
        self.gate = nn.Linear(dim * len(modalities), dim * len(modalities))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def combine(self, hidden):
        # The gate sees rows of unit deviation, whatever the table's.
        gates = self.gate(torch.cat(hidden, dim=1) / self.std)
        gates = gates.unflatten(1, (len(hidden), -1)).softmax(dim=1)  # (n, M, d)
        return (gates * torch.stack(hidden, dim=1)).sum(dim=1)


class Attention(Fusion):
    """Σ_m α_m h_m with, for every item, α = softmax over the modalities of qᵀ tanh(A h_m + b).

    The semantic attention of Wang et al., "Heterogeneous Graph Attention Network", 2019, item by item.
    """

    def __init__(self, modalities: Sequence[str], dim: int, std: float):
        super().__init__(modalities, dim, std)
        self.key = nn.Linear(dim, dim)
        self.query = nn.Parameter(torch.zeros(dim))

    def combine(self, hidden):
        rows = torch.stack(hidden, dim=1)  # (n, M, d)
        weights = (torch.tanh(self.key(rows / self.std)) @ self.query).softmax(dim=1)  # (n, M)
        return (weights.unsqueeze(2) * rows).sum(dim=1)


class Mean(Fusion):
    """The mean over the modalities that an item has, all through one projection; a vector where it has none."""

    def __init__(self, modalities: Sequence[str], dim: int, std: float):
        super().__init__(("mean",), dim, std)

    def forward(self, hidden, present):
        count = sum(here.to(rows.dtype) for rows, here in zip(hidden, present, strict=True))  # (n, 1)
        total = sum(rows * here for rows, here in zip(hidden, present, strict=True))
        return super().forward([total / count.clamp(min=1)], [count > 0])


FUSIONS = {"concat": Concat, "sum": Mean, "gated": Gated, "attention": Attention}
