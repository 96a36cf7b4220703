"""One step's comparison: its items through every modality that they have, in all processes, and the gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_sda.alignment.encoding import ItemEncoder, Wanted
from recbole_sda.alignment.faults import check_finite
from recbole_sda.alignment.grad_cache import cached_step
from recbole_sda.alignment.processes import Processes
from recbole_sda.alignment.similarity import AlignmentLoss, LossParts


@dataclass(frozen=True)
class Comparison:
    encode: ItemEncoder
    loss: AlignmentLoss
    processes: Processes

    def gradients(self, rows: np.ndarray, step: int) -> tuple[LossParts, list[str]]:
        """Add the gradient of these items' loss to the parameters.

        Returns:
            The parts of the loss, and the modalities that they number: those that any of the items has.
        """
        settings, own = self.encode.settings, self.processes.share(rows)
        passes, present = self.encode.passes(own), self.encode.present(rows)
        shown = [modality for modality, mask in present.items() if mask.any()]
        masks = [present[modality] for modality in shown]
        base = self._base_embeddings(own, len(rows), shown)
        names, items = [self.encode.catalog.tokens[row] for row in rows], torch.from_numpy(rows)
        measured = []

        def compare(*embeddings: Tensor) -> Tensor:
            everyone = {}
            for modality, embedded in zip(passes, embeddings, strict=True):
                everyone[modality] = self.processes.gather(self.encode.place(modality, own, embedded), len(rows))
                check_finite(everyone[modality], f"the {modality} embeddings", names, step, settings)
            shown_by_all = [everyone[modality] for modality in shown]
            measured.append(self.loss.parts(*shown_by_all, present=masks, base=base, items=items))
            check_finite(measured[0].loss.expand(len(rows)), "the alignment loss", names, step, settings)
            return measured[0].loss

        cached_step(self.encode, passes, compare)
        return measured[0], shown

    def reads(self, rows: np.ndarray) -> list[Wanted]:
        """What :meth:`gradients` asks of the encoder, in order."""
        own = self.processes.share(rows)
        cached = any(len(parts) > 1 for parts in self.encode.passes(own).values())
        return self.encode.reads(own, times=self.loss.needs_base + 1 + cached)

    def measured(self, parts: LossParts, names: Sequence[str]) -> dict[str, float]:
        """What :meth:`gradients` returned, in plain numbers."""
        measured = {"loss": float(parts.loss.detach()), "temperature": self.loss.current_temperature}
        for kind in ("divergence", "teacher_entropy"):
            for (query, key), value in getattr(parts, kind).items():
                measured[f"{kind}_{names[query]}_to_{names[key]}"] = float(value)
        return measured

    def _base_embeddings(self, own: np.ndarray, total: int, shown: Sequence[str]) -> list[Tensor] | None:
        """What the frozen model says of the items, where it is the teacher."""
        if not self.loss.needs_base:
            return None
        embedded = self.encode.embed(own, base=True)
        return [self.processes.gather(embedded[modality], total) for modality in shown]
