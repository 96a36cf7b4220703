"""A catalogue of numbers in three modalities, of which items lack some, and a small model that reads them."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

MODALITIES = ("image", "text", "audio")
WIDTH, HIDDEN = 6, 5


class Numbers:
    """24 items: the first 12 have everything, then four lack each modality in turn. What is missing is nan.

    Args:
        lacking: modality → rows that lack it, instead.
    """

    name = "numbers"

    def __init__(self, items=24, lacking=None):
        if lacking is None:
            lacking = {modality: range(12 + 4 * i, 16 + 4 * i) for i, modality in enumerate(MODALITIES)}
        generator = torch.Generator().manual_seed(5)
        meaning = torch.randn(items, WIDTH, generator=generator)
        self.tokens = tuple(f"P{row}" for row in range(items))
        self.content = {}
        for modality in MODALITIES:
            mixed = meaning @ torch.randn(WIDTH, WIDTH, generator=generator)
            mixed[list(lacking.get(modality, ()))] = float("nan")
            self.content[modality] = mixed

    def present(self, modality: str) -> np.ndarray:
        return self.content[modality].isfinite().all(dim=1).numpy()


class Towers(nn.Module):
    """A layer a modality, then a frozen layer and an update that `disable_adapter` leaves out."""

    device = torch.device("cpu")
    embedding_size = HIDDEN

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = _Adapted()
        self.own = nn.ModuleDict({modality: nn.Linear(WIDTH, HIDDEN) for modality in MODALITIES})
        self.passed = []

    def forward(self, modality: str, inputs: dict[str, Tensor]) -> Tensor:
        self.passed.append((modality, len(inputs["values"])))
        return self.model(torch.tanh(self.own[modality](inputs["values"])))

    def before_adaptation(self):
        return self.model.disable_adapter()


class _Adapted(nn.Module):
    base_model = None

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(HIDDEN, HIDDEN).requires_grad_(False)
        self.update = nn.Linear(HIDDEN, HIDDEN, bias=False)  # centring would take a bias away, and Adam rounding
        self.enabled = True

    def forward(self, hidden: Tensor) -> Tensor:
        return self.frozen(hidden) + (self.update(hidden) if self.enabled else 0)

    @contextmanager
    def disable_adapter(self):
        self.enabled = False
        yield
        self.enabled = True


def read_numbers(catalog: Numbers, backbone, modality: str, rows) -> dict[str, Tensor]:
    """In the place of `collate_items`."""
    values = catalog.content[modality][rows]
    assert values.isfinite().all(), f"{modality} was asked of items that lack it"
    return {"values": values, "attention_mask": torch.ones(len(rows), 1)}


def loop_loss(catalog, backbone, rows, loss, *, base=False) -> Tensor:
    """The mean over pairs and directions of CMSA, an item at a time; ``base``: the base model teaches."""

    def unit(modality):
        """row → its unit embedding, centred over the rows that have the modality."""
        own = [int(row) for row in rows if catalog.present(modality)[row]]
        vectors = {row: backbone(modality, read_numbers(catalog, backbone, modality, [row]))[0] for row in own}
        mean = sum(vectors.values()) / len(own)
        return {row: (vector - mean) / (vector - mean).norm() for row, vector in vectors.items()}

    students = {modality: unit(modality) for modality in MODALITIES}
    teachers = students
    if base:
        with torch.no_grad(), backbone.model.disable_adapter():
            teachers = {modality: unit(modality) for modality in MODALITIES}
    terms = []
    for query in MODALITIES:
        for key in MODALITIES:
            both = [row for row in students[query] if row in students[key]]
            if query == key or len(both) < loss.min_rows:
                continue
            total = 0.0
            for i in both:
                likeness = [sum(teachers[m][i] @ teachers[m][j] for m in (query, key)) / 2 for j in both]
                target = torch.stack(likeness).detach().div(loss.teacher_temperature).softmax(dim=0)
                student = torch.stack([students[query][i] @ students[key][j] for j in both])
                total = total + (target * (target.log() - student.div(loss.temperature).log_softmax(dim=0))).sum()
            terms.append(total / len(both))
    return sum(terms) / len(terms)
