"""From finished shards to one array a modality, in the order of the store's items."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import array_dtype, create_array, row_chunks
from recbole_sda.features.layout import Layout, Sources
from recbole_sda.features.parts import Parts
from recbole_sda.features.shards import EmbedSettings
from recbole_sda.features.units import CONTENT_BYTES


def assemble(
    path: Path, modality: str, *, layout: Layout, sources: Sources, parts: Parts, settings: EmbedSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Write ``path``, (rows, width); it may be there already, half written by a run that was killed.

    Returns:
        (rows,) bool, which are present, and (rows, 16) uint8, their contents' digests.
    """
    if not len(sources.new) and layout.older is None:
        raise SDAError(f"no item has {modality}, so nothing says how wide its embeddings are; leave it out")
    width = parts.read(0).shape[1] if len(sources.new) else layout.older.width(modality)
    values = create_array(path, dtype=array_dtype(settings.dtype), shape=(len(layout.tokens), width))
    present = np.zeros(len(values), dtype=bool)
    contents = np.zeros((len(values), CONTENT_BYTES), dtype=np.uint8)
    if layout.older is not None:
        _copy_older(layout.older, modality, values, present, contents)
    for targets, vectors in _vectors(layout, modality, sources, parts, settings):
        values[targets] = vectors
    present[layout.rows] = sources.units.of_item >= 0
    contents[layout.rows] = sources.units.contents
    gone = layout.rows[sources.units.of_item < 0]  # had the modality in the older store, perhaps
    values[gone] = 0
    values.flush()
    return present, contents


def _copy_older(older, modality: str, values: np.ndarray, present: np.ndarray, contents: np.ndarray) -> None:
    rows = len(older)
    for chunk in row_chunks(rows, values.shape[1], values.itemsize):
        values[chunk] = older.values(modality)[chunk]
    present[:rows] = older.present(modality)
    contents[:rows] = older.contents(modality)


def _vectors(
    layout: Layout, modality: str, sources: Sources, parts: Parts, settings: EmbedSettings
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Store rows and what belongs there, a shard or a chunk at a time."""
    of_item = sources.units.of_item
    items = np.argsort(of_item, kind="stable")  # by unit, and so nearly in order
    items = items[of_item[items] >= 0]
    by_unit = of_item[items]
    new_number = np.full(len(sources.units.rows), -1, dtype=np.int64)
    new_number[sources.new] = np.arange(len(sources.new))
    number = new_number[by_unit]  # rises along the new units

    embedded, embedded_number = items[number >= 0], number[number >= 0]
    for shard in range(settings.count_shards(len(sources.new))):
        first, last = settings.shard(shard).start, settings.shard(shard).stop
        inside = slice(*np.searchsorted(embedded_number, [first, last]))
        yield layout.rows[embedded[inside]], parts.read(shard)[embedded_number[inside] - first]

    kept, kept_rows = items[number < 0], sources.older_rows[by_unit[number < 0]]
    if len(kept):
        older = layout.older.values(modality)
        for chunk in row_chunks(len(kept), older.shape[1], older.itemsize):
            yield layout.rows[kept[chunk]], older[kept_rows[chunk]]
