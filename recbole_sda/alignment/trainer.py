"""The stage-1 loop: a pass a modality and item, an alignment loss, the best adapter by held-out items.

In one process or in several, from the start or from where an earlier one was stopped: the same code. A training
that goes on ends with the weights of one that was left alone; other micro-batches or numbers of processes give the
same but for the draws of dropout and the rounding of sums.
"""

import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from recbole_sda.alignment.checkpoint import Progress, keep_parameters, load_state, restore_parameters, save_state
from recbole_sda.alignment.comparison import Comparison
from recbole_sda.alignment.encoding import ItemEncoder, Wanted
from recbole_sda.alignment.faults import check_gradient, memory_errors_named
from recbole_sda.alignment.health import warnings
from recbole_sda.alignment.held_out import BEST_BY, HeldOut
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.sampling import BatchSampler, check_comparable, split_items, step_seed
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.alignment.similarity import AlignmentLoss
from recbole_sda.alignment.tracking import Tracking
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.progress import progress_bar

logger = logging.getLogger(__name__)

# Free to change between an interruption and the run that goes on.
UNCOMPARED = ("micro_batch", "checkpoint_every", "trackers", "read_workers", "patience")


def align(
    backbone: Backbone,
    catalog: Catalog,
    loss: AlignmentLoss,
    settings: AlignmentSettings,
    *,
    folder: Path | None = None,
    keep_steps: Collection[int] = (),
    show_progress: bool = True,
) -> list[dict]:
    """Train the backbone's adapter in place and leave it at its best state.

    Best is the mean reciprocal rank of held-out items finding themselves in another modality, over all pairs and
    both directions, the state before training included. Items take part in the modalities that they have.

    Args:
        folder: for checkpoints and logs, one for each model, catalogue and settings. A checkpoint found there is
            gone on from; it stays there, for the caller to remove when the adapter is saved. None keeps nothing.
        keep_steps: what is trained is kept in the folder as it is after each of these steps, 0 before the first.

    Returns:
        One record for each look at the held-out items: step, training loss and its parts, held-out loss, recall
        and reciprocal rank, gates by layer and modality, warnings, and per modality the mean pairwise cosine,
        effective rank and distance to the base model.

    Raises:
        SDAError: too few items with two of the modalities, a loss or embeddings that are not finite, a picture
            that broke on the way, no memory left.
        ValueError: steps to keep, and no folder.
    """
    if keep_steps and folder is None:
        raise ValueError(f"keep_steps={sorted(keep_steps)} need a folder to be kept in")
    return _Training(backbone, catalog, loss, settings, folder, keep_steps, show_progress).run()


class _Training:
    def __init__(self, backbone, catalog, loss, settings: AlignmentSettings, folder, keep_steps, show_progress):
        self.backbone, self.catalog, self.settings = backbone, catalog, settings
        self.folder, self.keep_steps = None if folder is None else Path(folder), frozenset(keep_steps)
        self.loss = loss.to(backbone.device)
        accelerator = Accelerator(
            cpu=backbone.device.type == "cpu",
            log_with=(list(settings.trackers) if folder else None) or None,
            project_dir=self.folder,
        )
        self.processes, self.tracking = Processes(accelerator), Tracking(accelerator)
        self.show_progress = show_progress and self.processes.is_main
        train_rows, held_rows = split_items(catalog, settings)
        check_comparable(catalog, self.loss, settings)
        self.sampler = BatchSampler(train_rows, settings.batch_size, settings.seed)
        if settings.batch_size > len(train_rows):
            logger.info(
                "align_batch_size=%d, but there are %d items to train on: every step compares them all",
                *(settings.batch_size, len(train_rows)),
            )
        self.encode = ItemEncoder(backbone, catalog, settings)
        self.comparison = Comparison(self.encode, self.loss, self.processes)
        self.held_out = HeldOut(self.encode, held_rows, self.loss, self.processes)
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
        began = time.monotonic()
        self._resume()
        with self.encode.ahead(self._reads()):
            with memory_errors_named(self.settings, "before the first step"):
                self.held_out.see_base()
            self._train()
        best = max(self.progress.records, key=lambda record: record[BEST_BY])
        restore_parameters(self.parameters, self.progress.best)
        self.backbone.eval()
        self.tracking.finish()
        logger.info(
            "aligned in %.0f s; held-out %s %.3f before, %.3f at the best step, %d",
            *(time.monotonic() - began, BEST_BY, self.progress.records[0][BEST_BY], best[BEST_BY], best["step"]),
        )
        return self.progress.records

    def _train(self) -> None:
        settings = self.settings
        if not self.progress.records:
            self._look()
        self._keep()
        with progress_bar(settings.steps, "adapt", "step", show=self.show_progress) as bar:
            bar.update(self.progress.step)
            while self.progress.step < settings.steps and not self._out_of_patience():
                bar.set_postfix(self._step(), refresh=False)
                bar.update()
                self._keep()
                if self._looks_after(self.progress.step):
                    self._look()
                if self.progress.step % settings.checkpoint_every == 0:
                    self._save()
        self._save()

    def _looks_after(self, step: int) -> bool:
        return step % self.settings.eval_every == 0 or step == self.settings.steps

    def _reads(self) -> Iterator[Wanted]:
        """What will be asked of the encoder from here to the end, in order."""
        held = self.held_out.reads()
        yield from held
        if not self.progress.records:
            yield from held
        for step in range(self.progress.step + 1, self.settings.steps + 1):
            yield from self.comparison.reads(self.sampler.batch(step))
            if self._looks_after(step):
                yield from held

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
            parts, shown = self.comparison.gradients(rows, step)
        self.processes.sum_gradients(self.adapter.values())  # the loss's own are whole in every process
        parameters = [p for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        check_gradient(norm, step, self.settings)
        self.optimizer.step()
        self.progress.step = step
        measured = self.comparison.measured(parts, shown)
        self.progress.recent.append(measured)
        # every process has about as many tokens as this one
        speed = (self.encode.tokens - tokens) * self.processes.count / (time.monotonic() - began)
        pace = {"learning_rate": rate, "gradient_norm": float(norm), "tokens_per_second": speed}
        self.tracking.step(step, measured | pace)
        said = {"loss": f"{measured['loss']:.3f}", "lr": f"{rate:.1e}", "tok/s": f"{speed:,.0f}"}
        return said | {BEST_BY: f"{self.progress.records[-1][BEST_BY]:.3f}"}

    # looks and checkpoints

    def _look(self) -> None:
        progress, step = self.progress, self.progress.step
        with memory_errors_named(self.settings, f"at the look after step {step}"):
            record = self.held_out.look(step)
        # a step whose items lack a modality says nothing of it
        said = dict.fromkeys(name for one in progress.recent for name in one)
        record |= {name: float(np.mean([one[name] for one in progress.recent if name in one])) for name in said}
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

    def _keep(self) -> None:
        if self.progress.step in self.keep_steps and self.processes.is_main:
            keep_parameters(self.folder, self.progress.step, self.parameters)

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
