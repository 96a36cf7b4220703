"""Stage 1: losses that bring the image and the text of an item together, and the loop that trains with them.

The losses import torch only and work in any training loop.
"""

from recbole_sda.alignment.cmsa import CMSALoss
from recbole_sda.alignment.info_nce import InfoNCELoss
from recbole_sda.alignment.similarity import AlignmentLoss, center_and_normalize

__all__ = ["AlignmentLoss", "CMSALoss", "InfoNCELoss", "center_and_normalize"]
