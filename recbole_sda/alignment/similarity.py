"""What every alignment loss shares: how embeddings become comparable."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_CENTERED_ROWS = 3


def center_and_normalize(embeddings: Tensor, *, center: bool = True) -> Tensor:
    """Unit rows, after the mean over the rows is taken away.

    Mean-pooled language-model embeddings share one dominant direction: pairwise cosines lie within
    thousandths of each other. Without that direction the rest of the geometry becomes visible, and the
    trivial optimum in which all embeddings fall together is gone.

    Args:
        embeddings: (B, d), any floating dtype; computed in float32.
        center: subtract the mean row first.

    Returns:
        (B, d) float32.

    Raises:
        ValueError: fewer than three rows to centre: two centred rows are always opposite.
    """
    embeddings = embeddings.float()
    if center:
        if len(embeddings) < MIN_CENTERED_ROWS:
            raise ValueError(
                f"{len(embeddings)} rows cannot be centred: give at least {MIN_CENTERED_ROWS} items "
                "to a batch, or set center=False"
            )
        embeddings = embeddings - embeddings.mean(dim=0, keepdim=True)
    return F.normalize(embeddings, dim=-1)


class AlignmentLoss(nn.Module):
    """A loss between the embeddings of the same B items in two modalities.

    Subclasses give :meth:`compare`, which sees unit rows.

    Args:
        temperature: divides the cosines before the softmax; greater than 0.
        center: see :func:`center_and_normalize`.
    """

    def __init__(self, temperature: float = 0.05, *, center: bool = True):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be greater than 0, for example 0.05")
        self.temperature = temperature
        self.center = center

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Args: first, second: (B, d), row i of both belongs to item i. Returns: a scalar."""
        if first.shape != second.shape or first.ndim != 2:
            raise ValueError(
                "both modalities need the same (items, width) shape; found "
                f"first.shape = {tuple(first.shape)}, second.shape = {tuple(second.shape)}"
            )
        # The softmax of cosines divided by a small temperature overflows half precision.
        with torch.autocast(first.device.type, enabled=False):
            return self.compare(
                center_and_normalize(first, center=self.center),
                center_and_normalize(second, center=self.center),
            )

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, center={self.center}"
