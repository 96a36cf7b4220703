"""Embeddings on disk: one memory-mapped ``.npy`` a modality, a mask of what is present, the item tokens.

::

    <store>/manifest.json      format, settings, shapes, SHA-256 of every file; written last
            items.txt          one item token a line, in row order
            image.npy          (items, width) float16, bfloat16 or float32; rows of missing items are 0
            image.present.npy  (items,) bool
            image.content.npy  (items, 16) uint8: digest of what was embedded; 0 where missing
            text.npy …         the same for each modality
            skipped.csv        every file that was refused, and why
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from recbole_sda.catalog.skipped import Skipped, read_skipped
from recbole_sda.errors import SDAError
from recbole_sda.features.arrays import array_dtype, open_array, prefetch
from recbole_sda.features.manifest import (
    DIGEST_BYTES,
    ITEMS,
    SKIPPED,
    check_size,
    checksums,
    file_names,
    read_manifest,
)
from recbole_sda.features.writing import write_store

__all__ = ["FeatureStore", "reusable_rows", "write_store"]

NAMED = 5
TAKEN_ROWS = 1024  # at once


class FeatureStore:
    """Read-only features of a catalogue; opening reads the manifest, no token and no embedding.

    Use :meth:`open`.

    Attributes:
        path: the folder.
        manifest: what made it, see :func:`write_store`.
    """

    def __init__(self, path: Path, manifest: dict):
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "FeatureStore":
        """Open a finished store.

        Args:
            path: its folder.
            verify: compare every file with its checksum; otherwise sizes and shapes only.

        Raises:
            SDAError: no store, another format, incomplete, or changed since it was written.
        """
        path = Path(path)
        store = cls(path, read_manifest(path))
        files = store.manifest["files"]
        for name, recorded in files.items():
            check_size(path / name, recorded)
        for modality in store.modalities:
            store._check_shapes(modality)
        if verify:
            for name, found in checksums(path, files, f"verify {path.name}").items():
                if found != files[name]["sha256"]:
                    raise SDAError(f"{path / name} does not match its checksum; embed again")
        return store

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.manifest["modalities"])

    @property
    def origin(self) -> str:
        """What its user knows it by: the file that it was imported from, or its folder."""
        return str(self.manifest["settings"].get("imported", self.path))

    @property
    def dtype(self) -> np.dtype:
        """Of the stored values."""
        return array_dtype(self.manifest["dtype"])

    @cached_property
    def tokens(self) -> list[str]:
        """Item token of every row."""
        try:
            text = (self.path / ITEMS).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise SDAError(f"{self.path / ITEMS} is not UTF-8 ({error}); embed again") from error
        # Not splitlines: it also splits at signs such as U+2028, which a token may hold.
        tokens = text.split("\n")[:-1]
        if len(tokens) != len(self):
            raise SDAError(f"{self.path / ITEMS} has {len(tokens)} items, the manifest {len(self)}; embed again")
        return tokens

    def __len__(self) -> int:
        return self.manifest["items"]

    def __repr__(self) -> str:
        widths = " + ".join(f"{modality} {self.width(modality)}" for modality in self.modalities)
        return f"FeatureStore({str(self.path)!r}, {len(self)} items, {widths}, {self.dtype})"

    def rows(self, tokens: Sequence[str]) -> np.ndarray:
        """(n,) int64: the row of each item.

        Raises:
            SDAError: the store lacks some; it names the first few and how many.
        """
        rows = self.find(tokens)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            raise SDAError(
                f"{self.path} lacks {len(unknown)} of {len(tokens)} items, the first "
                f"{', '.join(repr(tokens[i]) for i in unknown[:NAMED])}"
            )
        return rows

    def find(self, tokens: Sequence[str]) -> np.ndarray:
        """(n,) int64: the row of each item, −1 for items that the store lacks."""
        row_of = self._row_of
        return np.fromiter((row_of.get(token, -1) for token in tokens), dtype=np.int64, count=len(tokens))

    def get(self, modality: str, tokens: Sequence[str]) -> np.ndarray:
        """(n, width) float32: these items' embeddings; 0 where missing, see :meth:`present`."""
        return self.take(modality, self.rows(tokens)).astype(np.float32, copy=False)

    def take(self, modality: str, rows: np.ndarray) -> np.ndarray:
        """(n, width) in the store's dtype: a copy of some rows, read in the order on disk."""
        order = np.argsort(rows, kind="stable")
        taken = np.empty((len(rows), self.width(modality)), dtype=self.dtype)
        for start in range(0, len(rows), TAKEN_ROWS):
            part = order[start : start + TAKEN_ROWS]
            values = self.values(modality)  # mapped anew: the pages around each row count as memory until then
            prefetch(values, rows[part])
            taken[part] = values[rows[part]]
        return taken

    def width(self, modality: str) -> int:
        return self.manifest["modalities"][self._known(modality)]["width"]

    def values(self, modality: str) -> np.ndarray:
        """(items, width), memory-mapped; rows of missing items are 0."""
        return open_array(self.path / f"{self._known(modality)}.npy")

    def present(self, modality: str) -> np.ndarray:
        """(items,) bool."""
        return np.array(open_array(self.path / f"{self._known(modality)}.present.npy"))

    def contents(self, modality: str) -> np.ndarray | None:
        """(items, 16) uint8, memory-mapped: digest of what was embedded, 0 where missing; None if unknown."""
        if not self.manifest["modalities"][self._known(modality)]["contents"]:
            return None
        return open_array(self.path / f"{modality}.content.npy")

    def skipped(self) -> list[Skipped]:
        """Every file that was refused, and why."""
        return read_skipped(self.path / SKIPPED)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        row_of = {token: row for row, token in enumerate(self.tokens)}
        if len(row_of) != len(self):
            raise SDAError(f"{self.path / ITEMS} names some items twice; embed again")
        return row_of

    def _known(self, modality: str) -> str:
        if modality not in self.modalities:
            raise SDAError(f"{self.path} holds {', '.join(self.modalities)}; it has no modality {modality!r}")
        return modality

    def _check_shapes(self, modality: str) -> None:
        entry, items = self.manifest["modalities"][modality], len(self)
        needed = (
            ((items, entry["width"]), self.dtype),
            ((items,), np.dtype(bool)),
            ((items, DIGEST_BYTES), np.dtype(np.uint8)),
        )
        for name, (shape, dtype) in zip(file_names(modality, entry["contents"]), needed, strict=False):
            array = open_array(self.path / name)
            if (array.shape, array.dtype) != (shape, dtype):
                raise SDAError(
                    f"{self.path / name} is {array.shape} {array.dtype}, the manifest says {shape} {dtype}; "
                    "embed again"
                )


