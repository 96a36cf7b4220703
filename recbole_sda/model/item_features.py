"""ItemFeatures takes the place of a model's item table: frozen features behind a learned projection."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ItemFeatures(nn.Module):
    """Looks like the ``nn.Embedding`` it replaces, and computes its rows from features.

    Row i is Σ_m W_m x_{m,i} + b, with x of unit expected length (standardised features divided by the
    root of their number), so that W, drawn at the scale of the table it replaces, gives rows of that scale
    whatever the width. Where an item lacks a modality a learned vector stands for W_m x. Row 0, padding,
    is 0.

    Args:
        features: modality → (items + 1, width) standardised features; padding and missing items at 0.
        present: modality → (items + 1,) bool.
        num_embeddings: rows of the table it replaces. Those beyond the items and padding (BERT4Rec's mask
            token) are learned.
        embedding_dim: d.
        std: standard deviation at which the replaced table starts.
        fusion: ``concat``: a projection a modality, which is one projection of the concatenation;
            ``sum``: one projection of the mean over the modalities that an item has.
        item_id: an embedding of the same shape to add to the rows.

    Raises:
        ValueError: ``fusion="sum"`` with modalities of different widths.
    """

    def __init__(
        self,
        features: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        *,
        num_embeddings: int,
        embedding_dim: int,
        std: float,
        fusion: str = "concat",
        item_id: nn.Embedding | None = None,
    ):
        super().__init__()
        widths = {name: values.shape[1] for name, values in features.items()}
        if fusion == "sum" and len(set(widths.values())) > 1:
            raise ValueError(f"fusion=sum needs modalities of one width; found {widths}. Use fusion=concat")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.n_items = len(next(iter(features.values())))  # padding included
        self.modalities = tuple(features)
        self.fusion = fusion
        for name, values in features.items():
            # Buffers follow the device; not persistent, since a checkpoint at every best epoch would hold them.
            self.register_buffer(f"features_{name}", values, persistent=False)
            self.register_buffer(f"present_{name}", present[name], persistent=False)

        learned = self.modalities if fusion == "concat" else ("mean",)
        width = {"mean": next(iter(widths.values()))} | widths
        self.length = {name: (width[name] * len(learned)) ** 0.5 for name in learned}
        self.projection = nn.ModuleDict(
            {name: nn.Linear(width[name], self.embedding_dim, bias=False) for name in learned}
        )
        for projection in self.projection.values():
            nn.init.normal_(projection.weight, std=std)
        self.offset = nn.Parameter(torch.zeros(self.embedding_dim))
        self.missing = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(self.embedding_dim) * std) for name in learned}
        )
        extra_rows = self.num_embeddings - self.n_items
        self.extra = nn.Parameter(torch.randn(extra_rows, self.embedding_dim) * std)
        self.item_id = item_id
        self._forget_table()

    @property
    def weight(self) -> Tensor:
        """(rows, d), computed once for each state of the parameters."""
        state = (torch.is_grad_enabled(), tuple(p._version for p in self.parameters()))
        if self._table is None or self._table_state != state:
            self._table, self._table_state = self._compute_table(), state
            if self._table.requires_grad:
                # After backward its graph is gone; a second loss must compute it anew.
                self._table.register_hook(self._forget_table)
        return self._table

    def forward(self, ids: Tensor) -> Tensor:
        """ids: any shape, in [0, rows). Returns: (*ids.shape, d)."""
        if ids.numel() > self.n_items:
            return F.embedding(ids, self.weight)
        flat = ids.reshape(-1)
        rows = self._compute_rows(flat.clamp(max=self.n_items - 1))
        if len(self.extra):
            beyond = flat >= self.n_items
            rows = torch.where(beyond.unsqueeze(1), self.extra[(flat - self.n_items).clamp(min=0)], rows)
        if self.item_id is not None:
            rows = rows + self._own_rows(self.item_id(flat), flat)
        return rows.view(*ids.shape, self.embedding_dim)

    def train(self, mode: bool = True):
        # RecBole loads the best checkpoint while the model is in evaluation mode already.
        self._forget_table()
        return super().train(mode)

    def extra_repr(self) -> str:
        shape = f"{self.num_embeddings}, {self.embedding_dim}"
        return f"{shape}, modalities={'+'.join(self.modalities)}, fusion={self.fusion}"

    def _apply(self, function, recurse=True):
        self._forget_table()
        return super()._apply(function, recurse)

    def _forget_table(self, *_):
        self._table = self._table_state = None

    def _compute_table(self) -> Tensor:
        table = torch.cat([self._compute_rows(None), self.extra])
        return table if self.item_id is None else table + self._own_rows(self.item_id.weight, None)

    def _compute_rows(self, ids: Tensor | None) -> Tensor:
        """Rows of some items, or of all when ``ids`` is None; (n, d)."""
        rows = self.offset
        for name, values, present in self._inputs(ids):
            values = values.to(self.offset.dtype) / self.length[name]
            rows = rows + torch.where(present, self.projection[name](values), self.missing[name])
        return self._own_rows(rows, ids)

    @staticmethod
    def _own_rows(rows: Tensor, ids: Tensor | None) -> Tensor:
        """``rows`` of ``ids``, or of the table from its start, with padding at 0."""
        ids = torch.arange(len(rows), device=rows.device) if ids is None else ids
        return rows * (ids != 0).unsqueeze(1)

    def _inputs(self, ids: Tensor | None):
        """(projection's name, (n, width), (n, 1) bool) for each projection."""
        read = [
            (name, getattr(self, f"features_{name}"), getattr(self, f"present_{name}").unsqueeze(1))
            for name in self.modalities
        ]
        if ids is not None:
            read = [(name, values[ids], present[ids]) for name, values, present in read]
        if self.fusion == "concat":
            return read
        count = sum(present.int() for _, _, present in read)  # (n, 1)
        total = sum(values.to(self.offset.dtype) for _, values, _ in read)  # missing ones are 0
        return [("mean", total / count.clamp(min=1), count > 0)]
