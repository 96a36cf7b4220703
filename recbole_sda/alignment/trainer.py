"""The stage-1 loop: a pass a modality and item, an alignment loss, the best adapter by held-out items.

In one process or in several, from the start or from where an earlier one was stopped: the same code. A training
that goes on ends with the weights of one that was left alone; other micro-batches or numbers of processes give the
same but for the draws of dropout and the rounding of sums.
"""

import logging
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from recbole_sda.alignment.checkpoint import Progress, load_state, restore_parameters, save_state
from recbole_sda.alignment.encoding import ItemEncoder, micro_batches
from recbole_sda.alignment.faults import check_finite, check_gradient, memory_errors_named
from recbole_sda.alignment.grad_cache import cached_step
from recbole_sda.alignment.health import warnings
from recbole_sda.alignment.held_out import BEST_BY, HeldOut
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.sampling import BatchSampler, split_items, step_seed
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.alignment.similarity import AlignmentLoss, LossParts
from recbole_sda.alignment.tracking import Tracking
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.progress import progress_bar

logger = logging.getLogger(__name__)

# Free to change between an interruption and the run that goes on.
UNCOMPARED = ("micro_batch", "checkpoint_every", "trackers", "patience")


def align(
    backbone: Backbone,
    catalog: Catalog,
    loss: AlignmentLoss,
    settings: AlignmentSettings,
    *,
    folder: Path | None = None,
    show_progress: bool = True,
) -> list[dict]:
    """Train the backbone's adapter in place and leave it at its best state.

    Best is the mean reciprocal rank of held-out items finding themselves in the other modality, both
    directions, the state before training included.

    Args:
        folder: for checkpoints and logs, one for each model, catalogue and settings. A checkpoint found there is
            gone on from; it stays there, for the caller to remove when the adapter is saved. None keeps nothing.

    Returns:
        One record for each look at the held-out items: step, training loss and its parts, held-out loss, recall
        and reciprocal rank, gates by layer and modality, warnings, and per modality the mean pairwise cosine,
        effective rank and distance to the base model.

    Raises:
        SDAError: too few items with all modalities, a loss or embeddings that are not finite, no memory left.
    """
    return _Training(backbone, catalog, loss, settings, folder, show_progress).run()


