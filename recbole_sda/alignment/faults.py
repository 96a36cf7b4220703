"""What stops a training: each error says at which step, with which items, and what to change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.errors import SDAError

NAMES_IN_AN_ERROR = 5


def check_finite(
    values: Tensor, what: str, names: Sequence[str], step: int, settings: AlignmentSettings
) -> None:
    """Args: values: (B,) or (B, d); names: of the B items."""
    broken = (~values.detach().isfinite().view(len(names), -1).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        first = ", ".join(names[row] for row in broken[:NAMES_IN_AN_ERROR])
        more = ", …" if len(broken) > NAMES_IN_AN_ERROR else ""
        raise SDAError(
            f"{what} of step {step} cannot be used, not finite (items {first}{more}); {_remedy(settings)}"
        )


def check_gradient(norm: Tensor, step: int, settings: AlignmentSettings) -> None:
    """Before the optimizer's step: weights that it has spoiled would be in the next checkpoint."""
    if not torch.isfinite(norm):
        raise SDAError(f"the gradient of step {step} is not finite; {_remedy(settings)}")


@contextmanager
def memory_errors_named(settings: AlignmentSettings, when: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).strip().splitlines()[0]
        raise SDAError(
            f"out of memory {when}, with align_batch_size={settings.batch_size} in micro-batches of "
            f"align_micro_batch={settings.micro_batch}: {reason} Lower align_micro_batch (training goes on from "
            "its last checkpoint), lower max_pixels, or set align_gradient_checkpointing=True"
        ) from error


def _remedy(settings: AlignmentSettings) -> str:
    return (
        f"lower align_learning_rate={settings.learning_rate}, "
        "or use backbone_dtype=float32 and align_mixed_precision=none"
    )
