"""CMSA: each modality's own neighbourhood teaches the comparison across modalities.

1. Within each modality, the cosines of the B items say which items resemble each other.
2. Their softmax is a soft target: the items that item i should find, itself first.
3. The cross-modal softmax of item i, image to text and text to image, is pulled towards it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sda.alignment.similarity import AlignmentLoss

TEACHERS = ("mean", "per_modality")


class CMSALoss(AlignmentLoss):
    r"""Cross-Modal Structural Alignment (arXiv 2512.06883).

    With X̂ and Ŷ the unit rows of both modalities, τ the temperature and τ_t the teacher's::

        S  = (X̂X̂ᵀ + ŶŶᵀ) / 2
        P  = stopgrad softmax_row(S / τ_t)
        Qᵛ = softmax_row(X̂Ŷᵀ / τ),   Qᵗ = softmax_row(ŶX̂ᵀ / τ)
        L  = ½ mean_i [ KL(P_i ‖ Qᵛ_i) + KL(P_i ‖ Qᵗ_i) ]

    Centring is our addition and on by default: without it the loss is 0 when all embeddings fall
    together, and training goes there.

    Args:
        temperature: τ of the students.
        center: see :func:`recbole_sda.alignment.center_and_normalize`.
        teacher: ``"mean"`` averages both modalities' structure; ``"per_modality"`` lets the image
            structure teach image→text and the text structure text→image.
        teacher_temperature: τ_t; the students' temperature when None.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        center: bool = True,
        teacher: str = "mean",
        teacher_temperature: float | None = None,
    ):
        super().__init__(temperature, center=center)
        if teacher not in TEACHERS:
            raise ValueError(f"teacher={teacher!r} is unknown; choose one of {', '.join(TEACHERS)}")
        if teacher_temperature is not None and not teacher_temperature > 0:
            raise ValueError(f"teacher_temperature={teacher_temperature} must be greater than 0")
        self.teacher = teacher
        self.teacher_temperature = teacher_temperature or temperature

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        cross = first @ second.T / self.temperature  # (B, B)
        target_first, target_second = self.soft_targets(first, second)
        return 0.5 * (_kl(target_first, cross) + _kl(target_second, cross.T))

    @torch.no_grad()
    def soft_targets(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, B) that teach first→second and second→first."""
        structures = first @ first.T, second @ second.T
        if self.teacher == "mean":
            structures = (sum(structures) / 2,) * 2
        return tuple(F.log_softmax(s / self.teacher_temperature, dim=-1) for s in structures)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, teacher={self.teacher}, teacher_temperature={self.teacher_temperature}"


def _kl(log_target: Tensor, logits: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(logits, dim=-1), log_target, reduction="batchmean", log_target=True)
