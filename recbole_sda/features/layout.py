"""Where every vector of a store comes from: a shard that is embedded now, or a store that is appended to."""

from dataclasses import dataclass

import numpy as np

from recbole_sda.catalog import Catalog
from recbole_sda.features.store import FeatureStore, reusable_rows
from recbole_sda.features.units import Units


@dataclass(frozen=True)
class Layout:
    """The rows of the store to be: those of the older store first, then the catalogue's new items.

    Attributes:
        tokens: item token of every row.
        rows: (items,) the store's row of each item of the catalogue.
        older: the store that is appended to, or None.
    """

    tokens: list[str]
    rows: np.ndarray
    older: FeatureStore | None

    @classmethod
    def of(cls, catalog: Catalog, older: FeatureStore | None) -> "Layout":
        if older is None:
            return cls(list(catalog.tokens), np.arange(len(catalog)), None)
        row_of = {token: row for row, token in enumerate(older.tokens)}
        for token in catalog.tokens:
            row_of.setdefault(token, len(row_of))
        return cls(list(row_of), np.array([row_of[token] for token in catalog.tokens], dtype=np.int64), older)


@dataclass(frozen=True)
class Sources:
    """Where one modality's vectors come from.

    Attributes:
        units: the contents of the catalogue.
        new: (new units,) those of them that have to be embedded.
        older_rows: (units,) the older store's row with the same content, -1 for the new ones.
    """

    units: Units
    new: np.ndarray
    older_rows: np.ndarray

    @classmethod
    def of(cls, units: Units, modality: str, older: FeatureStore | None) -> "Sources":
        older_rows = np.full(len(units.rows), -1, dtype=np.int64)
        if older is not None:
            older_rows = reusable_rows(older, modality, units.contents[units.rows])
        return cls(units, np.flatnonzero(older_rows < 0), older_rows)

    @property
    def rows(self) -> np.ndarray:
        """(new units,) the catalogue's rows to embed."""
        return self.units.rows[self.new]
