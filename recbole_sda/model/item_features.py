"""ItemFeatures takes the place of a model's item table: frozen features behind a learned projection."""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sda.model.by_modality import ByModality
from recbole_sda.model.fusion import FUSIONS
from recbole_sda.model.projection import FrozenLinear, FrozenMLP, MappedTable, ScaledLinear, row_lengths

SAMPLED_ROWS = 4096
PART_ROWS = 65_536


class ItemFeatures(nn.Module):
    """Looks like the ``nn.Embedding`` it replaces, and computes its rows from features.

    Row i is fused from h_m = W_m x_{m,i}, with x of unit expected length (standardised features divided by the
    root of their number), plus b. A learned vector stands for h_m where an item lacks the modality. Rows start
    at the deviation of the table that they replace, whatever the widths, the modalities and the fusion. Row 0,
    padding, is 0; so, in training, is an item that is held out.

    The whole table is computed once for each state of the parameters.

    Args:
        features: modality → (items + 1, width) standardised features; padding and missing items at 0. Tensors lie
            on the device, as buffers that no checkpoint holds; a :class:`MappedTable` is read from disk.
        present: modality → (items + 1,) bool.
        num_embeddings: rows of the table it replaces. Those beyond the items and padding (BERT4Rec's mask
            token) are learned.
        embedding_dim: d.
        std: standard deviation at which the replaced table starts.
        fusion: ``concat``: a projection a modality, which is one projection of the concatenation;
            ``sum``: one projection of the mean over the modalities that an item has; ``gated``, ``attention``:
            weighted sums, see :mod:`recbole_sda.model.fusion`.
        hidden_size: width of a hidden layer in each projection; None projects linearly.
        activation: after the hidden layer: ``gelu``, ``relu``, ``tanh`` or ``none``.
        item_id: an embedding with a row for each item.
        item_id_fusion: ``add`` it to the rows, or ``concat``: beside the row, before a last projection to d.
        normalize: divide each item's x by its length.

    Raises:
        ValueError: ``fusion="sum"`` with modalities of different widths.
    """

    bias = None  # GRU4RecCPR asks its output table for one

    def __init__(
        self,
        features: Mapping[str, Tensor | MappedTable],
        present: Mapping[str, Tensor],
        *,
        num_embeddings: int,
        embedding_dim: int,
        std: float,
        fusion: str = "concat",
        hidden_size: int | None = None,
        activation: str = "gelu",
        item_id: nn.Embedding | None = None,
        item_id_fusion: str = "add",
        normalize: bool = False,
    ):
        super().__init__()
        widths = {name: values.shape[1] for name, values in features.items()}
        if fusion == "sum" and len(set(widths.values())) > 1:
            raise ValueError(f"fusion=sum needs modalities of one width; found {widths}. Use fusion=concat")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.n_items = len(next(iter(features.values())))  # padding included
        self.modalities = tuple(features)
        for name, values in features.items():
            self._hold(f"features_{name}", values)
            self._hold(f"present_{name}", present[name])
            self._hold(f"lengths_{name}", row_lengths(values).to(present[name].device) if normalize else None)
        self._hold("cold", None)

        self.fusion = FUSIONS[fusion](self.modalities, embedding_dim, std)
        def project(name: str) -> nn.Module:
            width = widths.get(name, max(widths.values()))
            inputs = len(widths) if fusion == "concat" else 1
            scale = ((1 if normalize else width) * inputs) ** -0.5
            if hidden_size is None:
                return FrozenLinear(width, embedding_dim, std=std, scale=scale)
            return FrozenMLP(width, hidden_size, embedding_dim, std=std, activation=activation, scale=scale)

        self.projection = ByModality({name: project(name) for name in self.fusion.names})
        self.offset = nn.Parameter(torch.zeros(embedding_dim))
        self.extra = nn.Parameter(torch.randn(num_embeddings - self.n_items, embedding_dim) * std)
        self.item_id = item_id
        joins = item_id is not None and item_id_fusion == "concat"
        self.join = ScaledLinear(2 * embedding_dim, embedding_dim, std=1.0) if joins else None
        self._forget_table()
        self._start_at(std)

    @property
    def missing(self) -> ByModality:
        """modality → (d,), what stands for it where an item lacks it."""
        return self.fusion.missing

    @property
    def weight(self) -> Tensor:
        """(rows, d), computed once for each state of the parameters."""
        state = self._state()
        if self._table is None or self._table_state != state:
            self._table, self._table_state = self._compute_table(), state
            if self._table.requires_grad:
                # After backward its graph is gone; a second loss must compute it anew.
                self._table.register_hook(self._forget_table)
        return self._table

    def forward(self, ids: Tensor) -> Tensor:
        """ids: any shape, in [0, rows). Returns: (*ids.shape, d)."""
        computed = self._table is not None and self._table_state == self._state()
        if computed or ids.numel() > self.n_items:
            return F.embedding(ids, self.weight)
        unique, places = torch.unique(ids, return_inverse=True)
        rows = self._compute_rows(unique.clamp(max=self.n_items - 1))
        if len(self.extra):
            beyond = unique >= self.n_items
            rows = torch.where(beyond.unsqueeze(1), self.extra[(unique - self.n_items).clamp(min=0)], rows)
        return F.embedding(places, rows)

    @torch.no_grad()
    def hold_out(self, cold: Tensor) -> None:
        """Keep items out of training: there they are what padding is, and their rows come from features alone.

        Args:
            cold: (items + 1,) bool.
        """
        if (cold.shape, cold.dtype) != ((self.n_items,), torch.bool):
            raise ValueError(f"cold is {tuple(cold.shape)} {cold.dtype}, not ({self.n_items},) bool")
        self.cold = cold.to(self.offset.device)
        if self.item_id is not None:
            self.item_id.weight[: self.n_items][self.cold] = 0
        self._forget_table()

    def train(self, mode: bool = True):
        # RecBole loads the best checkpoint while the model is in evaluation mode already.
        self._forget_table()
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, modalities={'+'.join(self.modalities)}"

    def __deepcopy__(self, memo):
        """A copy with parameters of its own that shares the features and has no table yet."""
        self._forget_table()
        frozen = [*self._buffers.values(), *(getattr(self, f"features_{name}") for name in self.modalities)]
        memo.update({id(values): values for values in frozen})
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def _apply(self, function, recurse=True):
        self._forget_table()
        return super()._apply(function, recurse)

    def _hold(self, name: str, values: Tensor | MappedTable | None) -> None:
        """Buffers follow the device; not persistent, since a checkpoint at every best epoch would hold them."""
        if isinstance(values, MappedTable):
            setattr(self, name, values)
        else:
            self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def _start_at(self, std: float) -> None:
        """Scale what rows are linear in, drawn as for independent modalities, to rows of deviation ``std``."""
        ids = torch.linspace(1, self.n_items - 1, min(self.n_items - 1, SAMPLED_ROWS)).long()
        found = self._compute_rows(ids.to(self.offset.device)).square().mean().sqrt()
        if not found > 0:
            return
        last = [getattr(projection, "last", projection).weight for projection in self.projection.values()]
        ids_too = [] if self.item_id is None else [self.item_id.weight]
        for learned in (*last, *self.missing.values(), *ids_too):
            learned *= std / found

    def _state(self) -> tuple:
        """All that the table depends on."""
        kind = self.offset.device.type
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
            *((parameter.data_ptr(), parameter._version) for parameter in self.parameters()),
        )

    def _forget_table(self, *_):
        self._table = self._table_state = None

    def _compute_table(self) -> Tensor:
        # What training computes it keeps for the backward pass; otherwise a hidden layer goes by in parts.
        step = self.n_items if torch.is_grad_enabled() else PART_ROWS
        starts = range(0, self.n_items, step)
        parts = [self._compute_rows(slice(start, min(start + step, self.n_items))) for start in starts]
        parts += [self.extra] if len(self.extra) else []
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _compute_rows(self, ids: slice | Tensor) -> Tensor:
        """Rows of some items, padding among them; (n, d)."""
        hidden, present = [], []
        for name in self.modalities:
            projection = self.projection[name] if name in self.projection else self.projection["mean"]
            values, here, lengths = (
                self._take(getattr(self, f"{what}_{name}"), ids) for what in ("features", "present", "lengths")
            )
            hidden.append(projection(values, lengths))
            present.append(here.unsqueeze(1))
        rows = self.fusion(hidden, present) + self.offset
        if self.item_id is not None:
            own = self.item_id.weight[ids] if isinstance(ids, slice) else self.item_id(ids)
            rows = rows + own if self.join is None else self.join(torch.cat([rows, own], dim=1))
        return rows * self._taking_part(ids)

    def _take(self, values: Tensor | MappedTable | None, ids: slice | Tensor):
        """The same for all items: what is on the disk must not be read whole."""
        return values if values is None or self._is_all(ids) else values[ids]

    def _is_all(self, ids: slice | Tensor) -> bool:
        return isinstance(ids, slice) and ids == slice(0, self.n_items)

    def _taking_part(self, ids: slice | Tensor) -> Tensor:
        """(n, 1) bool: all but padding and, in training, what is held out."""
        if isinstance(ids, slice):
            ids = torch.arange(ids.start, ids.stop, device=self.offset.device)
        taking_part = ids != 0
        if self.training and self.cold is not None:
            taking_part = taking_part & ~self.cold[ids]
        return taking_part.unsqueeze(1)
