"""From catalogue rows to model inputs: which items go through the model together, and what they bring."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from recbole_sda.catalog import Catalog
from recbole_sda.encoders.backbone import Backbone


def batches_by_tokens(counts: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in ``counts``, longest first, in batches of at most ``budget`` tokens with padding.

    The longest come first so that a batch that does not fit in memory fails at the start. An item
    longer than the budget goes alone.
    """
    batch: list[int] = []
    longest = 0
    for position in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        if not batch:
            longest = counts[position]
        batch.append(position)
    if batch:
        yield batch


def collate_items(catalog: Catalog, backbone: Backbone, modality: str, rows: Sequence[int]) -> dict[str, Tensor]:
    """Model inputs of some of a catalogue's items in one modality; their files are read now."""
    files = () if backbone.kinds[modality] == "text" else [catalog.load(modality, row) for row in rows]
    return backbone.collate(modality, [catalog.item(row) for row in rows], files)