def reusable_rows(store: FeatureStore, modality: str, contents: np.ndarray) -> np.ndarray:
    """For each new item the row that was made of its content.

    Content is all that is compared: that the store's settings are the new ones is the caller's to check.

    Args:
        contents: (n, 16) uint8, digest of what each item has to embed; 0 where it has nothing.

    Returns:
        (n,) int64; −1 where there is none, or nothing to embed.

    Raises:
        SDAError: the store does not know its contents.
    """
    known = store.contents(modality)
    if known is None:
        raise SDAError(f"{store.path} does not say what its {modality} rows were made of; embed without append")
    same = _groups(np.concatenate([known, contents]))  # (items + n,)
    row_of = np.full(len(same), -1, dtype=np.int64)
    # Backwards: of several rows with one content the first stays.
    rows = np.flatnonzero(store.present(modality) & known.any(axis=1))[::-1]
    row_of[same[rows]] = rows
    return row_of[same[len(known) :]]


def _groups(digests: np.ndarray) -> np.ndarray:
    """(n,) int64: equal numbers for equal digests."""
    halves = np.ascontiguousarray(digests).view(np.uint64)  # (n, 2)
    order = np.lexsort(halves.T)
    lies = halves[order]
    groups = np.empty(len(digests), dtype=np.int64)
    groups[order] = np.cumsum(np.concatenate([[False], (lies[1:] != lies[:-1]).any(axis=1)])[: len(digests)])
    return groups
