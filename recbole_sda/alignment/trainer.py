"""The stage-1 loop: two passes an item, an alignment loss, the best adapter by held-out items."""

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_sda.alignment.health import CollapseWatch, effective_rank, mean_pairwise_cosine, retrieval
from recbole_sda.alignment.similarity import AlignmentLoss
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.batching import collate_items
from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar

logger = logging.getLogger(__name__)

PAIR = ("image", "text")
BEST_BY = "mrr"


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """How stage 1 trains; the defaults stand in ``properties/overall.yaml``.

    Args:
        batch_size: items a step; every other item of the batch is a comparison.
        steps: optimizer steps.
        learning_rate: of AdamW, falling linearly to 0.
        max_grad_norm: gradients are clipped to it.
        holdout_share: of the items that have both modalities, kept out of training.
        holdout_max: at most so many items are held out.
        eval_every: steps between two looks at the held-out items.
        seed: of the split, the order of the items and dropout.
    """

    batch_size: int
    steps: int
    learning_rate: float
    max_grad_norm: float
    holdout_share: float
    holdout_max: int
    eval_every: int
    seed: int


def align(
    backbone: Backbone,
    catalog: Catalog,
    loss: AlignmentLoss,
    settings: AlignmentSettings,
    *,
    show_progress: bool = True,
) -> list[dict]:
    """Train the backbone's adapter in place and leave it at its best state.

    Best is the mean reciprocal rank of held-out items finding themselves in the other modality, both
    directions, the state before training included.

    Returns:
        One record for each look at the held-out items: step, training loss, held-out loss, recall and
        reciprocal rank, and per modality the mean pairwise cosine and effective rank.

    Raises:
        SDAError: too few items with both modalities, or a loss that is not finite.
    """
    train_rows, held_rows = split_items(catalog, settings)
    optimizer = torch.optim.AdamW(_trainable(backbone).values(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.steps)
    batches = _endless_batches(train_rows, min(settings.batch_size, len(train_rows)), settings.seed)
    held_out = _HeldOut(backbone, catalog, held_rows, loss, settings.batch_size)
    torch.manual_seed(settings.seed)
    began, recent = time.monotonic(), []
    held_out.look(0, None)
    with progress_bar(settings.steps, "adapt", "step", show=show_progress) as bar:
        for step in range(1, settings.steps + 1):
            recent.append(_step(backbone, catalog, next(batches), loss, optimizer, settings, step))
            schedule.step()
            bar.update()
            if step % settings.eval_every == 0 or step == settings.steps:
                record = held_out.look(step, float(np.mean(recent)))
                recent.clear()
                bar.set_postfix({"loss": f"{record['loss']:.3f}", f"held-out {BEST_BY}": f"{record[BEST_BY]:.3f}"})
    best = held_out.restore_best()
    logger.info(
        "aligned in %.0f s; held-out %s %.3f before, %.3f at the best step, %d",
        *(time.monotonic() - began, BEST_BY, held_out.records[0][BEST_BY], best[BEST_BY], best["step"]),
    )
    return held_out.records


class _HeldOut:
    """Looks at the held-out items now and then, and keeps the adapter that served them best."""

    def __init__(self, backbone, catalog, rows: np.ndarray, loss: AlignmentLoss, batch_size: int):
        self.backbone, self.catalog, self.loss = backbone, catalog, loss
        self.parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        self.watch: CollapseWatch | None = None
        self.records: list[dict] = []
        self.best: tuple[dict, dict[str, Tensor]] | None = None  # record, adapter

    def look(self, step: int, train_loss: float | None) -> dict:
        embeddings = self._embed()
        self.watch = self.watch or CollapseWatch(embeddings)
        record = _record(step, train_loss, self.loss, embeddings)
        if warning := self.watch.check(embeddings):
            logger.warning("step %d: %s", step, warning)
            record["warning"] = warning
        self.records.append(record)
        if self.best is None or record[BEST_BY] > self.best[0][BEST_BY]:
            self.best = record, {n: p.detach().clone() for n, p in _trainable(self.backbone).items()}
        return record

    @torch.no_grad()
    def restore_best(self) -> dict:
        """Put the best adapter back. Returns: its record."""
        record, adapter = self.best
        for name, parameter in _trainable(self.backbone).items():
            parameter.copy_(adapter[name])
        return record

    @torch.no_grad()
    def _embed(self) -> dict[str, Tensor]:
        """modality → (held-out items, H)."""
        self.backbone.eval()
        return {m: torch.cat([self._embed_part(m, part) for part in self.parts]) for m in PAIR}

    def _embed_part(self, modality: str, rows: np.ndarray) -> Tensor:
        return self.backbone(modality, collate_items(self.catalog, self.backbone, modality, rows)).cpu()


def _trainable(backbone: Backbone) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in backbone.named_parameters() if p.requires_grad}


def split_items(catalog: Catalog, settings: AlignmentSettings) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out, among those with both modalities."""
    both = np.flatnonzero(np.logical_and.reduce([catalog.present(modality) for modality in PAIR]))
    if len(both) == 0:
        raise SDAError(
            f"no item of {catalog.name!r} has both an image and a text, so image and text cannot be aligned; "
            "use --modalities=text (or image), which embeds without adaptation"
        )
    held = min(settings.holdout_max, round(settings.holdout_share * len(both)))
    if held < 3 or len(both) - held < 3:
        raise SDAError(
            f"only {len(both)} items of {catalog.name!r} have both an image and a text; with "
            f"align_holdout_share={settings.holdout_share} that leaves {len(both) - held} to train on and "
            f"{held} held out, and 3 of each are needed. Use --adapter=none"
        )
    shuffled = np.random.default_rng(settings.seed).permutation(both)
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])


def _endless_batches(rows: np.ndarray, batch_size: int, seed: int):
    """Epoch after epoch in a new order; the rest that does not fill a batch is left for the next epoch."""
    generator = np.random.default_rng([seed, 1])
    while True:
        order = generator.permutation(rows)
        for first in range(0, len(order) - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def _step(backbone, catalog, rows, loss, optimizer, settings: AlignmentSettings, step: int) -> float:
    backbone.train()
    optimizer.zero_grad(set_to_none=True)
    value = loss(*(backbone(m, collate_items(catalog, backbone, m, rows)) for m in PAIR))
    if not torch.isfinite(value):
        names = ", ".join(catalog.tokens[row] for row in rows[:5])
        raise SDAError(
            f"the alignment loss is {value.item()} at step {step} (items {names}, …); "
            f"lower align_learning_rate={settings.learning_rate} or use backbone_dtype=float32"
        )
    value.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
    optimizer.step()
    return value.item()


def _record(step: int, train_loss: float | None, loss: AlignmentLoss, held: dict[str, Tensor]) -> dict:
    first, second = (held[modality] for modality in PAIR)
    return {
        "step": step,
        "loss": train_loss,
        "held_out_loss": float(loss(first, second)),
        **retrieval(first, second, center=loss.center),
        "mean_pairwise_cosine": {name: mean_pairwise_cosine(rows) for name, rows in held.items()},
        "effective_rank": {name: effective_rank(rows) for name, rows in held.items()},
    }
