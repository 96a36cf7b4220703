"""Shards through the model: sorted and packed by tokens, files read ahead, one pass a modality.

1. A shard's items are counted in tokens, without opening their files, and packed into batches.
2. Worker processes read the files of the coming batches and make the model's inputs of them.
3. The model embeds batch after batch; a shard's embeddings leave the device together.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from recbole_sda.adapters.merged import merged
from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Backbone
from recbole_sda.encoders.batching import batches_by_tokens, collate_items
from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import array_dtype
from recbole_sda.features.parts import write_part
from recbole_sda.reading import read_ahead

logger = logging.getLogger(__name__)

NAMED = 5

Report = Callable[[int, int], None]  # items and tokens that are done


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """How the catalogue goes through the model; only ``dtype`` changes more than roundings.

    Args:
        batch_tokens: tokens that go through the model together, padding included.
        shard_items: items a shard.
        read_workers: processes that read files ahead; 0 reads them here.
        dtype: of what is stored: ``float16``, ``bfloat16`` or ``float32``.
    """

    batch_tokens: int
    shard_items: int
    read_workers: int
    dtype: str

    def count_shards(self, units: int) -> int:
        return math.ceil(units / self.shard_items)

    def shard(self, number: int) -> slice:
        return slice(number * self.shard_items, (number + 1) * self.shard_items)


class Batch(NamedTuple):
    """Items that go through the model together."""

    shard: int
    positions: list[int]  # within the shard
    rows: np.ndarray  # of the catalogue
    tokens: int  # without padding
    token_ids: list[list[int]] | None  # of a text pass, which is tokenised to be counted


@dataclass(frozen=True)
class ShardWriter:
    """Embeds shards of a catalogue with the backbone of this process, and writes them."""

    backbone: Backbone
    catalog: Catalog
    settings: EmbedSettings

    def __call__(
        self, modality: str, rows: np.ndarray, shards: Sequence[int], folder: Path, report: Report
    ) -> Iterator[dict]:
        """Args: as :func:`embed_shards` has them; folder: of the :class:`Parts`. Yields: the journal's entries."""
        self.backbone.eval()
        cut = self.backbone.texts_cut
        with merged(self.backbone.model, modality):
            for shard, values in embed_shards(
                self.backbone,
                self.catalog,
                modality,
                rows=rows,
                shards=shards,
                settings=self.settings,
                report=report,
            ):
                yield write_part(folder, shard, values)
        if cut := self.backbone.texts_cut - cut:
            limit = self.backbone.family.max_text_tokens
            logger.warning("%s: %d texts were cut to the model's limit of %d tokens", modality, cut, limit)


def embed_shards(
    backbone: Backbone,
    catalog: Catalog,
    modality: str,
    *,
    rows: np.ndarray,
    shards: Sequence[int],
    settings: EmbedSettings,
    report: Report,
) -> Iterator[tuple[int, np.ndarray]]:
    """Embed shards of the catalogue's rows, in order.

    Args:
        rows: (units,) the catalogue's rows, of all shards.
        shards: which to embed.
        report: called with the items and tokens of every batch that is done.

    Yields:
        A shard's number and its (units, width) embeddings in ``settings.dtype``.

    Raises:
        SDAError: embeddings that are not finite or do not fit the dtype; no memory left.
    """
    batches = _plan_batches(backbone, catalog, modality, rows, shards, settings)
    done: dict[int, list[tuple[list[int], Tensor]]] = {}
    remaining = {shard: len(rows[settings.shard(shard)]) for shard in shards}
    for batch, inputs in _inputs(backbone, catalog, modality, batches, settings.read_workers):
        done.setdefault(batch.shard, []).append((batch.positions, _embed(backbone, modality, inputs)))
        report(len(batch.rows), batch.tokens)
        remaining[batch.shard] -= len(batch.rows)
        if not remaining[batch.shard]:
            names = [catalog.tokens[row] for row in rows[settings.shard(batch.shard)]]
            yield batch.shard, _collect(done.pop(batch.shard), modality, names, settings.dtype)


def _plan_batches(backbone, catalog, modality, rows, shards, settings: EmbedSettings) -> Iterator[Batch]:
    """Lazily: a catalogue's token ids do not lie in memory together."""
    for shard in shards:
        own = rows[settings.shard(shard)]
        ids = None
        if catalog.kinds[modality] == "text":
            ids = backbone.encode_texts(modality, [catalog.item(row) for row in own])
            counts = np.array([len(one) for one in ids])
        else:
            counts = backbone.count_tokens(modality, catalog.sizes(modality)[own])
        for positions in batches_by_tokens(counts, settings.batch_tokens):
            token_ids = [ids[position] for position in positions] if ids else None
            yield Batch(shard, positions, own[positions], int(counts[positions].sum()), token_ids)


def _inputs(backbone, catalog, modality, batches, read_workers) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    if catalog.kinds[modality] == "text":  # ready but for the padding
        return ((batch, backbone.pad(batch.token_ids)) for batch in batches)
    return read_ahead(
        lambda batch: collate_items(catalog, backbone, modality, batch.rows), batches, workers=read_workers
    )


def _embed(backbone: Backbone, modality: str, inputs: dict[str, Tensor]) -> Tensor:
    try:
        with torch.inference_mode():
            return backbone(modality, inputs)
    except torch.OutOfMemoryError as error:
        reason = str(error).strip().splitlines()[0]
        raise SDAError(
            f"out of memory in the {modality} pass: {reason} Lower embed_batch_tokens or max_pixels; "
            "what is done is kept"
        ) from error


def _collect(parts: list[tuple[list[int], Tensor]], modality: str, names: list[str], dtype: str) -> np.ndarray:
    order = np.concatenate([positions for positions, _ in parts])
    embedded = torch.cat([vectors for _, vectors in parts]).cpu().numpy()  # (units, width)
    values = np.empty_like(embedded)
    values[order] = embedded
    largest = float(ml_dtypes.finfo(array_dtype(dtype)).max)
    broken = np.flatnonzero(~(np.abs(values) <= largest).all(axis=1))
    if len(broken):
        first = ", ".join(names[row] for row in broken[:NAMED])
        raise SDAError(
            f"{len(broken)} {modality} embeddings are not finite in feature_dtype={dtype} (items {first}); use "
            "feature_dtype=float32, and backbone_dtype=float32 if that does not help"
        )
    return values.astype(array_dtype(dtype))
