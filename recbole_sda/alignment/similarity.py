"""What every alignment loss shares: how embeddings become comparable, which are compared, and in what portions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MIN_CENTERED_ROWS = 3
MIN_ROWS = 2
MIN_TEMPERATURE = 1e-2  # a learned temperature goes no lower
Direction = tuple[int, int]


def center_and_normalize(embeddings: Tensor, *, center: bool = True, normalize: bool = True) -> Tensor:
    """Unit rows, after the mean over the rows is taken away.

    Mean-pooled language-model embeddings share one dominant direction: pairwise cosines lie within
    thousandths of each other. Without that direction the rest of the geometry becomes visible, and the
    trivial optimum in which all embeddings fall together is gone.

    Args:
        embeddings: (B, d), any floating dtype; computed in float32, float64 stays as it is.
        center: subtract the mean row first.
        normalize: divide each row by its length.

    Returns:
        (B, d).

    Raises:
        ValueError: fewer than three rows to centre: two centred rows are always opposite.
    """
    embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    if center:
        if len(embeddings) < MIN_CENTERED_ROWS:
            raise ValueError(
                f"{len(embeddings)} rows cannot be centred: give at least {MIN_CENTERED_ROWS} items "
                "to a batch, or set center=False"
            )
        embeddings = embeddings - embeddings.mean(dim=0, keepdim=True)
    return F.normalize(embeddings, dim=-1) if normalize else embeddings


@dataclass(frozen=True)
class LossParts:
    """A loss and what it is made of.

    Attributes:
        loss: the scalar to minimise; carries the gradient.
        divergence: (query, key) → how far the student is from its target, mean over the items, in nats.
        teacher_entropy: (query, key) → entropy of the target, mean over the items, in nats.
    """

    loss: Tensor
    divergence: dict[Direction, Tensor]
    teacher_entropy: dict[Direction, Tensor]


class AlignmentLoss(nn.Module):
    """A loss between the embeddings of the same B items in two or more modalities, by pairs.

    The loss of a pair is the mean of its two directions, and of several pairs the mean of the pairs.
    The rows of a pair's (B, B) comparison are computed ``chunk_rows`` at a time and once more in the
    backward pass, so that memory grows with B and not with B².

    Subclasses give :meth:`compare`.

    Args:
        temperature: τ, divides the similarities before the softmax; greater than 0.
        center, normalize: see :func:`center_and_normalize`. Centred is each modality over all its present rows.
        learn_temperature: τ is a parameter that starts at ``temperature`` and stays at 0.01 or above.
        chunk_rows: rows of the comparison that are in memory at once.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        center: bool = True,
        normalize: bool = True,
        learn_temperature: bool = False,
        chunk_rows: int = 256,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be greater than 0, for example 0.05")
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows={chunk_rows} must be 1 or more; 256 suits most machines")
        self.start_temperature = float(temperature)
        if learn_temperature and temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"temperature={temperature} with learn_temperature=True must be {MIN_TEMPERATURE} or more"
            )
        start = torch.tensor(self.start_temperature)
        self.learned_temperature = nn.Parameter(start) if learn_temperature else None
        self.center = center
        self.normalize = normalize
        self.chunk_rows = chunk_rows

    @property
    def temperature(self) -> float | Tensor:
        """τ, with its gradient where it is learned."""
        if self.learned_temperature is None:
            return self.start_temperature
        # clamped in value only: a gradient that stops at the bound would never lead back from it
        learned = self.learned_temperature
        return learned + (learned.clamp(min=MIN_TEMPERATURE) - learned).detach()

    @property
    def current_temperature(self) -> float:
        """τ as a plain number."""
        return float(torch.as_tensor(self.temperature).detach())

    @property
    def needs_base(self) -> bool:
        """Whether :meth:`parts` asks for ``base``."""
        return False

    @property
    def needs_items(self) -> bool:
        """Whether :meth:`parts` asks for ``items``, which :meth:`compare` then gets."""
        return False

    @property
    def min_rows(self) -> int:
        """Fewest items that can be compared."""
        return MIN_CENTERED_ROWS if self.center else MIN_ROWS

    @property
    def min_pair_rows(self) -> int:
        """Fewest items that a pair of modalities has to share, where it does not share the whole batch."""
        return self.min_rows

    def forward(
        self,
        *embeddings: Tensor,
        present: Sequence[Tensor] | None = None,
        base: Sequence[Tensor] | None = None,
        items: Tensor | None = None,
    ) -> Tensor:
        """The loss alone, a scalar; arguments and errors as in :meth:`parts`."""
        return self.parts(*embeddings, present=present, base=base, items=items).loss

    def parts(
        self,
        *embeddings: Tensor,
        present: Sequence[Tensor] | None = None,
        base: Sequence[Tensor] | None = None,
        items: Tensor | None = None,
    ) -> LossParts:
        """The loss and its parts.

        Args:
            embeddings: one (B, d) a modality; row i of all belongs to item i.
            present: one (B,) bool a modality, False where the item lacks it: that row is read by nobody. A pair
                of modalities compares the items that have both; a pair with too few of them is left out.
            base: one (B, d) a modality from the frozen base model, for a loss whose teacher it is.
            items: (B,) int64, which items they are, for a loss that treats some unlike others.

        Raises:
            ValueError: shapes that differ, rows that are not finite, a modality without a single item, too few
                items to compare.
        """
        present = _check(embeddings, present)
        items = self._checked_items(items, embeddings[0])
        # The softmax of cosines divided by a small temperature overflows half precision.
        with torch.autocast(embeddings[0].device.type, enabled=False):
            views = [self._view(rows, mask) for rows, mask in zip(embeddings, present, strict=True)]
            teachers = self.teacher_views(views, present, base)
            divergence, entropy = {}, {}
            for i, j in combinations(range(len(views)), 2):
                both = present[i] & present[j]
                count = int(both.sum())
                if count < (self.min_rows if count == len(both) else self.min_pair_rows):
                    continue
                pair = [rows if count == len(both) else rows[both] for rows in (views[i], views[j])]
                taught = [rows if count == len(both) else rows[both] for rows in (teachers[i], teachers[j])]
                told = {"items": items if count == len(both) else items[both]} if self.needs_items else {}
                sums = self.compare(pair, taught, **told) / count  # (2 directions, 2 measures)
                divergence |= {(i, j): sums[0, 0], (j, i): sums[1, 0]}
                entropy |= {(i, j): sums[0, 1].detach(), (j, i): sums[1, 1].detach()}
            if not divergence:
                raise ValueError(
                    f"no two modalities share {self.min_pair_rows} items in this batch of {len(embeddings[0])}; "
                    f"center={self.center} needs so many to compare: give a larger batch"
                )
            loss = torch.stack(list(divergence.values())).mean()
            return LossParts(loss, {key: value.detach() for key, value in divergence.items()}, entropy)

    def teacher_views(
        self, views: list[Tensor], present: Sequence[Tensor], base: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """The rows whose structure teaches, one (B, d) a modality; here the compared rows themselves."""
        return views

    def compare(self, pair: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Both directions of a pair of modalities.

        Args:
            pair, teachers: (B, d) a modality.

        Returns:
            (2, 2), summed over the rows: divergence and teacher's entropy of first→second and second→first.
        """
        raise NotImplementedError

    def map_chunks(self, function: Callable[[slice], Tensor], count: int) -> list[Tensor]:
        """``function`` of every chunk of ``count`` rows; more than one are computed again in the backward pass."""
        firsts = range(0, count, self.chunk_rows)
        rows = [slice(first, min(first + self.chunk_rows, count)) for first in firsts]
        if len(rows) == 1:
            return [function(rows[0])]
        return [checkpoint(function, part, use_reentrant=False, preserve_rng_state=False) for part in rows]

    def _checked_items(self, items: Tensor | None, embeddings: Tensor) -> Tensor | None:
        if not self.needs_items:
            return None
        if items is None or items.shape != embeddings.shape[:1]:
            found = None if items is None else tuple(items.shape)
            raise ValueError(f"this loss needs items of shape ({len(embeddings)},), which they are; found {found}")
        return items.to(embeddings.device)

    def _view(self, embeddings: Tensor, present: Tensor) -> Tensor:
        """(B, d); rows that are not present stay zero."""
        if int(present.sum()) < self.min_rows:
            return embeddings  # compared with nobody
        if present.all():
            return center_and_normalize(embeddings, center=self.center, normalize=self.normalize)
        view = center_and_normalize(embeddings[present], center=self.center, normalize=self.normalize)
        return torch.zeros(embeddings.shape, dtype=view.dtype, device=view.device).masked_scatter(
            present.unsqueeze(1), view
        )

    def extra_repr(self) -> str:
        learned = ", learn_temperature=True" if self.learned_temperature is not None else ""
        plain = "" if self.normalize else ", normalize=False"
        return f"temperature={self.start_temperature:g}, center={self.center}{plain}{learned}"


def _check(embeddings: Sequence[Tensor], present: Sequence[Tensor] | None) -> list[Tensor]:
    """Returns: a mask for every modality."""
    shapes = [tuple(rows.shape) for rows in embeddings]
    if len(shapes) < 2 or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(
            "two or more modalities of the same (items, width) shape are compared; found "
            f"shapes {', '.join(map(str, shapes)) or 'none'}"
        )
    device, count = embeddings[0].device, shapes[0][0]
    if present is None:
        present = [torch.ones(count, dtype=torch.bool, device=device)] * len(shapes)
    found = [tuple(mask.shape) for mask in present]
    if found != [(count,)] * len(shapes) or any(mask.dtype != torch.bool for mask in present):
        raise ValueError(f"present needs a bool mask of shape ({count},) for each modality; found shapes {found}")
    for number, (rows, mask) in enumerate(zip(embeddings, present, strict=True)):
        if not mask.any():
            raise ValueError(
                f"embeddings[{number}]: none of the {count} items has this modality; leave it out, "
                "or draw other items"
            )
        broken = (~rows.isfinite().all(dim=1) & mask.to(rows.device)).nonzero().flatten()
        if len(broken):
            raise ValueError(
                f"embeddings[{number}]: {len(broken)} of {count} rows are not finite, the first is row "
                f"{int(broken[0])}; mark what is missing in `present`, or look for an overflow in the encoder"
            )
    return [mask.to(device) for mask in present]
