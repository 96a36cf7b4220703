"""Measures that show whether embeddings align, and whether they are collapsing."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sda.alignment.similarity import center_and_normalize

COLLAPSED_SPREAD = 0.1


def mean_pairwise_cosine(embeddings: Tensor) -> float:
    """Mean cosine over all pairs of different rows, uncentred, (B, d) → [-1, 1]; 1 is total collapse."""
    unit = F.normalize(embeddings.double(), dim=-1)
    rows = len(unit)
    return float((unit.sum(dim=0).square().sum() - rows) / (rows * (rows - 1)))


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the centred rows' normalised singular values (Roy and Vetterli, 2007)."""
    centred = embeddings.double() - embeddings.double().mean(dim=0, keepdim=True)
    values = torch.linalg.svdvals(centred)
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def retrieval(first: Tensor, second: Tensor, *, k: int = 5, center: bool = True) -> dict[str, float]:
    """How well each item finds itself in the other modality.

    Args:
        first, second: (B, d), row i of both belongs to item i.
        k: recall is the share of items found among the k nearest.

    Returns:
        recall of both directions and their mean reciprocal rank. Ties count against the item, so
        that collapsed embeddings score at the bottom.
    """
    cross = center_and_normalize(first, center=center) @ center_and_normalize(second, center=center).T
    # `not <` rather than `>=`: a NaN counts against the item, too.
    ranks = [(~(scores < scores.diagonal().unsqueeze(1))).sum(dim=1) for scores in (cross, cross.T)]
    reciprocal = torch.cat(ranks).double().reciprocal().mean()
    return {
        f"image_to_text_recall@{k}": float((ranks[0] <= k).double().mean()),
        f"text_to_image_recall@{k}": float((ranks[1] <= k).double().mean()),
        "mrr": float(reciprocal),
    }


class CollapseWatch:
    """Remembers how spread out the embeddings were before training and says when that is gone.

    Spread is 1 − the mean pairwise cosine. A tenth of what it was, in any modality, is a collapse.
    """

    def __init__(self, start: dict[str, Tensor]):
        self.start = {name: 1 - mean_pairwise_cosine(rows) for name, rows in start.items()}

    def check(self, embeddings: dict[str, Tensor]) -> str | None:
        """A warning with its remedy, or None. ``embeddings``: modality → (B, d)."""
        for name, rows in embeddings.items():
            spread = 1 - mean_pairwise_cosine(rows)
            if spread < COLLAPSED_SPREAD * self.start[name]:
                return (
                    f"the {name} embeddings are collapsing: 1 − mean pairwise cosine fell from "
                    f"{self.start[name]:.2e} to {spread:.2e} (effective rank {effective_rank(rows):.1f}); "
                    "set align_center=True, raise align_temperature or lower align_learning_rate"
                )
        return None
