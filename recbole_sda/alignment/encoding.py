"""The catalogue's rows as embeddings, the way training asks for them."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.batching import collate_items
from recbole_sda.reading import read_ahead

AUTOCAST = {"bf16": torch.bfloat16}

Wanted = tuple[str, np.ndarray]  # modality, rows that have it


def micro_batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """At least one, which is empty where there are no rows."""
    return [rows[first : first + size] for first in range(0, max(len(rows), 1), size)]


class ItemEncoder:
    """Embeds rows of a catalogue in the modalities that they have.

    Files are read when their micro-batch runs, or by :meth:`ahead` shortly before, and forgotten after it. What an
    item lacks goes through no model: its row in a batch's embeddings is 0, and :meth:`present` says so.

    Args:
        settings: which modalities, how many items at once, in what precision, and who reads the files.

    Attributes:
        tokens: how many went through the model with a graph so far, padding left out.
    """

    def __init__(self, backbone: Backbone, catalog: Catalog, settings: AlignmentSettings):
        self.backbone, self.catalog, self.settings, self.tokens = backbone, catalog, settings, 0
        # not the accelerator's, which is one for all trainings of a process
        precision = settings.mixed_precision
        self.autocast = {"dtype": AUTOCAST.get(precision), "enabled": precision != "none"}
        self._present = {modality: catalog.present(modality) for modality in settings.modalities}
        self._ahead: Generator | None = None

    def present(self, rows: np.ndarray) -> dict[str, Tensor]:
        """modality → which of the rows have it, (B,) bool."""
        return {modality: torch.from_numpy(has[rows]) for modality, has in self._present.items()}

    def passes(self, rows: np.ndarray) -> dict[str, list[np.ndarray]]:
        """modality → those of the rows that have it, in micro-batches."""
        size = self.settings.micro_batch
        return {modality: micro_batches(rows[has[rows]], size) for modality, has in self._present.items()}

    def __call__(self, modality: str, rows: np.ndarray) -> Tensor:
        """(b, H) float32, of rows that all have the modality."""
        if len(rows) == 0:
            return torch.zeros(0, self.backbone.embedding_size, device=self.backbone.device)
        inputs = self._read((modality, rows)) if self._ahead is None else self._next_inputs(modality, rows)
        if torch.is_grad_enabled():
            self.tokens += int(inputs["attention_mask"].sum())
        with torch.autocast(self.backbone.device.type, **self.autocast):
            return self.backbone(modality, inputs)

    def place(self, modality: str, rows: np.ndarray, embeddings: Tensor) -> Tensor:
        """The embeddings of those that have the modality among all ``rows``, (present, H) → (B, H)."""
        has = self._present[modality][rows]
        if has.all():
            return embeddings
        places = torch.from_numpy(np.flatnonzero(has)).to(embeddings.device)
        return embeddings.new_zeros(len(rows), embeddings.shape[1]).index_copy(0, places, embeddings)

    @torch.no_grad()
    def embed(self, rows: np.ndarray, *, base: bool = False) -> dict[str, Tensor]:
        """modality → (B, H) without a graph and without dropout; ``base`` leaves the adapter out."""
        training = self.backbone.training
        self.backbone.eval()
        try:
            if not base:
                return self._embed(rows)
            with self.backbone.before_adaptation():
                return self._embed(rows)
        finally:
            self.backbone.train(training)

    def reads(self, rows: np.ndarray, times: int) -> list[Wanted]:
        """What :meth:`ahead` has to know of a batch that goes through the model so many times."""
        passes = self.passes(rows).items()
        return [(m, part) for _ in range(times) for m, parts in passes for part in parts if len(part)]

    @contextmanager
    def ahead(self, plan: Iterable[Wanted]) -> Iterator[None]:
        """Inside, other processes read ahead what ``plan`` says will be asked for, in this order."""
        if self.settings.read_workers == 0:
            yield
            return
        self._ahead = read_ahead(self._read, plan, workers=self.settings.read_workers)
        try:
            yield
        except RuntimeError as error:
            self._ahead.throw(error)  # a reader's death may strike anywhere, and is named there
        finally:
            self._ahead.close()
            self._ahead = None

    def _next_inputs(self, modality: str, rows: np.ndarray) -> Mapping[str, Tensor]:
        for (read_modality, read_rows), inputs in self._ahead:
            if read_modality == modality and np.array_equal(read_rows, rows):  # else nobody asked for it after all
                return inputs
        raise RuntimeError(f"the {modality} of rows {rows} was not planned")

    def _embed(self, rows: np.ndarray) -> dict[str, Tensor]:
        passes = self.passes(rows).items()
        return {m: self.place(m, rows, torch.cat([self(m, part) for part in parts])) for m, parts in passes}

    def _read(self, wanted: Wanted) -> Mapping[str, Tensor]:
        return collate_items(self.catalog, self.backbone, *wanted)
