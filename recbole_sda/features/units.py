"""The distinct contents of a modality: what is equal is embedded once, however many items have it."""

import hashlib
from dataclasses import dataclass

import numpy as np

from recbole_sda.catalog import Catalog
from recbole_sda.encoders import Prompts

CONTENT_BYTES = 16


@dataclass(frozen=True)
class Units:
    """A catalogue's contents in one modality, each once, in the order of their first item.

    Attributes:
        rows: (units,) the first catalogue row that has this content.
        of_item: (items,) each item's unit, -1 where the modality is missing.
        contents: (items, 16) uint8, digest of what the model is shown; zeros where it is missing.
    """

    rows: np.ndarray
    of_item: np.ndarray
    contents: np.ndarray


def distinct_units(contents: np.ndarray, present: np.ndarray) -> Units:
    """Args: contents: (items, 16) uint8; present: (items,) bool."""
    having = np.flatnonzero(present)
    keys = np.ascontiguousarray(contents[having]).view(f"V{CONTENT_BYTES}").ravel()
    _, first, unit = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # by first item instead of by digest
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    of_item = np.full(len(present), -1, dtype=np.int64)
    of_item[having] = rank[unit]
    return Units(having[first[order]], of_item, contents)


def content_digests(catalog: Catalog, prompts: Prompts, modality: str) -> np.ndarray:
    """(items, 16) uint8: of a text the prompt's line, of a file its bytes; zeros where the modality is missing."""
    digests = np.zeros((len(catalog), CONTENT_BYTES), dtype=np.uint8)
    if catalog.kinds[modality] == "text":
        for row in np.flatnonzero(catalog.present(modality)):
            line = prompts.line("text", modality, catalog.item(row))
            digests[row] = _bytes(hashlib.sha256(line.encode("utf-8", "surrogatepass")).digest())
    else:
        for row, content in enumerate(catalog.contents(modality)):
            if content:
                digests[row] = _bytes(bytes.fromhex(content))
    return digests


def _bytes(digest: bytes) -> np.ndarray:
    return np.frombuffer(digest[:CONTENT_BYTES], dtype=np.uint8)
