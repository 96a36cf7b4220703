"""How stage 1 trains; the defaults stand in ``properties/overall.yaml``."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """What makes the result, then what only makes it faster or smaller.

    Args:
        modalities: what is aligned, every pair of them.
        batch_size: items a step, over all processes; every other item of the batch is a comparison.
        steps: optimizer steps.
        learning_rate: of AdamW, falling linearly to 0.
        max_grad_norm: gradients are clipped to it.
        holdout_share: of the items that have at least two of the modalities, kept out of training.
        holdout_max: at most so many items are held out.
        eval_every: steps between two looks at the held-out items.
        patience: stop after so many looks without a better one; None never stops early.
        seed: of the split, the order of the items and dropout.
        mixed_precision: ``bf16``, what autocast computes in, or ``none`` for the backbone's own dtype.
        micro_batch: items that go through the model at once; a larger batch has its gradients cached.
        checkpoint_every: steps between two checkpoints.
        trackers: ``tensorboard``, ``wandb``.
        read_workers: processes that read and resize files ahead of the model; 0 reads them in this one.
    """

    modalities: tuple[str, ...] = ("image", "text")
    batch_size: int
    steps: int
    learning_rate: float
    max_grad_norm: float
    holdout_share: float
    holdout_max: int
    eval_every: int
    patience: int | None
    seed: int
    mixed_precision: str
    micro_batch: int
    checkpoint_every: int
    trackers: tuple[str, ...]
    read_workers: int

    def learning_rate_at(self, step: int) -> float:
        """Of the ``step``-th optimizer step; the first is 1."""
        return self.learning_rate * (1 - (step - 1) / self.steps)
