"""A teacher that is wrong about some pairs of items, and about the same ones in every batch.

1. A hash of the seed and the two items says whether their similarity is replaced.
2. Another one says by which quantile of the similarities between the batch's items.

So the teacher's similarities keep their distribution and their symmetry, and every item keeps itself; what is
wrong stays wrong, batch after batch, and does not average out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLE = 4096  # similarities that the quantiles are taken of, at least, where the batch has so many
WORD = 2**32


@dataclass(frozen=True)
class TeacherAttack:
    """Replaces similarities between items.

    Args:
        share: of the pairs of different items, in [0, 1).
        seed: which pairs, and by what.
    """

    share: float
    seed: int

    def __post_init__(self):
        if not 0 <= self.share < 1:
            raise ValueError(f"share={self.share} must lie in [0, 1)")

    def __call__(self, structure: Tensor, others: Tensor, items: Tensor, rows: slice) -> Tensor:
        """Args: structure: (rows, B); others: (K,) from :meth:`sample`; items: (B,), which they are."""
        first, second = items[rows].unsqueeze(1), items.unsqueeze(0)
        low, high = torch.minimum(first, second), torch.maximum(first, second)  # (rows, B)
        replaced = (self._hash(low, high, 0) < int(self.share * WORD)) & (low != high)
        quantile = self._hash(low, high, 1) * len(others) // WORD
        return torch.where(replaced, others.detach().sort().values[quantile], structure)

    def sample(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Similarities between different rows, the same pairs in each of the (B, d), (K,) each."""
        count = len(views[0])
        shifts = range(1, min(count - 1, -(-SAMPLE // count)) + 1)
        return [torch.cat([(rows * rows.roll(shift, 0)).sum(dim=1) for shift in shifts]) for rows in views]

    def _hash(self, low: Tensor, high: Tensor, stream: int) -> Tensor:
        """In [0, 2³²)"""
        of_stream = _mix(_mix(self.seed % WORD) ^ stream)
        return _mix(_mix(low ^ of_stream) ^ high)


def _mix(word):
    """A number of 32 bits, or a tensor of them, to another one; no product leaves int64."""
    for _ in range(2):
        word = ((word >> 16) ^ word) * 0x45D9F3B % WORD
    return (word >> 16) ^ word