class _Training:
    def __init__(self, backbone, catalog, loss, settings: AlignmentSettings, folder, show_progress):
        self.backbone, self.catalog, self.settings = backbone, catalog, settings
        self.folder = None if folder is None else Path(folder)
        self.loss = loss.to(backbone.device)
        accelerator = Accelerator(
            cpu=backbone.device.type == "cpu",
            log_with=(list(settings.trackers) if folder else None) or None,
            project_dir=self.folder,
        )
        self.processes, self.tracking = Processes(accelerator), Tracking(accelerator)
        self.show_progress = show_progress and self.processes.is_main
        train_rows, held_rows = split_items(catalog, settings)
        self.sampler = BatchSampler(train_rows, settings.batch_size, settings.seed)
        if settings.batch_size > len(train_rows):
            logger.info(
                "align_batch_size=%d, but there are %d items to train on: every step compares them all",
                *(settings.batch_size, len(train_rows)),
            )
        self.encode = ItemEncoder(backbone, catalog, settings.mixed_precision)
        with memory_errors_named(settings, "before the first step"):
            self.held_out = HeldOut(
                self.encode,
                held_rows,
                self.loss,
                self.processes,
                settings,
            )
        self.adapter = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
        self.parameters = self.adapter | {f"loss.{name}": p for name, p in loss.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.adapter.values())},
                {"params": list(loss.parameters()), "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
        )
        self.progress = Progress()

    def run(self) -> list[dict]:
        began, settings = time.monotonic(), self.settings
        self._resume()
        if not self.progress.records:
            self._look()
        with progress_bar(settings.steps, "adapt", "step", show=self.show_progress) as bar:
            bar.update(self.progress.step)
            while self.progress.step < settings.steps and not self._out_of_patience():
                bar.set_postfix(self._step(), refresh=False)
                bar.update()
                step = self.progress.step
                if step % settings.eval_every == 0 or step == settings.steps:
                    self._look()
                if step % settings.checkpoint_every == 0:
                    self._save()
        self._save()
        best = max(self.progress.records, key=lambda record: record[BEST_BY])
        restore_parameters(self.parameters, self.progress.best)
        self.backbone.eval()
        self.tracking.finish()
        logger.info(
            "aligned in %.0f s; held-out %s %.3f before, %.3f at the best step, %d",
            *(time.monotonic() - began, BEST_BY, self.progress.records[0][BEST_BY], best[BEST_BY], best["step"]),
        )
        return self.progress.records

    # one step

    def _step(self) -> dict[str, str]:
        """Returns: what the progress bar shows."""
        began, tokens, step = time.monotonic(), self.encode.tokens, self.progress.step + 1
        rows = self.sampler.batch(step)
        rate = self.settings.learning_rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.backbone.train()
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(step_seed(self.settings.seed, step, self.processes.index))
        with memory_errors_named(self.settings, f"at step {step}"):
            parts = self._gradients(rows, step)
        self.processes.sum_gradients(self.adapter.values())  # the loss's own are whole in every process
        parameters = [p for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        check_gradient(norm, step, self.settings)
        self.optimizer.step()
        self.progress.step = step
        measured = self._measured(parts)
        self.progress.recent.append(measured)
        # every process has about as many tokens as this one
        speed = (self.encode.tokens - tokens) * self.processes.count / (time.monotonic() - began)
        pace = {"learning_rate": rate, "gradient_norm": float(norm), "tokens_per_second": speed}
        self.tracking.step(step, measured | pace)
        shown = {"loss": f"{measured['loss']:.3f}", "lr": f"{rate:.1e}", "tok/s": f"{speed:,.0f}"}
        return shown | {BEST_BY: f"{self.progress.records[-1][BEST_BY]:.3f}"}

    def _gradients(self, rows: np.ndarray, step: int) -> LossParts:
        parts = micro_batches(self.processes.share(rows), self.settings.micro_batch)
        base = self._base_embeddings(parts, len(rows))
        names = [self.catalog.tokens[row] for row in rows]
        measured = []

        def compare(*own: Tensor) -> Tensor:
            everyone = [self.processes.gather(embeddings, len(rows)) for embeddings in own]
            for modality, embeddings in zip(self.settings.modalities, everyone, strict=True):
                check_finite(embeddings, f"the {modality} embeddings", names, step, self.settings)
            measured.append(self.loss.parts(*everyone, base=base))
            check_finite(measured[0].loss.expand(len(rows)), "the alignment loss", names, step, self.settings)
            return measured[0].loss

        cached_step(self.encode, dict.fromkeys(self.settings.modalities, parts), compare)
        return measured[0]

    def _base_embeddings(self, parts: list[np.ndarray], total: int) -> list[Tensor] | None:
        """What the frozen model says of the batch, where it is the teacher."""
        if not self.loss.needs_base:
            return None
        modalities, embed = self.settings.modalities, self.encode.embed
        return [self.processes.gather(embed(m, parts, base=True), total) for m in modalities]

    def _measured(self, parts: LossParts) -> dict[str, float]:
        names = self.settings.modalities
        measured = {"loss": float(parts.loss.detach()), "temperature": self.loss.current_temperature}
        for kind in ("divergence", "teacher_entropy"):
            for (query, key), value in getattr(parts, kind).items():
                measured[f"{kind}_{names[query]}_to_{names[key]}"] = float(value)
        return measured

    # looks and checkpoints

    def _look(self) -> None:
        progress, step = self.progress, self.progress.step
        with memory_errors_named(self.settings, f"at the look after step {step}"):
            record = self.held_out.look(step)
        recent = progress.recent
        record |= {name: float(np.mean([one[name] for one in recent])) for name in (recent[0] if recent else ())}
        record["gates"] = _gates(self.backbone.model)
        record["warnings"] = warnings([*progress.records, record], steps=self.settings.steps)
        record = self.processes.from_main(record)
        progress.recent = []
        if not progress.records or record[BEST_BY] > max(earlier[BEST_BY] for earlier in progress.records):
            progress.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        progress.records.append(record)
        for warning in record["warnings"] if self.processes.is_main else ():
            logger.warning("step %d: %s", step, warning)
        self.tracking.look(record)

    def _out_of_patience(self) -> bool:
        records, patience = self.progress.records, self.settings.patience
        best = max(range(len(records)), key=lambda look: records[look][BEST_BY])
        return patience is not None and len(records) - 1 - best >= patience

    def _resume(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = load_state(self.folder, self.parameters, self.optimizer, settings=self._compared_settings())
        if found is not None:
            self.progress = found
            logger.info("going on after step %d of %d", found.step, self.settings.steps)

    def _save(self) -> None:
        if self.folder is not None and self.processes.is_main:
            save_state(
                self.folder, self.progress, self.parameters, self.optimizer, settings=self._compared_settings()
            )
        self.processes.wait()

    def _compared_settings(self) -> str:
        kept = {name: value for name, value in asdict(self.settings).items() if name not in UNCOMPARED}
        return f"{kept} {self.loss}"


def _gates(model) -> dict[str, dict[str, list[float]]]:
    """Layer → modality → shares of the experts; empty for an adapter without gates."""
    weights = getattr(model.base_model, "gate_weights", dict)()
    return {
        layer: {modality: [round(share, 4) for share in shares] for modality, shares in modalities.items()}
        for layer, modalities in weights.items()
    }
