"""Stage 1: losses that bring the modalities of an item together, and the loop that trains with them.

The losses and :func:`cached_step` import torch only and work in any training loop.
"""

from recbole_sda.alignment.attack import TeacherAttack
from recbole_sda.alignment.cmsa import CMSALoss
from recbole_sda.alignment.grad_cache import cached_step, split_inputs
from recbole_sda.alignment.info_nce import InfoNCELoss
from recbole_sda.alignment.similarity import AlignmentLoss, LossParts, center_and_normalize

__all__ = [
    "AlignmentLoss",
    "CMSALoss",
    "InfoNCELoss",
    "LossParts",
    "TeacherAttack",
    "cached_step",
    "center_and_normalize",
    "split_inputs",
]
